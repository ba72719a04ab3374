"""Circuits and keys on disk, named by what they are made from, within a size.

An entry is a directory that appears in one rename once everything in it is written and synced,
so a process that dies leaves at most a hidden directory, which the next one to make that entry
removes. One process makes an entry while others wait for it. The least recently used entries go
when the store grows above its size; one that is in use is not removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from interlock.kernel.errors import InterlockError, StorageError
from interlock.kernel.replace_file import replace_file
from interlock.verified.proof_system import (
    COMPILED,
    GRAPH,
    PROVING_KEY,
    SETTINGS,
    VERIFYING_KEY,
)

DEFAULT_SIZE = 8 << 30
"""Bytes of keys that are kept."""

_ABOUT = "about.json"
_USED = "used"
_FILES = (GRAPH, SETTINGS, COMPILED, VERIFYING_KEY, PROVING_KEY)


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an entry holds: sizes of its files, digest of its verifying key, circuit's size."""

    sizes: dict[str, int]
    verifying_key_sha256: str
    rows: int
    logrows: int
    srs_sha256: str


class KeyStore:
    """A directory of circuits with their keys. Safe across threads and processes.

    size  bytes that it may keep; a single entry may exceed them
    """

    def __init__(self, directory: Path, *, size: int = DEFAULT_SIZE) -> None:
        self.directory = directory
        self.size = size

    def path(self, digest: str) -> Path:
        """Where the entry is, or would be."""
        return self.directory / digest

    def about(self, digest: str) -> About | None:
        """What a complete entry holds; None where there is none, or a file of it is cut short."""
        entry = self.path(digest)
        try:
            about = msgspec.json.decode((entry / _ABOUT).read_bytes(), type=About)
            whole = all((entry / name).stat().st_size == about.sizes[name] for name in _FILES)
        except (OSError, msgspec.MsgspecError, KeyError):
            return None
        return about if whole else None

    @contextmanager
    def use(self, digest: str) -> Iterator[Path | None]:
        """The entry's directory, kept from removal meanwhile; None where there is none."""
        with _shared(self._lock_path(digest)):
            if self.about(digest) is None:
                yield None
                return
            (self.path(digest) / _USED).touch()
            yield self.path(digest)

    def make(self, digest: str, build: Callable[[Path], tuple[int, int, str]]) -> About:
        """The entry, made by `build` where it is missing.

        `build` gets an empty directory to write the files of a circuit into, and returns its
        rows, logrows and the digest of its SRS. Raises what it raises, and StorageError.
        """
        found = self.about(digest)
        if found is not None:
            return found
        staging = self.directory / f".{digest}.partial"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock_path(digest).with_suffix(".making")):
                found = self.about(digest)
                if found is not None:
                    return found
                # Whatever is there was left by a process that died.
                shutil.rmtree(staging, ignore_errors=True)
                shutil.rmtree(self.path(digest), ignore_errors=True)
                staging.mkdir()
                try:
                    rows, logrows, srs = build(staging)
                    about = self._finish(staging, rows, logrows, srs)
                    staging.rename(self.path(digest))
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
                sync(self.directory)
        except InterlockError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot write keys below {self.directory}: {error.strerror or error}",
                hint="free some space, or name another cache directory",
            ) from None
        self.trim(keep=digest)
        return about

    def trim(self, keep: str | None = None) -> list[str]:
        """Remove the least recently used entries above the size; returns their digests.

        What a process that died left half made goes too.
        """
        self._sweep()
        entries = []
        for entry in self.directory.glob("[0-9a-f]*"):
            about = self.about(entry.name) if entry.is_dir() else None
            if about is None:
                continue
            try:
                used = (entry / _USED).stat().st_mtime_ns
            except OSError:  # another process removes it at this moment
                used = 0
            entries.append((used, entry.name, sum(about.sizes.values())))
        total = sum(size for _, _, size in entries)
        removed = []
        for _, digest, size in sorted(entries):
            if total <= self.size:
                break
            if digest == keep or not self._remove(digest):
                continue
            total -= size
            removed.append(digest)
        return removed

    def _sweep(self) -> None:
        """Remove hidden directories that nobody is making."""
        for staging in self.directory.glob(".*.partial"):
            making = FileLock(staging.with_suffix(".making"), timeout=0)
            try:
                with making:
                    shutil.rmtree(staging, ignore_errors=True)
            except (OSError, Timeout):
                continue

    def _remove(self, digest: str) -> bool:
        """Whether the entry was removed; it is not while somebody uses it."""
        try:
            with _exclusive(self._lock_path(digest)):
                gone = self.directory / f".{digest}.removed"
                shutil.rmtree(gone, ignore_errors=True)
                self.path(digest).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        except (OSError, Timeout):
            return False
        return True

    def _finish(self, staging: Path, rows: int, logrows: int, srs: str) -> About:
        for name in _FILES:
            sync(staging / name)
        about = About(
            sizes={name: (staging / name).stat().st_size for name in _FILES},
            verifying_key_sha256=hashlib.sha256((staging / VERIFYING_KEY).read_bytes()).hexdigest(),
            rows=rows,
            logrows=logrows,
            srs_sha256=srs,
        )
        (staging / _USED).touch()
        replace_file(staging / _ABOUT, msgspec.json.encode(about))
        sync(staging)
        return about

    def _lock_path(self, digest: str) -> Path:
        return self.directory / f".{digest}.lock"


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Raises BlockingIOError where somebody holds it."""
    import fcntl

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def sync(path: Path) -> None:
    """Wait until a file, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
