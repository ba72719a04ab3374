"""`checkpoint.json`: there while a run is unfinished. Deleting it asks for a fresh start.

    {"completed": {"claude-3-5-sonnet-20241022_temp0.0": true}, "last_model_index": 1}

The journal, not this file, knows what was answered; the file says which models are complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from interlock.kernel.errors import StorageError
from interlock.kernel.replace_file import replace_file

NAME = "checkpoint.json"


def exists(directory: Path) -> bool:
    """Whether there is a checkpoint."""
    return (directory / NAME).exists()


def write(directory: Path, completed: Iterable[str]) -> None:
    """Write which variants are complete; raises StorageError."""
    done = list(completed)
    document = {"completed": dict.fromkeys(done, True), "last_model_index": len(done)}
    data = msgspec.json.format(msgspec.json.encode(document), indent=2)
    replace_file(directory / NAME, data + b"\n")


def remove(directory: Path) -> None:
    """Remove the checkpoint, if there is one; raises StorageError."""
    try:
        (directory / NAME).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot remove {directory / NAME}: {error.strerror or error}", hint=""
        ) from None
