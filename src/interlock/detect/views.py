"""Readings of one text, each of which can say where in the original a stretch of it came from."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

Part = tuple[str, int, int]
"""A text, and the stretch of the reading before it (end exclusive) that it was read from."""

# How much of the text around a change is read again with it. Rules look no farther than that.
AROUND = 200


class _Origin(Protocol):
    """Maps a stretch of a reading, not an empty one, to one of the reading before it."""

    def stretch(self, start: int, end: int) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """A reading put together from parts: where each begins, and the stretch that it stands for.

    each    whether the part's characters are those of the stretch, one by one
    """

    begins: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]
    each: Sequence[bool]

    def stretch(self, start: int, end: int) -> tuple[int, int]:
        first = bisect_right(self.begins, start) - 1
        last = bisect_right(self.begins, end - 1, lo=first) - 1
        left, right = self.starts[first], self.ends[last]
        if self.each[first]:
            left += start - self.begins[first]
        if self.each[last]:
            right = self.starts[last] + end - self.begins[last]
        return left, right


@dataclass(frozen=True, slots=True)
class _Lengths:
    """A reading in which each character became some or none: where each begins in the reading."""

    begins: Sequence[int]

    def stretch(self, start: int, end: int) -> tuple[int, int]:
        return bisect_right(self.begins, start) - 1, bisect_right(self.begins, end - 1)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One reading of a text.

    text    the reading
    via     the steps that led to it from the original, first to last; empty for the original
    """

    text: str
    via: tuple[str, ...] = ()
    before: View | None = None
    origin: _Origin | None = None

    @property
    def disguises(self) -> tuple[str, ...]:
        """The steps that took something off, without those that every reading takes."""
        return tuple(step for step in self.via if step not in PLAIN_STEPS)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original, end exclusive, that `text[start:end]` was read from."""
        view: View = self
        while view.before is not None and view.origin is not None:
            if start < end:
                start, end = view.origin.stretch(start, end)
            elif start < len(view.text):
                start = end = view.origin.stretch(start, start + 1)[0]
            elif view.text:
                start = end = view.origin.stretch(start - 1, start)[1]
            else:
                start = end = 0
            view = view.before
        return start, end

    def same_length(self, text: str, step: str) -> View:
        """A reading with one character for each of this one's."""
        return View(text, (*self.via, step), self.before, self.origin)

    def resized(self, text: str, lengths: Iterable[int], step: str) -> View:
        """A reading in which the characters of this one became so many characters each."""
        begins = array("q", accumulate(lengths, initial=0))
        return View(text, (*self.via, step), self, _Lengths(begins))

    def pieces(self, parts: Iterable[Part], step: str, *, aligned: bool = False) -> View:
        """A reading put together from parts, in the order of the text.

        A part that equals its source, or where `aligned` has its length, is mapped character by
        character, any other as a whole.
        """
        texts: list[str] = []
        begins: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        each: list[bool] = []
        length = 0
        own = self.text
        for text, start, end in parts:
            if not text:
                continue
            texts.append(text)
            begins.append(length)
            starts.append(start)
            ends.append(end)
            length += len(text)
            each.append(len(text) == end - start and (aligned or text == own[start:end]))
        origin = _Parts(begins, starts, ends, each)
        return View("".join(texts), (*self.via, step), self, origin)

    def changed(self, changes: Iterable[Part], step: str, *, aligned: bool = False) -> View | None:
        """This reading with stretches replaced, in the order of the text; None without any.

        Of a long text only what lies around the changes is kept, so that a reading costs no more
        than what is new in it.
        """
        text = self.text
        whole = len(text) <= 4 * AROUND
        parts: list[Part] = []
        done = 0
        for change in changes:
            start = change[1]
            if whole or (parts and start - done <= 2 * AROUND):
                parts.append((text[done:start], done, start))
            else:
                if parts:
                    stop = _word_end(text, done, done + AROUND)
                    # A line's end keeps apart what does not stand side by side.
                    parts += [(text[done:stop], done, stop), ("\n", stop, stop)]
                begin = _word_start(text, max(done, start - AROUND), start)
                parts.append((text[begin:start], begin, start))
            parts.append(change)
            done = change[2]
        if not parts:
            return None
        stop = len(text) if whole else _word_end(text, done, done + AROUND)
        parts.append((text[done:stop], done, stop))
        return self.pieces(parts, step, aligned=aligned)


PLAIN_STEPS = frozenset({"fold", "visible", "stretches"})


def _word_end(text: str, start: int, end: int) -> int:
    if end >= len(text):
        return len(text)
    space = text.rfind(" ", start, end)
    return end if space < 0 else space


def _word_start(text: str, start: int, end: int) -> int:
    if start == 0:
        return 0
    space = text.find(" ", start, end)
    return start if space < 0 else space + 1
