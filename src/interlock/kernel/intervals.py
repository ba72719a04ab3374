"""Confidence intervals for what was counted."""

from __future__ import annotations

import math

from interlock.kernel.errors import InputError


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share, after E. B. Wilson, JASA 22 (1927) 209-212.

    (0, 1) for a total of 0. Raises InputError for counts or a confidence out of range.
    """
    if not 0 <= successes <= total:
        raise InputError(f"successes is {successes}; it must lie in 0 … total={total}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1")
    if total == 0:
        return 0.0, 1.0
    # Imported here: it takes as long to import as the rest of the kernel.
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5 / scale
    # At the ends the bound is exact; rounding must not leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high


def clopper_pearson_interval(
    successes: int, total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The exact interval of a share, after Clopper and Pearson, Biometrika 26 (1934) 404-413.

    It covers the true rate of independent trials with at least `confidence`, whatever the rate;
    each end is missed with at most half of the rest. (0, 1) for a total of 0. Raises InputError
    for counts or a confidence out of range.
    """
    if not 0 <= successes <= total:
        raise InputError(f"successes is {successes}; it must lie in 0 … total={total}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1")
    tail = (1 - confidence) / 2
    low = _rate_with_tail(successes, total, tail)
    high = 1 - _rate_with_tail(total - successes, total, tail)
    return low, high


def _rate_with_tail(successes: int, total: int, tail: float) -> float:
    """The rate at which `successes` or more of `total` have probability `tail`; 0 for none."""
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return low
        if _beta_share(middle, successes, total - successes + 1) < tail:
            low = middle
        else:
            high = middle


def _beta_share(x: float, a: int, b: int) -> float:
    """The regularized incomplete beta function I_x(a, b).

    By the continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions, on the
    side of the mean where it converges fast, evaluated after Lentz.
    """
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a + 1)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
    )
    if log_front < -700:
        return 0.0
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    share = d
    m = 0
    while True:
        m += 1
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            share *= c * d
        if abs(c * d - 1) < 1e-15 or m > 10 * (a + b):
            return math.exp(log_front) * share
