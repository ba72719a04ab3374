"""Two versions of a model side by side, and which of them stays."""
