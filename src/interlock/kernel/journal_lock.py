"""Exclusive holds, as lock files: on the runs of a journal in `<journal>.locks/`, or on any path.

The operating system owns the lock: it is free as soon as the holder's process ends, also by
kill -9, and forked children do not keep it.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from interlock.kernel.errors import StorageError

PROBE_SECONDS = 0.5


class FileHold:
    """A lock file that this process holds until `release`."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    @classmethod
    def take(cls, journal: Path, name: str) -> FileHold | None:
        """Hold `name`, or None where it is held already, by this or another process."""
        # `is_held` holds the lock for a moment, which must not look like a holder.
        return cls._acquire(journal, name, timeout=PROBE_SECONDS)

    @classmethod
    def on(cls, path: Path) -> FileHold | None:
        """Hold the lock file `path`, or None where it is held; raises StorageError."""
        return cls._lock_file(path, timeout=0)

    @classmethod
    def is_held(cls, journal: Path, name: str) -> bool:
        """Whether `name` is held at this moment, by this or another process."""
        if not (lock_directory(journal) / f"{name}.lock").exists():
            return False
        try:
            hold = cls._acquire(journal, name, timeout=0)
        except StorageError:
            return False  # only readers who may not lock come here, and they only look
        if hold is not None:
            hold.release()
        return hold is None

    @classmethod
    def _acquire(cls, journal: Path, name: str, *, timeout: float) -> FileHold | None:
        directory = lock_directory(journal)
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)
        except OSError as error:
            raise _refused(directory / f"{name}.lock", error) from error
        return cls._lock_file(directory / f"{name}.lock", timeout=timeout)

    @classmethod
    def _lock_file(cls, path: Path, *, timeout: float) -> FileHold | None:
        try:
            # A soft lock would outlive kill -9, and a thread-local one would not keep others out.
            lock = FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)
            lock.acquire(timeout=timeout)
        except Timeout:
            return None
        except OSError as error:
            raise _refused(path, error) from error
        return cls(lock)

    def release(self) -> None:
        """Let go; releasing twice does nothing."""
        self._lock.release()

    def remove(self) -> None:
        """Delete the lock file while it is held; who waits for it starts over with a new one."""
        if os.name == "posix":
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> FileHold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot lock {path}: {error.strerror or error}",
        hint="check who owns the directory and that there is space",
    )


def lock_directory(journal: Path) -> Path:
    """Where the lock files of `journal` are."""
    return journal.with_name(f"{journal.name}.locks")
