"""Walks a source tree: which files are summarised, in which order, and why others are not."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from interlock.kernel.errors import InputError
from interlock.summarize import ignore, kinds, mark
from interlock.summarize.checkout import is_bare
from interlock.summarize.decode import decode
from interlock.summarize.languages import Language, language_of

MOST_BYTES = 16 * 2**20
"""A larger file is left out, with that reason."""

_READS = 3


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file as it was read, once. `path` is relative to the root, with slashes.

    digest  SHA-256 of its bytes, in hex
    note    what had to be assumed to read it
    """

    path: str
    language: Language
    lines: tuple[str, ...]
    digest: str
    size: int
    encoding: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or directory that is not summarised, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The files of a tree in order: by path, compared part by part, byte by byte.

    `root` is the directory, or the file that alone is the tree.
    """

    root: Path
    files: tuple[SourceFile, ...]
    skipped: tuple[Skipped, ...]

    @property
    def name(self) -> str:
        """The root's own name, with escapes for what is no text."""
        return _shown(self.root.name)

    @property
    def lines(self) -> int:
        """Lines of all files."""
        return sum(len(file.lines) for file in self.files)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take in beside the defaults.

    include   patterns as in `.gitignore`; where given, only files that match one are taken
    exclude   patterns of files and directories to leave out
    vendored, generated, data  take these in as well
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    vendored: bool = False
    generated: bool = False
    data: bool = False

    def allows(self, reason: str) -> bool:
        """Whether something that would be skipped for `reason` is taken in all the same."""
        kind = reason.partition(":")[0]
        wanted = {"vendored": self.vendored, "generated": self.generated, "data": self.data}
        return wanted.get(kind, False)


def read_tree(root: Path, selection: Selection | None = None) -> SourceTree:
    """Read every file of the tree that is to be summarised.

    Symbolic links are not followed, as Git does not, so a loop of them ends nothing. A file that
    cannot be read, or changes each time it is, is skipped with that reason. Raises InputError where
    `root` is no directory or file that can be read, MissingExtraError without the extra `source`.
    """
    selection = Selection() if selection is None else selection
    resolved = resolved_root(root)
    walk = _Walk(resolved, selection)
    if resolved.is_dir():
        walk.directory()
    else:
        walk.single_file()
    return SourceTree(walk.root, tuple(walk.files), tuple(walk.skipped))


def resolved_root(root: Path) -> Path:
    """The path without links and dots; raises InputError where there is nothing to be read."""
    try:
        return root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"PATH {str(root)!r} cannot be read: {_why(error)}") from None


