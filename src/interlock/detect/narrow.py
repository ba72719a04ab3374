"""Which sentences make a long window an attack: those without which it looks less like one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interlock.detect.features import rule_features
from interlock.detect.inputs import Reading
from interlock.detect.model import DetectorModel
from interlock.detect.normalise import Normalised
from interlock.detect.rules import Hit
from interlock.detect.settings import WindowSettings
from interlock.detect.views import View
from interlock.detect.windows import Window, windows

# Shorter windows are told whole.
_LONG = 200
# About so many pieces are looked at, each of a sentence or several.
_PIECES = 10
# A neighbour that takes so much of what the weightiest sentence takes off the logit is told too.
_SHARE = 0.5


def narrowed(
    model: DetectorModel,
    normalised: Normalised,
    reading: Reading,
    logit: float,
    hits: Sequence[Hit],
    document: float,
) -> tuple[int, int]:
    """The stretch of the original text, end exclusive, that makes `reading` look like an attack.

    Each of its sentences is left out in turn, and the window judged without it. Told are the
    sentence that matters most and its neighbours that matter half as much; the whole window where
    it is short or the whole text, or where no sentence alone matters.

    logit  of the whole window
    """
    whole = reading.start, reading.end
    alone = len(reading.text) == len(normalised.views[reading.view].text.strip())
    if alone or len(reading.text) <= _LONG:
        return whole
    least = len(reading.text) // _PIECES
    sentences = windows(reading.text, WindowSettings(whole=1, least=least, line=least))
    if len(sentences) < 2:
        return whole
    view = normalised.views[reading.view]
    falls = logit - _without_each(model, view, reading, sentences, hits, document)
    top = int(falls.argmax())
    if falls[top] <= 0:
        return whole
    first = last = top
    while first > 0 and falls[first - 1] >= _SHARE * falls[top]:
        first -= 1
    while last + 1 < len(falls) and falls[last + 1] >= _SHARE * falls[top]:
        last += 1
    return view.span(reading.at + sentences[first].start, reading.at + sentences[last].end)


def _without_each(
    model: DetectorModel,
    view: View,
    reading: Reading,
    sentences: Sequence[Window],
    hits: Sequence[Hit],
    document: float,
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(n,) the window's logit without each sentence, and without the hits of rules in it."""
    texts = []
    rows = []
    for sentence in sentences:
        start, end = view.span(reading.at + sentence.start, reading.at + sentence.end)
        left = [hit for hit in hits if hit.start >= end or hit.end <= start]
        texts.append(
            f"{reading.text[: sentence.start].rstrip()} {reading.text[sentence.end :].lstrip()}"
        )
        rows.append(
            rule_features(
                [(reading.start, reading.end)],
                left,
                [reading.via],
                model.settings.rules.features,
            )
        )
    return np.asarray(model.judge(texts, np.concatenate(rows), document).logit)
