"""Resampling of clusters, seeded: intervals for what several samples of one prompt add up to.

Answers to one prompt resemble one another, so the prompt is what is drawn again, with all of its
answers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError

Floats = npt.NDArray[np.float64]
_CHUNK = 4_000_000  # weights held at once, 8 bytes each


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for, not on what came before."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def cluster_bootstrap(
    statistic: Callable[[Floats], Floats],
    clusters: int,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
) -> Floats:
    """The statistic of `resamples` draws of clusters with replacement, [resamples] float64.

    statistic  takes weights [draws, clusters], how often each cluster was drawn, and returns one
               value a draw; NaN where the draw has none
    """
    if clusters < 1:
        raise InputError(f"clusters is {clusters}; there must be at least one to draw from")
    chunk = max(1, _CHUNK // clusters)
    values = []
    for start in range(0, resamples, chunk):
        draws = min(chunk, resamples - start)
        weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
        values.append(statistic(weights.astype(np.float64)))
    return np.concatenate(values)


def expanded_percentiles(
    values: Floats, clusters: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of bootstrap values, widened for few clusters.

    The percentiles are moved out so that for a mean the interval has the width of Student's t with
    the unbiased variance: T. C. Hesterberg, "What Teachers Should Know About the Bootstrap", The
    American Statistician 69 (2015), "expanded percentile". (NaN, NaN) where no value is finite.
    """
    from statistics import NormalDist

    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return math.nan, math.nan
    if clusters < 2:
        return -math.inf, math.inf
    t = student_t_quantile((1 + confidence) / 2, clusters - 1)
    outside = NormalDist().cdf(-t * math.sqrt(clusters / (clusters - 1)))
    low, high = np.quantile(finite, [outside, 1 - outside])
    return float(low), float(high)


def share_interval(
    share: float, values: Floats, clusters: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of a share from its bootstrap values, by Wilson's formula.

    n is the one that would give independent answers the variance of the values (the design effect),
    and the normal quantile is Student's. Percentiles leave out the share far more often than they
    should where it is near 0 or 1. `values` must vary, `clusters` be 2 or more.
    """
    variance = float(np.nanvar(values)) * clusters / (clusters - 1)
    n = share * (1 - share) / variance
    z = student_t_quantile((1 + confidence) / 2, clusters - 1)
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def student_t_quantile(probability: float, degrees: int) -> float:
    """Where Student's t distribution reaches `probability`.

    Found by halving on the distribution function, the finite sums of Abramowitz and Stegun 26.7.3
    and 26.7.4; above 1,000 degrees the first terms of their 26.7.5. Raises InputError out of range.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise InputError(f"no Student t quantile at {probability} with {degrees} degrees")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, degrees)
    if degrees > 1000:
        from statistics import NormalDist

        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4 * degrees)
    low, high = 0.0, 1.0
    while _student_t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _student_t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_t_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees % 2:
        term = added = cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            added += term
        inside = 2 / math.pi * (angle + sine * added)
    else:
        term = added = 1.0
        for k in range(2, degrees - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            added += term
        inside = sine * added
    return (1 + inside) / 2
