"""What an answer is, and what may happen to it. Knows no model."""
