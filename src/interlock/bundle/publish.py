"""Publish a directory of files so that readers see all of the old one or all of the new one.

The files are written and synced beside the target, then one rename makes them visible. Where a
bundle is there already, Linux exchanges the two directories in one step; elsewhere replacing is
refused. A publisher that is killed leaves at most a hidden directory, which the next one removes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from interlock.bundle.limits import DEFAULT_LIMITS
from interlock.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    METADATA,
    MODEL,
    UNLISTED,
    parse_manifest,
)
from interlock.bundle.read import open_directory, read_file
from interlock.kernel.errors import BundleError, BundleFormatError, ConfigError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
# A bundle is told by its manifest, however large it is.
_ANY_SIZE = replace(DEFAULT_LIMITS, max_file_bytes=1 << 62, max_total_bytes=1 << 62)


def publish(
    directory: Path,
    files: Mapping[str, bytes],
    check: Callable[[Path], None] = lambda written: None,
) -> Path:
    """Write `files` (name -> content) as the whole content of `directory`, atomically.

    `check` sees the written directory before it becomes visible; what it raises stops the
    publication. Returns the path with its symlinks resolved. Raises ConfigError where `directory`
    exists and is no bundle, or where this system cannot replace a directory in one step, and
    BundleError where the file system refuses.
    """
    target = directory.absolute().resolve()
    with _writing(target), _only_publisher(target.parent) as parent:
        prefix = f".{target.name}.publish-"
        for stale in target.parent.glob(f"{_escape(prefix)}*"):
            shutil.rmtree(stale, ignore_errors=True)
        check_target(target)
        written = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            _write(written, files)
            check(written)
            _make_visible(written, target)
            os.fsync(parent)
        finally:
            shutil.rmtree(written, ignore_errors=True)
    return target


def remove_abandoned(parent: Path) -> None:
    """Remove what killed publishers left in a directory, under whatever names; raises OSError.

    For names that no second publisher ever takes.
    """
    with _only_publisher(parent):
        for stale in parent.glob(".*.publish-*"):
            shutil.rmtree(stale, ignore_errors=True)


def add_unlisted(directory: Path, files: Mapping[str, bytes], manifest: bytes) -> None:
    """Put a signature or reports (name -> content) beside a published bundle's listed files.

    Each file appears, or replaces its predecessor, in one step. Raises BundleFormatError where
    the bundle has been replaced since `manifest` was read, and BundleError where the file system
    refuses.
    """
    assert set(files) <= UNLISTED - {MANIFEST}, f"listed files are published whole: {set(files)}"
    target = directory.absolute().resolve()
    with _writing(target), _only_publisher(target.parent) as parent:
        prefix = f".{target.name}.publish-"
        written = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            _write(written, files)
            if (target / MANIFEST).read_bytes() != manifest:
                raise BundleFormatError(f"the bundle at {target} was replaced in the meantime")
            for name in files:
                (written / name).replace(target / name)
            _sync(target)
            os.fsync(parent)
        finally:
            shutil.rmtree(written, ignore_errors=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what the file system says into BundleError."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="look at the free space and the permissions of the directory above it",
        ) from None


@contextmanager
def _only_publisher(parent: Path) -> Iterator[int]:
    """Hold the parent directory's lock, so that a hidden directory found is a dead publisher's."""
    parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def check_target(target: Path) -> None:
    """Raise ConfigError where `target` holds what is no bundle, and must not be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(f"{target} exists and is not a directory")
    names = {entry.name for entry in target.iterdir()}
    # Other programs call a file manifest.json too, and a model.onnx is not yet a bundle, so all of
    # a bundle must be there and nothing else.
    whole = {MANIFEST, MODEL, METADATA}
    if names and not whole <= names <= whole | UNLISTED | _listed(target):
        raise ConfigError(
            f"{target} exists and is not a bundle; it is left alone",
            hint="name a directory that does not exist yet",
        )


def _listed(target: Path) -> set[str]:
    """The names in the manifest of the bundle at `target`; none where there is no sound one."""
    try:
        with open_directory(target) as directory:
            data = read_file(directory, MANIFEST, limit=MAX_MANIFEST_BYTES)
        return {entry.name for entry in parse_manifest(data, _ANY_SIZE).files}
    except BundleError:
        return set()


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    mask = os.umask(0)
    os.umask(mask)
    directory.chmod(0o777 & ~mask)
    for name, data in files.items():
        with (directory / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_visible(written: Path, target: Path) -> None:
    """Rename `written` to `target`; `written` then names the old content, if there was any."""
    if not target.exists() or not any(target.iterdir()):
        written.rename(target)
    elif not _exchange(written, target):
        raise ConfigError(
            f"{target} exists, and this system cannot replace a directory in one step",
            hint="publish under another name",
        )


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; False where the system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    renameat2.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _escape(text: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
