"""Whether a model's confidence, taken from its logprobs, says how often it is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.experiment.bootstrap import (
    cluster_bootstrap,
    expanded_percentiles,
    generator,
    student_t_quantile,
)
from interlock.kernel.errors import InputError
from interlock.kernel.intervals import clopper_pearson_upper, wilson_interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of similar confidence; the interval is Wilson's and takes them as independent."""

    confidence: float
    right: int
    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against correctness.

    bins         groups of equal size, by rising confidence
    ece          expected calibration error over these bins: mean |confidence - share right|
    ece_low/high its interval, prompts resampled
    ece_perfect  what it would be on average for a perfectly calibrated model with these
                 confidences; counts scatter, so it is never 0 for a finite n
    brier        mean squared difference between confidence and correctness
    auroc        chance that a right answer has a higher confidence than a wrong one; 0.5 says that
                 the confidence tells nothing. None where all answers are right, or all wrong
    """

    n: int
    clusters: int
    accuracy: float
    mean_confidence: float
    bins: tuple[Bin, ...]
    ece: float
    ece_low: float
    ece_high: float
    ece_perfect: float
    brier: float
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None


def answer_confidence(
    token_logprobs: Sequence[Mapping[str, Any]] | None, temperature: float | None
) -> float | None:
    """exp(mean logprob of the answer's recorded tokens), or None where it cannot be told.

    Each entry's own `logprob` counts, where it is there. Without one the drawn token is the most
    likely one only if the draw was greedy (temperature 0); else it is unknown. Only the recorded
    tokens count, which is by default the answer's first 50.
    """
    if not token_logprobs:
        return None
    total = 0.0
    for entry in token_logprobs:
        value = entry.get("logprob")
        if value is None and temperature == 0:
            top = entry.get("top_logprobs") or [None]
            value = top[0]
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        total += value
    return math.exp(min(0.0, total / len(token_logprobs)))


def calibrate(
    confidence: Sequence[float],
    right: Sequence[bool],
    clusters: Sequence[str],
    *,
    bins: int | None = None,
    name: str = "",
    seed: int = 0,
    resamples: int = 1000,
) -> Calibration | None:
    """Reliability, ECE, Brier score and AUROC, with intervals; None for fewer than two answers.

    bins  groups of equal size; without it 10, or fewer where they would hold less than 20 answers

    Raises InputError for lists of different lengths or a confidence outside 0 … 1.
    """
    if not len(confidence) == len(right) == len(clusters):
        raise InputError(
            f"{len(confidence)} confidences, {len(right)} verdicts and {len(clusters)} clusters "
            "do not belong together"
        )
    sure = np.array(confidence, dtype=np.float64)
    if sure.size and not ((sure >= 0) & (sure <= 1)).all():
        raise InputError("a confidence lies outside 0 … 1")
    n = len(sure)
    if n < 2:
        return None
    hit = np.array(right, dtype=np.float64)
    _, member = np.unique(np.array(clusters), return_inverse=True)
    order = np.lexsort((np.arange(n), sure))
    sure, hit, member = sure[order], hit[order], member[order]
    edges = _edges(sure, bins or min(10, max(1, n // 20)))
    m = int(member.max()) + 1

    drawn = cluster_bootstrap(
        lambda weights: np.array([_ece(sure, hit, row[member], edges) for row in weights]),
        m,
        generator(seed, f"ece {name}"),
        resamples=resamples,
    )
    ece_low, ece_high = expanded_percentiles(drawn, m)
    ranked = auroc(sure, hit)
    auroc_low = auroc_high = None
    if ranked is not None:
        level = _levels(sure)
        values = cluster_bootstrap(
            lambda weights: np.array([_weighted_auroc(level, hit, row[member]) for row in weights]),
            m,
            generator(seed, f"auroc {name}"),
            resamples=resamples,
        )
        rarer = int(min(hit.sum(), n - hit.sum()))
        auroc_low, auroc_high = _auroc_interval(ranked, values, m, rarer)
    rng = generator(seed, f"perfect {name}")
    ones = np.ones(n)
    perfect = [_ece(sure, (rng.random(n) < sure).astype(float), ones, edges) for _ in range(200)]
    return Calibration(
        n=n,
        clusters=m,
        accuracy=float(hit.mean()),
        mean_confidence=float(sure.mean()),
        bins=tuple(_bins(sure, hit, edges)),
        ece=_ece(sure, hit, ones, edges),
        ece_low=max(0.0, ece_low),
        ece_high=min(1.0, ece_high),
        ece_perfect=float(np.mean(perfect)),
        brier=float(np.mean((sure - hit) ** 2)),
        auroc=ranked,
        auroc_low=auroc_low,
        auroc_high=auroc_high,
    )


def auroc(confidence: npt.ArrayLike, right: npt.ArrayLike) -> float | None:
    """The area under the ROC curve as the Mann-Whitney statistic, ties counted half.

    None where all answers are right, or all are wrong.
    """
    hit = np.asarray(right, dtype=np.float64)
    value = _weighted_auroc(_levels(np.asarray(confidence)), hit, np.ones(len(hit)))
    return None if math.isnan(value) else value


def _levels(sure: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Each confidence's rank among the distinct ones, equal values alike."""
    return np.unique(sure, return_inverse=True)[1]


def _weighted_auroc(level: npt.NDArray[np.intp], hit: Floats, weight: Floats) -> float:
    good, bad = weight * hit, weight * (1 - hit)
    if good.sum() == 0 or bad.sum() == 0:
        return math.nan
    good_at, bad_at = np.bincount(level, good), np.bincount(level, bad)
    below = np.cumsum(bad_at) - bad_at
    return float((good_at * (below + bad_at / 2)).sum() / (good.sum() * bad.sum()))


def _auroc_interval(area: float, values: Floats, clusters: int, rarer: int) -> tuple[float, float]:
    """Symmetric in the area's logit, with the bootstrap's standard error and Student's quantile.

    rarer  answers of the rarer kind; they bound an area of exactly 0 or 1, which never varies
    """
    spread = float(np.nanstd(values))
    if clusters < 2:
        return 0.0, 1.0
    if not 0 < area < 1 or spread == 0:
        unseen = clopper_pearson_upper(0, rarer, 0.975)
        return max(0.0, area - unseen), min(1.0, area + unseen)
    logit = math.log(area / (1 - area))
    half = student_t_quantile(0.975, clusters - 1) * spread / (area * (1 - area))
    return 1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-logit - half))


def _edges(sure: Floats, bins: int) -> list[int]:
    """Where each bin starts, in rows by rising confidence; equal values share a bin."""
    n = len(sure)
    starts = [0]
    for k in range(1, min(bins, n)):
        at = max(round(k * n / min(bins, n)), starts[-1] + 1)
        while at < n and sure[at] == sure[at - 1]:
            at += 1
        if at < n:
            starts.append(at)
    return starts


def _ece(sure: Floats, hit: Floats, weight: Floats, edges: list[int]) -> float:
    return float(np.abs(np.add.reduceat(weight * (sure - hit), edges)).sum() / weight.sum())


def _bins(sure: Floats, hit: Floats, edges: list[int]) -> list[Bin]:
    found = []
    for start, end in zip(edges, [*edges[1:], len(sure)], strict=True):
        right, n = int(hit[start:end].sum()), end - start
        low, high = wilson_interval(right, n)
        found.append(Bin(float(sure[start:end].mean()), right, n, right / n, low, high))
    return found
