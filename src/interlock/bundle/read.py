"""Read a bundle's files: each opened once, looked at through that descriptor, read once.

The directory is opened first and every file relative to it, so a directory that is replaced in
the meantime cannot mix two bundles. The path that names the directory may itself be a symlink,
resolved at that moment; nothing inside may be one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interlock.kernel.errors import BundleFormatError, BundleIntegrityError

_PART = 1 << 20  # bytes


class VanishedFileError(BundleIntegrityError):
    """A file that the directory must hold is not there."""


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """A descriptor of the directory `path`; raises BundleFormatError where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleFormatError(f"there is no bundle at {path}", hint="check the path") from None
    except NotADirectoryError:
        raise BundleFormatError(
            f"{path} is not a directory", hint="name the bundle's directory, not a file in it"
        ) from None
    except OSError as error:
        raise BundleFormatError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(directory: int, name: str, *, limit: int, links: bool = False) -> bytes:
    """The content of the regular file `name` in the directory with that descriptor.

    Raises VanishedFileError where it is missing, BundleFormatError for a symlink, a hard link,
    anything that is not a regular file, and more than `limit` bytes. `links` lets links pass.
    """
    with _opened(directory, name, limit, links) as (descriptor, size):
        return _read(descriptor, size, name)


def hash_file(directory: int, name: str, *, limit: int) -> tuple[int, str]:
    """Bytes and hexadecimal SHA-256 of such a file, which is never in memory as a whole.

    Raises as `read_file` does.
    """
    digest, length = hashlib.sha256(), 0
    with _opened(directory, name, limit, links=False) as (descriptor, size):
        while length <= size and (part := os.read(descriptor, _PART)):
            digest.update(part)
            length += len(part)
    if length != size:
        raise BundleIntegrityError(f"{name} changed while it was read")
    return length, digest.hexdigest()


@contextmanager
def _opened(directory: int, name: str, limit: int, links: bool) -> Iterator[tuple[int, int]]:
    """A descriptor of the file and its size; raises as `read_file` does."""
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        raise VanishedFileError(f"{name} is missing") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise BundleFormatError(f"{name} is a symbolic link") from None
        raise BundleFormatError(f"{name} cannot be opened: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleFormatError(f"{name} is not a regular file")
        if status.st_nlink == 0:
            raise VanishedFileError(f"{name} was removed while it was read")
        if status.st_nlink > 1 and not links:
            raise BundleFormatError(f"{name} is a hard link: it has {status.st_nlink} names")
        if status.st_size > limit:
            raise BundleFormatError(f"{name} has {status.st_size} bytes; the limit is {limit}")
        yield descriptor, status.st_size
    except OSError as error:
        raise BundleIntegrityError(f"{name} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int, name: str) -> bytes:
    """`size` bytes and the end of the file, or BundleIntegrityError."""
    data = os.read(descriptor, size + 1)
    if len(data) < size:  # one call returns 2 GiB at most, and less after a signal
        parts = [data]
        while parts[-1]:
            parts.append(os.read(descriptor, size + 1 - sum(map(len, parts))))
        data = b"".join(parts)
    if len(data) != size:
        raise BundleIntegrityError(f"{name} changed while it was read")
    return data
