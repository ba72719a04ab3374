"""Prompt-injection detection: disguises taken off a text, and rules that find orders in it."""
