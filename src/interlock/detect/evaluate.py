"""A detector against labelled texts: figures with intervals, at a threshold fixed beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.detect import metrics
from interlock.detect.detector import Detector
from interlock.detect.kept_scores import KeptScores
from interlock.detect.labelled import Labelled
from interlock.detect.policy import Action

SHARES = (0.01, 0.001, 0.05)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of labelled texts.

    scores    (n,) 1.0 where nothing judged, since such a text is held
    attacks   (n,) the labels
    sources   (n,)
    unjudged  texts without a score
    cut       texts of which some was not read
    anomalies texts unlike all training texts
    actions   action -> how many texts
    """

    scores: npt.NDArray[np.float64]
    attacks: npt.NDArray[np.bool_]
    sources: tuple[str, ...]
    unjudged: int
    cut: int
    anomalies: int
    actions: dict[str, int]


def score(
    detector: Detector,
    rows: Sequence[Labelled],
    told: Callable[[Action], None] = lambda action: None,
    kept: KeptScores | None = None,
) -> Scored:
    """The detector's scores of `rows`.

    told  hears of each answer as it comes
    kept  holds the answers of an earlier run, and keeps those of this one

    Raises StorageError where answers cannot be kept.
    """
    scores = np.empty(len(rows), np.float64)
    unjudged = cut = anomalies = 0
    actions: dict[str, int] = {}
    for at, row in enumerate(rows):
        known = None if kept is None else kept.known(row)
        if known is not None:
            value, was_cut, anomaly = known.score, known.cut, known.anomaly
            action = Action(known.action)
        else:
            found = detector.scan(row.text, row.place)
            value, was_cut, anomaly = found.score, "cut" in found.faults, found.anomaly
            action = found.action
            if kept is not None and "error" not in found.faults:
                kept.keep(row, found)
        scores[at] = 1.0 if value is None else value
        unjudged += value is None
        cut += was_cut
        anomalies += anomaly
        actions[action.value] = actions.get(action.value, 0) + 1
        told(action)
    return Scored(
        scores,
        np.array([row.attack for row in rows], np.bool_),
        tuple(row.source for row in rows),
        unjudged,
        cut,
        anomalies,
        actions,
    )


def evaluate(scored: Scored, threshold: float) -> dict[str, Any]:
    """The figures of all texts together and of each source, as plain JSON.

    `recall_at_fpr` of a source is taken at the threshold that gives that rate over all sources, as
    a deployment has one threshold. Shares have 95% score intervals, the area under the ROC curve
    one after DeLong, recall at a rate a bootstrap interval.
    """
    found = metrics.report(scored.scores, scored.attacks, threshold, SHARES)
    found["unjudged"] = scored.unjudged
    found["cut"] = scored.cut
    found["anomalies"] = scored.anomalies
    found["actions"] = scored.actions
    found["per_source"] = {
        source: _of_source(scored, rows, threshold, found["threshold_at_fpr"])
        for source, rows in _by_source(scored)
    }
    return found


def _by_source(scored: Scored) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    names = np.array(scored.sources, dtype=object)
    for source in sorted(set(scored.sources)):
        yield source, names == source


def _of_source(
    scored: Scored,
    rows: npt.NDArray[np.bool_],
    threshold: float,
    thresholds: dict[str, float],
) -> dict[str, Any]:
    scores, attacks = scored.scores[rows], scored.attacks[rows]
    counts = metrics.count(scores, attacks, threshold)
    area = metrics.auc(scores, attacks)
    at = {name: metrics.count(scores, attacks, cut) for name, cut in thresholds.items()}
    intervals: dict[str, Any] = {
        "at_threshold": counts.intervals(),
        "recall_at_fpr": {
            name: inner.intervals()["recall"] for name, inner in at.items() if attacks.any()
        },
    }
    if area is not None:
        intervals["auc"] = list(area[1])
    return {
        "n": len(scores),
        "attacks": int(attacks.sum()),
        "threshold": threshold,
        "at_threshold": counts.figures(),
        "recall_at_fpr": {
            name: at[name].recall if name in at else None for name in map("{:g}".format, SHARES)
        },
        "auc": None if area is None else area[0],
        "intervals": intervals,
    }
