"""What of a text is judged: windows of its folded reading, and of readings that differ from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interlock.detect.normalise import Normalised
from interlock.detect.rules import Hit
from interlock.detect.settings import WindowSettings
from interlock.detect.windows import windows


@dataclass(frozen=True, slots=True)
class Piece:
    """A window as it is to be read, where it lies in the original, and the steps of its reading."""

    text: str
    start: int
    end: int
    via: tuple[str, ...]


def pieces(
    normalised: Normalised, hits: Sequence[Hit], settings: WindowSettings
) -> tuple[list[Piece], int]:
    """The windows to be judged, and how many the text was cut into.

    Other readings than the first add the windows that no earlier reading has, `settings.extra` at
    most. Where there are more than `settings.most` in all, those that a rule hit are kept, then the
    first and last quarter of the room, then some evenly spread over the rest.
    """
    main = _of_view(normalised, 0, settings, frozenset())
    extra: list[Piece] = []
    if len(normalised.views) > 1:
        seen = {piece.text for piece in main}
        for index in range(1, len(normalised.views)):
            found = _of_view(normalised, index, settings, seen)
            seen.update(piece.text for piece in found)
            extra += found
    total = len(main) + len(extra)
    if len(extra) > settings.extra:
        extra = [extra[at] for at in _chosen(extra, hits, settings.extra)]
    if len(main) + len(extra) > settings.most:
        room = max(1, settings.most - len(extra))
        main = [main[at] for at in _chosen(main, hits, room)]
    return main + extra, total


def _of_view(
    normalised: Normalised, index: int, settings: WindowSettings, seen: set[str] | frozenset[str]
) -> list[Piece]:
    view = normalised.views[index]
    via = tuple(step for step in view.via if step != "fold")
    found = []
    for window in windows(view.text, settings):
        text = view.text[window.start : window.end]
        if text not in seen:
            found.append(Piece(text, *view.span(window.start, window.end), via))
    return found


def _chosen(found: Sequence[Piece], hits: Sequence[Hit], room: int) -> list[int]:
    """Indices of at most `room` pieces, in order."""
    kept: dict[int, None] = {}
    for hit in hits:
        for at, piece in enumerate(found):
            if hit.start < piece.end and hit.end > piece.start:
                kept[at] = None
    quarter = room // 4
    ends = [*range(min(quarter, len(found))), *range(max(0, len(found) - quarter), len(found))]
    left = max(1, room - len(ends))
    spread = [at * len(found) // left for at in range(left)]
    for at in (*ends, *spread):
        kept[at] = None
    return sorted(list(kept)[:room])
