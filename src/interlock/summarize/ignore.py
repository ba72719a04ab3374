"""Which paths `.gitignore` files leave out, nested and negated ones as Git reads them."""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlock.kernel.errors import ConfigError, MissingExtraError
from interlock.summarize.brackets import plain_brackets


@dataclass(frozen=True)
class Ignore:
    """The patterns that hold in one directory, the nearest last.

    Each rule is a directory, as a path below the outermost one, and the patterns of its file. Of a
    file's patterns the last that matches decides, and a nearer file's verdict goes before a farther
    one's. What lies below an ignored directory cannot be taken in again, as it is not looked at.
    """

    rules: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def below(self, directory: Path, path: str) -> Ignore:
        """The patterns that hold in `directory`, whose path below the outermost one is `path`.

        Those of a repository do not reach into another one inside of it, such as a submodule.
        """
        rules = self.rules
        if path and _has_repository(directory):
            rules = _excluded(directory, path)
        rule = _read(directory / ".gitignore")
        return Ignore(rules if rule is None else (*rules, (path, rule)))

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        """Whether `path`, below the outermost directory, is left out."""
        for base, patterns in reversed(self.rules):
            inner = path.removeprefix(f"{base}/") if base else path
            verdict = _verdict(patterns, inner, is_directory)
            if verdict is not None:
                return verdict
        return False


def for_tree(root: Path) -> tuple[Ignore, str]:
    """The patterns that hold in `root` from above, and the path of `root` below where they begin.

    They begin at the top of the Git repository that `root` is in, whose `.git/info/exclude` counts
    as well, or at `root` where there is none. Raises MissingExtraError without `pathspec`.
    """
    _pathspec()
    top = next((path for path in (root, *root.parents) if _has_repository(path)), root)
    found = Ignore(_excluded(top, ""))
    inner = root.relative_to(top).as_posix()
    inner = "" if inner == "." else inner
    parts = inner.split("/") if inner else []
    # The root's own file is read where its directory is walked, like every other one's.
    for depth in range(len(parts)):
        above = "/".join(parts[:depth])
        found = found.below(top / above, above)
    return found, inner


def _has_repository(path: Path) -> bool:
    try:
        return (path / ".git").exists()
    except OSError:
        return False


def _excluded(top: Path, path: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """The rule of a repository's own `info/exclude`; none where there is no such file."""
    git = top / ".git"
    try:
        if git.is_file():
            # A submodule's, or that of a further work tree: it says where the repository is.
            git = top / _line(git).removeprefix("gitdir: ")
            if (git / "commondir").is_file():
                git /= _line(git / "commondir")
    except (OSError, ValueError):
        return ()
    rule = _read(git / "info" / "exclude")
    return () if rule is None else ((path, rule),)


def _line(path: Path) -> str:
    with path.open("rb") as file:
        return os.fsdecode(file.read(4096).strip())


def globs(patterns: tuple[str, ...]) -> Any:
    """Patterns in the syntax of `.gitignore`, which a user names; has `match_file(path)`.

    Raises ConfigError for one that cannot be read.
    """
    spec = _pathspec()
    lines = []
    for pattern in patterns:
        line = plain_brackets(pattern)
        try:
            if line is not None:
                spec.from_lines([line])
                lines.append(line)
        except ValueError:
            raise ConfigError(
                f"{pattern!r} is no pattern", hint="patterns are written as in .gitignore"
            ) from None
    return spec.from_lines(lines)


def _verdict(patterns: tuple[Any, ...], path: str, is_directory: bool) -> bool | None:
    """Whether the last pattern that matches `path` itself ignores it; None where none matches.

    The library's expressions match what lies below a directory along with it. Asked directory by
    directory, as here, that would let `!/a` take back all that is in `a`, which Git does not.
    """
    for pattern in reversed(patterns):
        if pattern.regex is None:
            continue
        if pattern.regex.groupindex:
            asked = f"{path}/" if is_directory else path
            matched = any(found.end() == len(asked) for found in pattern.regex.finditer(asked))
        else:
            # `a/**` and its like: all that is in a directory, but not the directory.
            matched = pattern.regex.search(path) is not None
        if matched:
            return bool(pattern.include)
    return None


def _read(path: Path) -> tuple[Any, ...] | None:
    try:
        # Git follows no link here either.
        if path.is_symlink() or not path.is_file():
            return None
        text = path.read_bytes().removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return None
    kind = _pathspec_pattern()
    found = []
    for line in text.split("\n"):
        written = plain_brackets(_DIRECTORIES_BELOW.sub("/**/*/", _trimmed(line)))
        try:
            if written is not None:
                found.append(kind(written))
        except ValueError:
            # Git passes over what cannot be read.
            continue
    return tuple(found)


def _trimmed(line: str) -> str:
    """The line without the spaces at its end that Git takes off: those without a backslash."""
    line = line.removesuffix("\r")
    at = end = 0
    while at < len(line):
        space = line[at] == " "
        at = min(len(line), at + 1 + (line[at] == "\\"))
        end = end if space else at
    line = line[:end]
    # Other white space is a part of the pattern, which the library would take off.
    if line[-1:].isspace() and not line.endswith("\\ "):
        line = f"{line[:-1]}[{line[-1]}]"
    return line


# The library takes `a/**/` for `a/`; Git takes it for the directories inside.
_DIRECTORIES_BELOW = re.compile(r"(?<=[^/])/\*\*/\s*$")


def _pathspec() -> Any:
    try:
        from pathspec import GitIgnoreSpec
    except ImportError:
        raise MissingExtraError("source", "reading a source tree") from None
    return GitIgnoreSpec


def _pathspec_pattern() -> Any:
    _pathspec()
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    return GitIgnoreSpecPattern
