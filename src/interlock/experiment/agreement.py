"""How far annotators, or a scorer and a person, agree beyond chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interlock.experiment.bootstrap import cluster_bootstrap, expanded_percentiles, generator
from interlock.kernel.errors import InputError
from interlock.kernel.intervals import clopper_pearson_upper


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on nominal labels.

    share      items on which both gave the same label (for alpha: pairs of labels that match)
    value      kappa or alpha: 1 is full agreement, 0 what chance gives; None where only one label
               was used at all, for which neither is defined
    low, high  its interval, items resampled; where all agree, what an unseen item could change;
               None with `value`
    """

    statistic: str
    n: int
    share: float | None
    value: float | None
    low: float | None
    high: float | None


def cohen_kappa(
    first: Sequence[str],
    second: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Agreement:
    """Cohen's kappa of two annotators (Educational and Psychological Measurement 20 (1960) 37-46).

    Raises InputError for lists of different lengths.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} labels stand against {len(second)}")
    n = len(first)
    labels = sorted({*first, *second})
    place = {label: index for index, label in enumerate(labels)}
    a = np.array([place[label] for label in first], dtype=np.int64)
    b = np.array([place[label] for label in second], dtype=np.int64)
    one_a, one_b = np.eye(len(labels))[a], np.eye(len(labels))[b]
    same = (a == b).astype(np.float64)

    def kappa(
        weights: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        total = weights.sum(1)
        observed = weights @ same / total
        chance = ((weights @ one_a) * (weights @ one_b)).sum(1) / total**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)

    if n == 0:
        return Agreement("Cohen's kappa", 0, None, None, None, None)
    value = float(kappa(np.ones((1, n)))[0])
    if math.isnan(value):
        return Agreement("Cohen's kappa", n, float(same.mean()), None, None, None)
    if same.all():
        return Agreement(
            "Cohen's kappa",
            n,
            1.0,
            1.0,
            _unseen(n, 1 - (one_a.mean(0) ** 2).sum(), confidence),
            1.0,
        )
    low, high = expanded_percentiles(
        cluster_bootstrap(kappa, n, generator(seed, "kappa"), resamples=resamples), n, confidence
    )
    return Agreement("Cohen's kappa", n, float(same.mean()), value, max(-1.0, low), min(1.0, high))


def krippendorff_alpha(
    items: Sequence[Mapping[str, str]],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Agreement:
    """Krippendorff's alpha for nominal labels, any number of annotators, labels may be missing.

    items  one mapping annotator -> label an item; items with fewer than two labels do not count

    From the coincidences of values within items: K. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011).
    """
    kept = [list(item.values()) for item in items if len(item) >= 2]
    n = len(kept)
    if n == 0:
        return Agreement("Krippendorff's alpha", 0, None, None, None, None)
    labels = sorted({label for item in kept for label in item})
    counts = np.zeros((n, len(labels)))
    for row, item in enumerate(kept):
        for label, count in Counter(item).items():
            counts[row, labels.index(label)] = count
    size = counts.sum(1)
    # Matching ordered pairs of an item, each weighted by 1 / (size - 1).
    matched = (counts * (counts - 1)).sum(1) / (size - 1)

    def alpha(
        weights: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        total = weights @ size
        each = weights @ counts
        observed = 1 - weights @ matched / total
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = 1 - (each * (each - 1)).sum(1) / (total * (total - 1))
            return np.where(expected > 1e-12, 1 - observed / expected, np.nan)

    value = float(alpha(np.ones((1, n)))[0])
    share = float(matched.sum() / size.sum())
    if math.isnan(value):
        return Agreement("Krippendorff's alpha", n, share, None, None, None)
    if matched.sum() == size.sum():
        total, each = size.sum(), counts.sum(0)
        expected = 1 - (each * (each - 1)).sum() / (total * (total - 1))
        return Agreement("Krippendorff's alpha", n, 1.0, 1.0, _unseen(n, expected, confidence), 1.0)
    low, high = expanded_percentiles(
        cluster_bootstrap(alpha, n, generator(seed, "alpha"), resamples=resamples), n, confidence
    )
    return Agreement("Krippendorff's alpha", n, share, value, max(-1.0, low), min(1.0, high))


def _unseen(n: int, by_chance: float, confidence: float) -> float:
    """The lower end of a statistic where all n items agree, which no resampling varies.

    What is left is how often an unseen item could disagree, over how often chance would.
    """
    open_share = clopper_pearson_upper(0, n, (1 + confidence) / 2)
    return max(-1.0, 1 - open_share / float(by_chance))
