"""Replace a file in one step, so that a reader sees all of the old content or all of the new."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from interlock.kernel.errors import StorageError


def replace_file(path: Path, data: bytes, *, parents: bool = False) -> None:
    """Write `data` as the whole content of `path`, synced to the disk; make its `parents` if asked.

    A writer that is killed leaves at most one hidden file, which the next one overwrites. Several
    writers take turns. The new file has the permissions of a newly made one. Raises StorageError
    where the file system refuses, and for what `refuse_special` refuses; the old content then
    stands.
    """
    target = path.absolute()
    partial = target.with_name(f".{target.name}.partial")
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            refuse_special(target)
            with open(partial, "wb", opener=_fresh) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="choose a file in a directory that can be written to",
        ) from None


def refuse_special(target: Path) -> None:
    """Raise OSError unless a file may be put in the place of `target`.

    A device, a pipe or a socket would be gone for everybody, and so would `/dev/stdout`, a link to
    what this process has open.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is no file but a device, a pipe or a socket")
    if target.is_symlink() and target.readlink().is_relative_to("/proc"):
        raise OSError("it is no file but a link to an open one")


def _fresh(name: str, flags: int) -> int:
    """A file of our own: whatever a dead writer or someone else left there is taken away first."""
    Path(name).unlink(missing_ok=True)
    return os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
