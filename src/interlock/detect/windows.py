"""A text cut into windows of a few sentences, so that one bad sentence in a long text shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from interlock.detect.settings import DEFAULT_WINDOWS, WindowSettings

# The end of a sentence is a full stop or its like before white space, or a line's end.
_WRAPS = 45
_END = re.compile(r"[.!?…]+[\"')\]»”]*(?=\s)|[。！？]+|\n+")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a text, end exclusive, without white space at its ends."""

    start: int
    end: int


def windows(text: str, settings: WindowSettings = DEFAULT_WINDOWS) -> list[Window]:
    """The windows of `text` in order; none for a text of white space.

    A text of at most `settings.whole` characters is one window. A longer one is cut at the ends of
    sentences and lines, but not where a line is merely wrapped: a window takes sentences until it
    has `settings.least` characters, or `settings.line` where a line ends, and never more than
    `settings.characters`. A sentence longer than that is cut between words. Windows do not overlap
    and leave out nothing but white space.
    Linear in the length of the text.
    """
    start, end = _strip(text, 0, len(text))
    if start == end:
        return []
    if end - start <= settings.whole:
        return [Window(start, end)]
    found: list[Window] = []
    begin = last = start
    count = 0
    for left, right in _pieces(text, start, end, settings.characters):
        if count and (right - begin > settings.characters):
            found.append(Window(begin, last))
            count = 0
        if not count:
            begin = left
        last = right
        count += 1
        line_ends = last == end or text[last] == "\n"
        least = settings.line if line_ends else settings.least
        if last - begin >= least:
            found.append(Window(begin, last))
            count = 0
    if count:
        # A short rest joins the window before it where there is room.
        if found and last - found[-1].start <= settings.characters:
            found[-1] = Window(found[-1].start, last)
        else:
            found.append(Window(begin, last))
    return found


def _pieces(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Sentences without white space around them, long ones cut between words."""
    at = start
    for found in _END.finditer(text, start, end):
        if found[0] == "\n" and _wrapped(text, at, found.start()):
            continue
        yield from _cut(text, at, found.end(), most)
        at = found.end()
    yield from _cut(text, at, end, most)


def _wrapped(text: str, start: int, end: int) -> bool:
    """Whether the line that ends at `end` goes on in the next: long, and no sign at its end."""
    begin = max(start, text.rfind("\n", start, end) + 1)
    return end - begin >= _WRAPS and (text[end - 1].isalnum() or text[end - 1] in ",-")


def _cut(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    start, end = _strip(text, start, end)
    while end - start > most:
        stop = start + most
        # Between words, unless the last space is so early that the cut would waste the window.
        space = max(text.rfind(" ", start + most // 2, stop), text.rfind("\n", start, stop))
        if space > start + most // 2:
            stop = space
        yield _strip(text, start, stop)
        start, end = _strip(text, stop, end)
    if start < end:
        yield start, end


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
