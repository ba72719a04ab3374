"""A Git repository on this disk as a directory of files: its own work tree, or one made from it."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from interlock.kernel.errors import InputError

_SECONDS = 600.0


@contextmanager
def open_tree(place: str) -> Iterator[Path]:
    """The directory or file that `place` names, for as long as the block runs.

    `place` is a path, or a `file://` URL of a repository on this machine. A bare repository is
    unpacked at its HEAD, by `git archive`, into a temporary directory. Raises InputError for a URL
    that leads elsewhere, and where Git is missing or cannot read the repository.
    """
    path = _local(place)
    if not _is_bare(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
        # The name is shown, and decides nothing else.
        tree = Path(scratch) / path.name.removesuffix(".git")
        _unpack(path, tree)
        yield tree


def _local(place: str) -> Path:
    parts = urlsplit(place)
    if "://" not in place:
        return Path(place)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise InputError(
            f"PATH is a URL with the scheme {parts.scheme!r}; only file:// is read",
            hint="clone the repository, and give the path of the clone",
        )
    return Path(unquote(parts.path))


def _is_bare(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def _unpack(repository: Path, target: Path) -> None:
    command = ["git", "--git-dir", str(repository), "archive", "--format=tar", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise InputError(
            f"PATH {str(repository)!r} is a bare repository, and there is no git to read it"
        ) from None
    if done.returncode:
        raise InputError(
            f"PATH {str(repository)!r} is a bare repository that git cannot read at HEAD"
        )
    target.mkdir()
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")
