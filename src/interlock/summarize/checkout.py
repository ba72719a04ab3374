"""A Git repository on this disk as a directory of files: its own work tree, or one made from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from interlock.kernel.errors import InputError

_SECONDS = 600.0
_NOWHERE = "left-out"
_CLONE = "clone the repository, and give the path of the clone"


@contextmanager
def open_tree(place: str) -> Iterator[Path]:
    """The directory or file that `place` names, for as long as the block runs.

    `place` is a path, or a `file://` URL of a repository on this machine. A bare repository is
    unpacked at its HEAD, by `git archive`, into a temporary directory. Its own configuration has
    no part in that, nor has the user's: both could name programs that Git runs. Raises InputError
    for an empty path or a URL that leads elsewhere, and where Git is missing or cannot read the
    repository.
    """
    path = local_path(place)
    if not is_bare(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
        # The name is shown, and decides nothing else.
        tree = Path(scratch) / _name(path)
        _unpack(path, tree)
        yield tree


def local_path(place: str) -> Path:
    """The path that `place` names, as a path or `file://` URL.

    Raises InputError for other URLs, and for an empty one, which would be the working directory.
    """
    if not place:
        raise InputError("PATH is empty", hint="for the working directory, write .")
    if "://" not in place:
        return Path(place)
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise InputError(f"PATH {place!r} is no URL: {error}", hint=_CLONE) from None
    if parts.scheme != "file":
        raise InputError(
            f"PATH is a URL with the scheme {parts.scheme!r}; only file:// is read", hint=_CLONE
        )
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"PATH is on {parts.netloc!r}; only this machine is read", hint=_CLONE)
    # To Git, marks of a query and of a fragment are a path's like others.
    rest = parts._replace(scheme="", netloc="")
    return Path(unquote(urlunsplit(rest)))


def is_bare(path: Path) -> bool:
    """Whether it is what Git keeps its objects and references in."""
    try:
        files, directories = (path / "HEAD").is_file(), (path / "objects", path / "refs")
        return files and all(each.is_dir() for each in directories)
    except OSError:
        # What may not be looked into is told by reading it as a directory.
        return False


def _name(repository: Path) -> str:
    """What a repository is called: `words` for `words.git`, and for the `.git` in `words`."""
    whole = repository.resolve()
    name = whole.parent.name if whole.name == ".git" else whole.name.removesuffix(".git")
    return name or "repository"


def _unpack(repository: Path, target: Path) -> None:
    objects_as = _object_format(repository)
    with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
        # An empty repository of our own over the other one's objects and references.
        own = Path(scratch) / "own.git"
        # A Git of before 2.29 reads sha1 alone, and does not know the option.
        named = [] if objects_as == "sha1" else [f"--object-format={objects_as}"]
        _git(repository, ["init", "--quiet", "--bare", *named, str(own)])
        try:
            for name in ("HEAD", "packed-refs", "refs"):
                _take_over(repository / name, own / name)
        except OSError:
            raise _unreadable(repository) from None
        # What a release leaves out or stamps is source all the same.
        (own / "info").mkdir(exist_ok=True)
        (own / "info" / "attributes").write_text("* -export-ignore -export-subst\n")
        objects = {"GIT_OBJECT_DIRECTORY": str((repository / "objects").resolve())}
        # Into a file, as a repository may be larger than the memory.
        tar = Path(scratch) / "head.tar"
        packed = ["archive", "--format=tar", f"--output={tar}", "HEAD"]
        _git(repository, ["--git-dir", str(own), *packed], objects)
        target.mkdir()
        try:
            with tarfile.open(tar, "r:") as archive:
                archive.extractall(target, filter=_harmless)
        except (tarfile.TarError, OSError) as error:
            raise InputError(
                f"PATH {str(repository)!r} cannot be unpacked at HEAD ({type(error).__name__})"
            ) from None


def _object_format(repository: Path) -> str:
    """How objects are named: `sha1` or `sha256`; InputError for what is neither, or reftables."""
    extensions = {
        name: _setting(repository, f"extensions.{name}") for name in ("objectFormat", "refStorage")
    }
    objects_as = extensions["objectFormat"].lower() or "sha1"
    if objects_as not in ("sha1", "sha256"):
        raise InputError(
            f"PATH {str(repository)!r} has the object format {objects_as!r}; sha1 and sha256 are "
            "read",
            hint=_CLONE,
        )
    if (references_as := extensions["refStorage"].lower() or "files") != "files":
        raise InputError(
            f"PATH {str(repository)!r} keeps its references as {references_as!r}; those in files "
            "are read",
            hint=_CLONE,
        )
    return objects_as


def _setting(repository: Path, name: str) -> str:
    """A setting of the repository's own file, empty where it has none; nothing is included."""
    if not (repository / "config").is_file():
        return ""
    read = ["config", "--file", str(repository / "config"), "--no-includes", "--default", ""]
    return _git(repository, [*read, "--get", name]).decode("utf-8", "replace").strip()


def _harmless(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo:
    """The member as `tarfile.data_filter` lets it pass; a link that leads out leads nowhere.

    It stays a link, so that it is listed among what was left out, as in a work tree.
    """
    try:
        return tarfile.data_filter(member, target)
    except (tarfile.AbsoluteLinkError, tarfile.LinkOutsideDestinationError):
        return tarfile.data_filter(member.replace(linkname=_NOWHERE, deep=False), target)


def _take_over(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
    elif source.is_file():
        shutil.copyfile(source, target)


def _git(repository: Path, arguments: list[str], more: Mapping[str, str] = {}) -> bytes:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    alone = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
    }
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**kept, **alone, **more},
        )
    except FileNotFoundError:
        raise InputError(
            f"PATH {str(repository)!r} is a bare repository, and there is no git to read it"
        ) from None
    if done.returncode:
        raise _unreadable(repository)
    return done.stdout


def _unreadable(repository: Path) -> InputError:
    return InputError(f"PATH {str(repository)!r} is a bare repository that git cannot read at HEAD")
