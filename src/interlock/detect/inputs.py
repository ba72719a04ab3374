"""From a text to what the graph takes of it: one way for training, evaluation and the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interlock.detect.features import FEATURE_NAMES, Features, rule_features
from interlock.detect.fold import latin_in_disguise
from interlock.detect.normalise import Normalised
from interlock.detect.rules import Hit
from interlock.detect.settings import DEFAULT_WINDOWS, WindowSettings
from interlock.detect.windows import windows

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One window in one reading of a text.

    text        what the encoder and the n-grams read
    start, end  where it lies in the original text, end exclusive
    via         the disguises that were taken off to read it, folding left out
    view, at    which of the text's views it is of, and where it begins in that
    """

    text: str
    start: int
    end: int
    via: tuple[str, ...]
    view: int = 0
    at: int = 0


def readings(
    normalised: Normalised,
    settings: WindowSettings = DEFAULT_WINDOWS,
    hits: Sequence[Hit] = (),
) -> tuple[list[Reading], str | None]:
    """The windows of all readings, the folded one's first, and which cap left some out, if any.

    A window of the folded reading that is Latin letters in disguise counts only without it. Of the
    other readings only windows that read otherwise than one before count, at most `settings.extra`
    of them. Where there are more than `settings.most` in all, those that one of
    `hits` lies in are kept first, then the beginning and the end of the text, then some evenly
    spread over it.
    """
    main: list[Reading] = []
    extra: list[Reading] = []
    seen: set[str] = set()
    cuts: list[str] = []
    for number, view in enumerate(normalised.views):
        via = tuple(step for step in view.via if step != "fold")
        for window in windows(view.text, settings):
            text = view.text[window.start : window.end]
            if number and text in seen:
                continue
            seen.add(text)
            start, end = view.span(window.start, window.end)
            reading = Reading(text, start, end, via, number, window.start)
            (extra if number else main).append(reading)
    if len(extra) > settings.extra:
        cuts.append(f"{settings.extra} of {len(extra)} windows of other readings")
        extra = _chosen(extra, hits, settings.extra)
    main = _without_look_alikes(main, extra)
    if len(main) + len(extra) > settings.most:
        room = max(1, settings.most - len(extra))
        cuts.append(f"{room} of {len(main)} windows")
        main = _chosen(main, hits, room)
    return main + extra, ", ".join(cuts) or None


def _without_look_alikes(main: list[Reading], extra: Sequence[Reading]) -> list[Reading]:
    """The windows of the folded reading but those that `extra` holds in Latin letters.

    With look-alikes in it a text is of no language, which the encoder takes for a sign by itself.
    """
    latin = {(other.start, other.end) for other in extra if other.via == ("homoglyphs",)}
    return [
        reading
        for reading in main
        if (reading.start, reading.end) not in latin or not latin_in_disguise(reading.text)
    ]


def windows_beside(found: Sequence[Reading], at: int) -> int:
    """How many windows the text has when it is read as the reading with this index is read.

    Those of the same disguise, and those of the text as it stands where that disguise was not taken
    off: a text is not longer for being encoded, nor for being read in several ways.
    """
    via = found[at].via
    same = [reading for reading in found if reading.via == via]
    if not via:
        return len(same)
    apart = [
        reading
        for reading in found
        if not reading.via
        and not any(one.start < reading.end and reading.start < one.end for one in same)
    ]
    return len(same) + len(apart)


def _chosen(found: list[Reading], hits: Sequence[Hit], room: int) -> list[Reading]:
    """At most `room` of the readings, in their order."""
    kept = {
        at: None
        for at, reading in enumerate(found)
        if any(hit.start < reading.end and hit.end > reading.start for hit in hits)
    }
    quarter = room // 4
    for at in (*range(quarter), *range(len(found) - quarter, len(found))):
        kept[at] = None
    rest = [at for at in range(len(found)) if at not in kept]
    left = max(0, room - len(kept))
    chosen = [*kept, *(rest[at * len(rest) // left] for at in range(left))][:room]
    return [found[at] for at in sorted(chosen)]


def features_of(
    found: Sequence[Reading], hits: Sequence[Hit], names: Sequence[str] = FEATURE_NAMES
) -> Features:
    """The graph's input `rules`, (W, R) float32, of these windows and the text's hits."""
    return rule_features(
        [(reading.start, reading.end) for reading in found],
        hits,
        [reading.via for reading in found],
        names,
    )


def token_arrays(encodings: Sequence[Any], most: int) -> tuple[Ids, Ids]:
    """`input_ids` and `attention_mask`, (W, T) int64, padded to the longest, cut at `most` tokens.

    `encodings` are those of the `tokenizers` package, without padding. A cut keeps the last token,
    which closes the sequence.
    """
    rows = [list(encoding.ids) for encoding in encodings]
    rows = [row if len(row) <= most else [*row[: most - 1], row[-1]] for row in rows]
    width = max([1, *(len(row) for row in rows)])
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask
