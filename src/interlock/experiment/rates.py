"""Shares of verdicts with their intervals, and what the missing ones could change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interlock.experiment.bootstrap import cluster_bootstrap, generator, share_interval
from interlock.kernel.errors import InputError
from interlock.kernel.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a verdict was yes.

    yes, n       verdicts that were yes, and all verdicts
    share        yes / n; None where n is 0
    low, high    the interval of the share at `confidence`
    interval     "wilson", "clustered bootstrap", or "wilson on clusters" where every cluster says
                 the same and resampling would give an interval of no width
    clusters     prompts behind the verdicts
    missing      answers to which the question applies and that have no verdict: failed, refused,
                 undecided
    lowest, highest  the share if every missing verdict were no, and if every one were yes
    """

    yes: int
    n: int
    share: float | None
    low: float
    high: float
    interval: str
    clusters: int
    missing: int
    lowest: float | None
    highest: float | None
    confidence: float = 0.95


def rate(
    verdicts: Sequence[bool | None],
    clusters: Sequence[str],
    *,
    name: str = "",
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Rate:
    """The share of yes among the verdicts; None stands for a missing one.

    clusters  one name a verdict, as a rule its prompt's id. Where each occurs once the interval is
              Wilson's, else the clusters are resampled, seeded by `seed` and `name`.

    Raises InputError for lists of different lengths.
    """
    if len(verdicts) != len(clusters):
        raise InputError(f"{len(verdicts)} verdicts stand against {len(clusters)} clusters")
    kept = [
        (verdict, key)
        for verdict, key in zip(verdicts, clusters, strict=True)
        if verdict is not None
    ]
    yes, n = sum(verdict for verdict, _ in kept), len(kept)
    missing = len(verdicts) - n
    index = {key: place for place, key in enumerate(dict.fromkeys(key for _, key in kept))}
    m = len(index)
    if n == m:
        low, high = wilson_interval(yes, n, confidence)
        kind = "wilson"
    else:
        sums, sizes = np.zeros(m), np.zeros(m)
        for verdict, key in kept:
            sums[index[key]] += verdict
            sizes[index[key]] += 1
        low, high, kind = _clustered(sums, sizes, name, confidence, seed, resamples)
    everything = len(verdicts)
    return Rate(
        yes=yes,
        n=n,
        share=yes / n if n else None,
        low=low,
        high=high,
        interval=kind,
        clusters=m,
        missing=missing,
        lowest=yes / everything if everything else None,
        highest=(yes + missing) / everything if everything else None,
        confidence=confidence,
    )


def _clustered(
    sums: np.ndarray[tuple[int], np.dtype[np.float64]],
    sizes: np.ndarray[tuple[int], np.dtype[np.float64]],
    name: str,
    confidence: float,
    seed: int,
    resamples: int,
) -> tuple[float, float, str]:
    m, yes, n = len(sums), float(sums.sum()), float(sizes.sum())
    if m == 1:
        # One prompt says nothing of others.
        return 0.0, 1.0, "wilson on clusters"
    if np.ptp(sums / sizes) == 0:
        # The clusters agree to the last answer: at most as much is known as from one answer each.
        share = yes / n
        low, high = wilson_interval(round(share * m), m, confidence)
        return min(low, share), max(high, share), "wilson on clusters"
    values = cluster_bootstrap(
        lambda weights: (weights @ sums) / (weights @ sizes),
        m,
        generator(seed, f"rate {name}"),
        resamples=resamples,
    )
    return *share_interval(yes / n, values, m, confidence), "clustered bootstrap"


def difference(first: Rate, second: Rate) -> tuple[float, float, float] | None:
    """second - first of two independent groups with its interval: (difference, low, high).

    The interval is R. G. Newcombe's hybrid of the two rates' own (Statistics in Medicine 17 (1998)
    873-890, method 10). None where one of the groups is empty.
    """
    if first.share is None or second.share is None:
        return None
    between = second.share - first.share
    low = between - math.hypot(second.share - second.low, first.high - first.share)
    high = between + math.hypot(second.high - second.share, first.share - first.low)
    return between, max(-1.0, low), min(1.0, high)
