"""Cuts a tree into chunks: so many lines of a file, of the whole tree in a row, or whole items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from interlock.kernel.errors import ConfigError
from interlock.summarize.views import FileViews

Mode = Literal["lines", "concatenated", "syntax"]
MODES: tuple[Mode, ...] = ("lines", "concatenated", "syntax")
LINES = 300


class Source(msgspec.Struct, frozen=True):
    """Lines of one file, from 1, both ends included; `digest` is the SHA-256 of their text in hex,
    lines ended by LF, in UTF-8.
    """

    path: str
    first: int
    last: int
    digest: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of source. Only the concatenated mode makes one of several files."""

    sources: tuple[Source, ...]

    @property
    def lines(self) -> int:
        """How many there are."""
        return sum(source.last - source.first + 1 for source in self.sources)

    @property
    def key(self) -> str:
        """A name for people: `path:first-last`, and how many files more."""
        head = self.sources[0]
        more = f"+{len(self.sources) - 1}" if len(self.sources) > 1 else ""
        return f"{head.path}:{head.first}-{head.last}{more}"


def cut(files: Sequence[FileViews], mode: Mode, lines: int = LINES) -> list[Chunk]:
    """The chunks of a tree, in order; together they hold every line once.

    lines         at most `lines` lines, all of one file
    concatenated  exactly `lines` lines of the files one after the other, the last chunk fewer
    syntax        whole top-level items, as many as make up at most `lines`; a larger item is cut at
                  what it defines, else by lines; a file without a grammar is cut by lines

    Raises ConfigError for an unknown mode or fewer than 1 line.
    """
    if lines < 1:
        raise ConfigError(f"chunk lines is {lines}; it must be 1 or more")
    if mode == "lines":
        return [chunk for file in files for chunk in _by_lines(file, lines)]
    if mode == "concatenated":
        return _concatenated(files, lines)
    if mode == "syntax":
        return [chunk for file in files for chunk in _by_syntax(file, lines)]
    raise ConfigError(f"chunks is {mode!r}; it must be one of {', '.join(MODES)}")


def source_of(file: FileViews, first: int, last: int) -> Source:
    """These lines of a file, with their digest."""
    text = "".join(f"{line}\n" for line in file.file.lines[first - 1 : last])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Source(file.file.path, first, last, digest)


def _by_lines(file: FileViews, lines: int) -> Iterator[Chunk]:
    total = len(file.file.lines)
    for first in range(1, total + 1, lines):
        yield Chunk((source_of(file, first, min(first + lines - 1, total)),))


def _concatenated(files: Iterable[FileViews], lines: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    gathered: list[Source] = []
    room = lines
    for file in files:
        first, total = 1, len(file.file.lines)
        while first <= total:
            last = min(total, first + room - 1)
            gathered.append(source_of(file, first, last))
            room -= last - first + 1
            first = last + 1
            if room == 0:
                chunks.append(Chunk(tuple(gathered)))
                gathered, room = [], lines
    if gathered:
        chunks.append(Chunk(tuple(gathered)))
    return chunks


def _by_syntax(file: FileViews, lines: int) -> Iterator[Chunk]:
    if file.outline is None:
        yield from _by_lines(file, lines)
        return
    total = len(file.file.lines)
    first = 1
    for last in _ends(_starts(file, lines, total), total, lines):
        yield Chunk((source_of(file, first, last),))
        first = last + 1


def _starts(file: FileViews, lines: int, total: int) -> list[int]:
    """The lines at which a cut does least harm, in order; between two of them are `lines` at most
    wherever the syntax allows it.
    """
    assert file.outline is not None
    starts = {first for first, _ in file.outline.items}
    for first, last in file.outline.items:
        if last - first + 1 > lines:
            inside = [s for s in file.outline.symbols if first < s.first <= last]
            starts |= {symbol.first for symbol in inside}
    return sorted(start for start in starts if 1 < start <= total)


def _ends(starts: list[int], total: int, lines: int) -> Iterator[int]:
    """The last line of every chunk: as many whole items as fit, else as many lines."""
    first = 1
    while first + lines - 1 < total:
        fitting = [start for start in starts if first < start <= first + lines]
        last = fitting[-1] - 1 if fitting else first + lines - 1
        yield last
        first = last + 1
    yield total
