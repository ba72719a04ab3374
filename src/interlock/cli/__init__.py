"""The command line: one file a verb, loaded only when it is called."""

from __future__ import annotations

from interlock.cli.app import main

__all__ = ["main"]
