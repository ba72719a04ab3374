"""A log of events: one JSON object a line, appended so that a crash costs at most its own line."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from interlock.kernel.errors import InputError, StorageError

EventLogger = Callable[[Mapping[str, object]], None]
"""Takes one event: `event` names it, the other keys are JSON's types."""

# Of a last line without an end; events are far shorter.
_LONGEST_LOOK = 1 << 20


class JsonlLogger:
    """Appends events to a file; call it with a mapping.

    Every line gets `time`, in UTC, unless the event brings its own. A call returns when the line
    is with the operating system: no death of this process can lose it, though a power cut may.
    Threads and processes may share one file, and one that is renamed away is followed by a fresh
    one. Where a writer was killed within a line, the next call removes what it left.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], datetime] | None = None
    ) -> None:
        """Make the file and the directories above it; raises StorageError where that fails, and
        where something else is there.

        now   gives the time of an event, by default the system's
        """
        self.path = Path(path)
        self._now = now or (lambda: datetime.now(UTC))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(self.path, error) from None
        self._append(b"")

    def __call__(self, event: Mapping[str, object]) -> None:
        """Append one event.

        Raises InputError for what JSON cannot carry, and StorageError where the file system
        refuses; nothing of the event is then in the file.
        """
        fields = dict(event)
        fields.setdefault("time", self._now().isoformat(timespec="milliseconds"))
        try:
            line = msgspec.json.encode(fields, enc_hook=_plain)
        except (TypeError, ValueError) as error:
            raise InputError(f"the event cannot be written as JSON: {error}") from None
        self._append(line + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            # Without a mode it would be executable.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o666)
            try:
                # Whoever holds the lock is alive, so a line without an end is a dead writer's.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                end = _end_of_last_line(descriptor)
                try:
                    while line:
                        line = line[os.write(descriptor, line) :]
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _refused(self.path, error) from None


def read_events(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The events of a log, in order, also while it is being written.

    A last line without an end is left out: its writer is at it, or died. Raises InputError, with
    the number of the line, for one that is no JSON object, and StorageError.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield msgspec.json.decode(line, type=dict[str, Any])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise InputError(f"{path}: line {number} is not a JSON object") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None


def _end_of_last_line(descriptor: int) -> int:
    """Cut off a last line without an end; the length of what is left."""
    size = os.fstat(descriptor).st_size
    end = size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        start = max(0, end - 65_536)
        block = os.pread(descriptor, end - start, start)
        end = start + block.rfind(b"\n") + 1
    if end < size:
        if not _begins_an_event(os.pread(descriptor, min(size - end, _LONGEST_LOOK), end)):
            raise OSError("it is something else than a log of events")
        os.ftruncate(descriptor, end)
    return end


def _begins_an_event(rest: bytes) -> bool:
    """Whether a writer of events may have left `rest`; one that is whole has its time."""
    if not rest.startswith(b"{"):
        return False
    try:
        return "time" in msgspec.json.decode(rest, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__}")


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="look at the free space and the permissions of the directory above it",
    )
