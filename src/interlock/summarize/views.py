"""What of a chunk the model gets to see: its full text, the text without comments, or signatures
and doc comments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interlock.summarize.outline import Outline, Symbol, one_line, outline
from interlock.summarize.tree import SourceFile

View = Literal["full", "stripped", "signatures"]
VIEWS: tuple[View, ...] = ("full", "stripped", "signatures")

_DOC_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Seen:
    """A view of some lines. `view` is the one that was used, `note` why it is not the one asked
    for.
    """

    text: str
    view: View
    note: str = ""


@dataclass(frozen=True, slots=True)
class FileViews:
    """A file with what its syntax tree says of it, None where nothing does."""

    file: SourceFile
    outline: Outline | None

    def symbols(self, first: int, last: int) -> tuple[Symbol, ...]:
        """The definitions that begin in these lines (from 1, both included)."""
        if self.outline is None:
            return ()
        return tuple(s for s in self.outline.symbols if first <= s.first <= last)

    def text(self, first: int, last: int) -> str:
        """The lines as they are."""
        return "\n".join(self.file.lines[first - 1 : last])

    def see(self, view: View, first: int, last: int) -> Seen:
        """These lines in the view asked for, or in full with a note where it cannot be had."""
        if view == "full":
            return Seen(self.text(first, last), "full")
        if self.outline is None:
            name = self.file.language.name
            return Seen(self.text(first, last), "full", f"full text: no grammar for {name}")
        if view == "stripped":
            text = self._stripped(self.outline, first, last)
            if not text:
                return Seen(self.text(first, last), "full", "full text: nothing but comments")
            return Seen(text, "stripped")
        symbols = self.symbols(first, last)
        if not symbols:
            return Seen(self.text(first, last), "full", "full text: nothing is defined here")
        doc = self.outline.doc if first == 1 else ""
        return Seen(_signatures(symbols, doc), "signatures")

    def _stripped(self, found: Outline, first: int, last: int) -> str:
        data = "\n".join(self.file.lines).encode("utf-8", "replace")
        starts = [0]
        for line in data.split(b"\n"):
            starts.append(starts[-1] + len(line) + 1)
        begin, end = starts[first - 1], min(starts[last] - 1, len(data))
        kept: list[bytes] = []
        at = begin
        for start, stop in found.comments:
            if stop <= begin or start >= end:
                continue
            kept.append(data[at : max(start, at)])
            at = max(at, min(stop, end))
        kept.append(data[at:end])
        text = b"".join(kept).decode("utf-8", "replace")
        return "\n".join(line.rstrip() for line in text.split("\n") if line.strip())


def views_of(file: SourceFile, *, parse: bool = True) -> FileViews:
    """The file ready to be looked at; with `parse` its syntax too, where there is a grammar."""
    return FileViews(file, outline(file) if parse else None)


def _signatures(symbols: tuple[Symbol, ...], doc: str) -> str:
    lines = [one_line(doc, _DOC_SHOWN), ""] if doc else []
    least = min(symbol.depth for symbol in symbols)
    for symbol in symbols:
        indent = "  " * min(symbol.depth - least, 4)
        shown = f"{indent}{symbol.signature}"
        if symbol.doc:
            shown += f"  // {one_line(symbol.doc, _DOC_SHOWN)}"
        lines.append(shown)
    return "\n".join(lines)
