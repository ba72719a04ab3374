"""Text that arrives in pieces: early warnings on the way, the whole text's answer at the end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from interlock.detect.results import Detection
from interlock.detect.rules import Place
from interlock.kernel.errors import InputError

if TYPE_CHECKING:
    from interlock.detect.detector import Detector


class Stream:
    """Collects the pieces of one text. Of one thread.

    every    characters that must be new before the text is looked at again
    behind   characters before those that are looked at with them, for orders that straddle pieces
    most     most characters of the text
    """

    def __init__(
        self,
        detector: Detector,
        place: str = "auto",
        *,
        every: int = 400,
        behind: int = 800,
        most: int = 16 << 20,
    ) -> None:
        """Raise InputError for a count below 1 and for another place than `scan` takes."""
        if place not in tuple(Place):
            raise InputError(f"place is {place!r}; it must be one of {', '.join(Place)}")
        for name, value in (("every", every), ("behind", behind), ("most", most)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        self._detector = detector
        self._place = place
        self._every = every
        self._behind = behind
        self._most = most
        self._parts: list[str] = []
        self._recent = ""
        self._length = 0
        self._new = 0
        self._full = False

    def feed(self, piece: str) -> Detection | None:
        """Add a piece; the answer for the newest stretch where it is not to be allowed, else None.

        Its spans count from the start of the whole text. It may say less than `finish`, which
        reads the whole text, and a stretch that looks like an attack may not in its context. Raises
        InputError for more than `most` characters.
        """
        if not isinstance(piece, str):
            raise InputError(f"a piece is a {type(piece).__name__}; it must be a str")
        if self._full or self._length + len(piece) > self._most:
            self._full = True
            raise InputError(f"the text has more than {self._most} characters")
        self._parts.append(piece)
        self._length += len(piece)
        self._new += len(piece)
        self._recent += piece
        if self._new < self._every:
            return None
        stretch = self._recent
        offset = self._length - len(stretch)
        self._recent = stretch[-self._behind :]
        self._new = 0
        found = self._detector.scan(stretch, self._place)
        return None if found.clean else _moved(found, offset)

    def finish(self) -> Detection:
        """The answer for the whole text, the same as `Detector.scan` gives for it at once.

        Raises InputError where a piece was refused: the rest is not the text.
        """
        if self._full:
            raise InputError(f"the text has more than {self._most} characters")
        text = "".join(self._parts)
        self._parts = [text]
        return self._detector.scan(text, self._place)


def _moved(found: Detection, offset: int) -> Detection:
    return dataclasses.replace(
        found,
        spans=tuple(
            dataclasses.replace(span, start=span.start + offset, end=span.end + offset)
            for span in found.spans
        ),
        windows=tuple(
            dataclasses.replace(window, start=window.start + offset, end=window.end + offset)
            for window in found.windows
        ),
    )
