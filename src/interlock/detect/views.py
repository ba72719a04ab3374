"""Readings of one text, each of which can say where in the original a stretch of it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One reading of a text.

    text    the reading
    via     the steps that led to it from the original, first to last; empty for the original
    starts  (len(text),) where each character begins in the original, None where they are the same
    ends    (len(text),) where each character ends there, exclusive
    """

    text: str
    via: tuple[str, ...] = ()
    starts: Offsets | None = None
    ends: Offsets | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original, end exclusive, that `text[start:end]` was read from."""
        if self.starts is None or self.ends is None:
            return start, end
        if start >= end:
            at = int(self.starts[start]) if start < len(self.starts) else self._end()
            return at, at
        return int(self.starts[start:end].min()), int(self.ends[start:end].max())

    def _end(self) -> int:
        assert self.ends is not None
        return int(self.ends[-1]) if len(self.ends) else 0

    def same_length(self, text: str, step: str) -> View:
        """A reading with one character for each of this one's."""
        return View(text, (*self.via, step), self.starts, self.ends)

    def pieces(
        self, parts: Iterable[tuple[str, int, int]], step: str, *, aligned: bool = True
    ) -> View:
        """A reading put together from parts: (text, start, end), read from `self.text[start:end]`.

        A part that equals its source, or where `aligned` has its length, is mapped character by
        character, any other as a whole.
        """
        texts: list[str] = []
        starts: list[Offsets] = []
        ends: list[Offsets] = []
        for text, start, end in parts:
            if not text:
                continue
            texts.append(text)
            if len(text) == end - start and (aligned or text == self.text[start:end]):
                own, past = self._each(start, end)
            else:
                left, right = self.span(start, end)
                own = np.full(len(text), left, dtype=np.int64)
                past = np.full(len(text), right, dtype=np.int64)
            starts.append(own)
            ends.append(past)
        empty = np.zeros(0, dtype=np.int64)
        return View(
            "".join(texts),
            (*self.via, step),
            np.concatenate(starts) if starts else empty,
            np.concatenate(ends) if ends else empty,
        )

    def repeated(self, text: str, lengths: Offsets, step: str) -> View:
        """A reading in which character i of this one became `lengths[i]` characters."""
        index = np.repeat(np.arange(len(self.text), dtype=np.int64), lengths)
        if self.starts is None or self.ends is None:
            return View(text, (*self.via, step), index, index + 1)
        return View(text, (*self.via, step), self.starts[index], self.ends[index])

    def _each(self, start: int, end: int) -> tuple[Offsets, Offsets]:
        if self.starts is None or self.ends is None:
            own = np.arange(start, end, dtype=np.int64)
            return own, own + 1
        return self.starts[start:end], self.ends[start:end]
