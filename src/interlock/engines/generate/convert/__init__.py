"""From GGUF files and Hugging Face directories to bundles, without torch."""
