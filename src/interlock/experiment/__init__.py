"""Experiments on chat models: many prompts, several models, every answer recorded once."""
