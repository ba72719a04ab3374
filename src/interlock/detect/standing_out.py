"""What an answer tells of a text: the stretches that stand out, the signals, the reasons."""

from __future__ import annotations

from collections.abc import Sequence

from interlock.detect.inputs import Reading
from interlock.detect.model import Judged
from interlock.detect.results import Span, WindowScore
from interlock.detect.rules import Hit

_ORDER = {"high": 0, "medium": 1, "low": 2}


def weightiest(hits: tuple[Hit, ...], most: int = 3) -> list[Hit]:
    """One hit a rule, the severest rules first, at most `most`."""
    once = {hit.rule: hit for hit in hits}
    return sorted(once.values(), key=lambda hit: _ORDER[hit.severity.value])[:most]


def rule_reasons(hits: tuple[Hit, ...]) -> list[str]:
    """The weightiest hits as reasons."""
    return [f"rule {hit.rule} ({hit.severity.value})" for hit in weightiest(hits)]


def window_scores(
    found: Sequence[Reading], judged: Judged, worst: Sequence[int], families: tuple[str, ...]
) -> tuple[WindowScore, ...]:
    """The windows with the indices `worst`, in that order."""
    return tuple(
        WindowScore(
            found[at].start,
            found[at].end,
            float(judged.score[at]),
            float(judged.logit[at]),
            float(judged.encoder[at]),
            float(judged.ngrams[at]),
            float(judged.rules[at]),
            families[int(judged.families[at].argmax())],
            found[at].via,
        )
        for at in worst
    )


def spans_of(
    hits: tuple[Hit, ...],
    worst: Sequence[WindowScore] = (),
    places: Sequence[tuple[int, int]] = (),
) -> tuple[Span, ...]:
    """The hits and the windows, in text order; `places` is what is told of each window."""
    found = [
        Span(hit.start, hit.end, "rule", hit.rule, hit.family, hit.severity, hit.via)
        for hit in hits
    ]
    found += [
        Span(start, end, "window", w.family, w.family, w.score, w.via)
        for w, (start, end) in zip(worst, places, strict=True)
    ]
    return tuple(sorted(found, key=lambda span: (span.start, span.end)))


def signals_of(hits: tuple[Hit, ...], worst: WindowScore, anomaly: bool) -> tuple[str, ...]:
    """What fired: rules anywhere, parts of the worst window that speak for an attack."""
    fired = {
        "rules": bool(hits),
        "ngrams": worst.ngrams > 0,
        "encoder": worst.encoder > 0,
        "disguise": bool(worst.via) or any(hit.via for hit in hits),
        "anomaly": anomaly,
    }
    return tuple(name for name, did in fired.items() if did)
