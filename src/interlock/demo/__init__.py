"""The demonstration: each step runs the real thing and keeps what it measured."""
