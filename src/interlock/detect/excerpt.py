"""What a person is shown of a text: the stretches that stand out, with some of what is around."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from interlock.detect.results import Span

# What would move a terminal's cursor, or is not seen, is shown as its code.
_VISIBLE = {ord("\n"): "⏎", ord("\t"): " ", ord("\r"): ""}


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of an excerpt; `source` is the span's that covers it, None for what is around."""

    text: str
    source: str | None


def excerpts(
    text: str, spans: Iterable[Span], *, around: int = 40, most: int = 4, longest: int = 400
) -> list[list[Segment]]:
    """Stretches of `text` with their spans marked, at most `most`, each at most `longest` long.

    A rule's span wins over a window's. Without spans, the beginning of the text.
    """
    ordered = sorted(spans, key=lambda span: (span.start, span.end))
    if not ordered:
        shown = text[: 2 * around]
        return [[Segment(_visible(shown) + ("…" if len(text) > len(shown) else ""), None)]]
    stretches: list[tuple[int, int]] = []
    for span in ordered:
        start, end = max(0, span.start - around), min(len(text), span.end + around)
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
        else:
            stretches.append((start, end))
    found = []
    for start, end in stretches[:most]:
        stop = min(end, start + longest)
        segments = _segments(text, start, stop, ordered)
        if start > 0:
            segments.insert(0, Segment("…", None))
        if stop < len(text):
            segments.append(Segment("…", None))
        found.append(segments)
    return found


def _segments(text: str, start: int, end: int, spans: list[Span]) -> list[Segment]:
    near = [span for span in spans if span.start < end and span.end > start]
    borders = {start, end}
    for span in near:
        borders |= {max(start, span.start), min(end, span.end)}
    cuts = sorted(borders)
    found = []
    for left, right in pairwise(cuts):
        over = [span.source for span in near if span.start <= left and span.end >= right]
        source = "rule" if "rule" in over else (over[0] if over else None)
        found.append(Segment(_visible(text[left:right]), source))
    return found


def _visible(text: str) -> str:
    return "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}"
        for character in text.translate(_VISIBLE)
    )
