"""Why a text got its answer, with parts of the text: for the person who holds it."""

from __future__ import annotations

import re
from typing import Any

from interlock.detect.detector import Detector

_SHOWN = 120
_WORDS_MOST = 80


def explain(
    detector: Detector, text: str, place: str = "auto", *, words: bool = False
) -> dict[str, Any]:
    """Plain JSON: `detection`, `readings`, `rules`, `windows` and `words`.

    words  also judge the worst window without each of its words, at most 80, and say how much the
           score falls
    """
    first = detector.scan_rules(text, place)
    found = detector.scan(text, place)
    worst = found.windows[0] if found.windows else None
    return {
        "detection": found.to_dict(),
        "readings": [
            {
                "via": [step for step in view.via if step != "fold"],
                "text": _shown(view.text),
            }
            for view in first.normalised.views
        ],
        "rules": [
            {
                "rule": hit.rule,
                "family": hit.family,
                "severity": hit.severity.value,
                "via": list(hit.via),
                "text": _shown(text[hit.start : hit.end]),
            }
            for hit in first.hits
        ],
        "windows": [
            {
                "start": window.start,
                "end": window.end,
                "score": window.score,
                "logit": window.logit,
                "encoder": window.encoder,
                "ngrams": window.ngrams,
                "rules": window.rules,
                "family": window.family,
                "via": list(window.via),
                "text": _shown(text[window.start : window.end]),
            }
            for window in found.windows
        ],
        "words": []
        if not words or worst is None
        else _without_each(detector, text[worst.start : worst.end], place),
    }


def _without_each(detector: Detector, window: str, place: str) -> list[dict[str, Any]]:
    whole = detector.scan(window, place).score or 0.0
    found = []
    for word in list(re.finditer(r"\w+", window))[:_WORDS_MOST]:
        rest = window[: word.start()] + window[word.end() :]
        score = detector.scan(rest, place).score or 0.0
        found.append({"word": word[0], "start": word.start(), "fall": whole - score})
    return sorted(found, key=lambda item: -float(item["fall"]))


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