class _Walk:
    def __init__(self, root: Path, selection: Selection) -> None:
        self.files: list[SourceFile] = []
        self.skipped: list[Skipped] = []
        self.root = root
        self._selection = selection
        self._include = ignore.globs(selection.include) if selection.include else None
        self._exclude = ignore.globs(selection.exclude) if selection.exclude else None
        self._seen: set[str] = set()

    def single_file(self) -> None:
        """The root is a file: it alone is the tree."""
        self._file(self.root, _shown(self.root.name))

    def directory(self) -> None:
        """The root and everything below it."""
        patterns, inner = ignore.for_tree(self.root)
        # A stack of iterators instead of recursion: a hostile tree may be very deep.
        stack = [self._entries(self.root, "", patterns.below(self.root, inner), inner)]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
            else:
                stack.append(self._entries(*step))

    def _entries(
        self, directory: Path, path: str, patterns: ignore.Ignore, inner: str
    ) -> Iterator[tuple[Path, str, ignore.Ignore, str]]:
        """Read the files of a directory, and yield the directories in it to be entered."""
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            self._skip(path or ".", f"cannot be read: {_why(error)}")
            return
        for entry in entries:
            name = _shown(entry.name)
            shown = f"{path}/{name}" if path else name
            real = f"{inner}/{entry.name}" if inner else entry.name
            if entry.name == ".git":
                # A directory, or the file by which a submodule names it.
                continue
            if entry.is_symlink():
                self._skip(shown, "symbolic link")
            elif entry.is_dir(follow_symlinks=False):
                if self._enters(directory / entry.name, shown, real, patterns):
                    below = patterns.below(directory / entry.name, real)
                    yield directory / entry.name, shown, below, real
            elif not entry.is_file(follow_symlinks=False):
                self._skip(shown, "not a regular file")
            elif patterns.ignores(real, is_directory=False):
                self._skip(shown, "ignored by .gitignore")
            else:
                self._file(directory / entry.name, shown)

    def _enters(self, directory: Path, shown: str, real: str, patterns: ignore.Ignore) -> bool:
        reason = kinds.skipped_directory(
            directory.name,
            has_cachedir_tag=_is_file(directory / "CACHEDIR.TAG"),
            is_environment=_is_file(directory / "pyvenv.cfg"),
        )
        if reason == "version control":
            return False
        if patterns.ignores(real, is_directory=True):
            reason = "ignored by .gitignore"
        elif mark.is_output(directory):
            reason = mark.REASON
        elif is_bare(directory):
            # Git's own files are nobody's source; named as PATH, it is read at its HEAD.
            reason = "a bare Git repository"
        elif self._exclude is not None and self._exclude.match_file(f"{shown}/"):
            reason = "excluded"
        elif reason is not None and self._selection.allows(reason):
            reason = None
        if reason is not None:
            self._skip(shown, reason)
        return reason is None

    def _file(self, file: Path, shown: str) -> None:
        reason = self._left_out(file, shown)
        if reason is None:
            data = _read(file)
            reason = data if isinstance(data, str) else self._text(shown, data)
        if reason is not None:
            self._skip(shown, reason)

    def _left_out(self, file: Path, shown: str) -> str | None:
        if shown in self._seen:
            return "another file has this name once it is written as text"
        self._seen.add(shown)
        if self._include is not None and not self._include.match_file(shown):
            return "not included"
        if self._exclude is not None and self._exclude.match_file(shown):
            return "excluded"
        if mark.is_ours(file):
            return mark.REASON
        reason = kinds.skipped_name(shown)
        if reason is None or self._selection.allows(reason):
            return None
        return reason

    def _text(self, shown: str, data: bytes) -> str | None:
        """Keep the file, or say why not."""
        if not data:
            return "empty"
        text = decode(data)
        if text is None:
            return "binary"
        language = language_of(shown, text.lines)
        reason = kinds.skipped_text(text.lines, language.name)
        if reason is not None and not self._selection.allows(reason):
            return reason
        if not any(line.strip() for line in text.lines):
            return "blank"
        self.files.append(
            SourceFile(
                shown,
                language,
                text.lines,
                hashlib.sha256(data).hexdigest(),
                len(data),
                text.encoding,
                text.note,
            )
        )
        return None

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))


def _read(path: Path) -> bytes | str:
    """The bytes of a file that stood still while it was read, or why there are none."""
    try:
        for _ in range(_READS):
            # Not blocking: between the listing and here a pipe may have taken its place.
            with open(path, "rb", opener=_no_follow) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    return "not a regular file"
                if before.st_size > MOST_BYTES:
                    return f"larger than {MOST_BYTES // 2**20} MiB"
                data = file.read(MOST_BYTES + 1)
                after = os.fstat(file.fileno())
            if len(data) == before.st_size and _moment(before) == _moment(after):
                return data
    except OSError as error:
        return f"cannot be read: {_why(error)}"
    return "changed while it was read"


def _shown(name: str) -> str:
    """A name of the file system as text, with escapes for bytes that are none."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_file(path: Path) -> bool:
    """Whether it is a file; what may not be looked at is said where its directory is read."""
    try:
        return path.is_file()
    except OSError:
        return False


def _no_follow(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _moment(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
