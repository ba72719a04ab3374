"""Confidence intervals for what was counted, and the binomial distribution behind them."""

from __future__ import annotations

import math

from interlock.kernel.errors import InputError


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share, after E. B. Wilson, JASA 22 (1927) 209-212.

    (0, 1) for a total of 0. Raises InputError for counts or a confidence out of range.
    """
    _check(successes, total, confidence)
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
    """The exact interval of a share, after C. J. Clopper and E. S. Pearson, Biometrika 26 (1934).

    It covers the share with at least the confidence asked for, whatever the share is. (0, 1) for
    a total of 0. Raises InputError for counts or a confidence out of range.
    """
    _check(successes, total, confidence)
    one_sided = (1 + confidence) / 2
    low = 1 - clopper_pearson_upper(total - successes, total, one_sided)
    return low, clopper_pearson_upper(successes, total, one_sided)


def clopper_pearson_upper(successes: int, total: int, confidence: float = 0.95) -> float:
    """The exact one-sided upper bound of a share: where `binomial_cdf` falls to 1 - confidence.

    1 for a total of 0. Raises InputError for counts or a confidence out of range.
    """
    _check(successes, total, confidence)
    if successes == total:
        return 1.0
    wanted = math.log1p(-confidence)
    low, high = 0.0, 1.0
    share = (successes + 1) / (total + 1)
    # Newton's method on the logarithm, halving the bracket where it would leave it.
    for _ in range(200):
        below = binomial_cdf(successes, total, share)
        excess = math.log(below) - wanted if below > 0 else -math.inf
        if excess > 0:
            low = share
        else:
            high = share
        step = math.nan
        if below > 0:
            mass = math.exp(_log_mass(successes, total, share))
            slope = mass * (total - successes) / (1 - share) / below
            step = share + excess / slope if slope > 0 else math.nan
        following = step if low < step < high else (low + high) / 2
        if abs(following - share) <= 1e-15 * share:
            break
        share = following
    return following


def binomial_cdf(successes: int, total: int, share: float) -> float:
    """P(X <= successes) for X binomial: `total` trials, each a success with probability `share`.

    Exact up to rounding (a relative error near 1e-9 at a million trials). Raises InputError for
    counts out of range or a share outside 0 … 1.
    """
    _check(successes, total, 0.5)
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}; it must lie in 0 … 1")
    if successes == total or share == 0:
        return 1.0
    if share == 1:
        return 0.0
    odds = share / (1 - share)
    # From whichever side of the mode the terms fall.
    if successes <= total * share:
        term = added = 1.0
        for k in range(successes, 0, -1):
            term *= k / ((total - k + 1) * odds)
            added += term
            if term < 1e-17 * added:
                break
        return min(1.0, math.exp(_log_mass(successes, total, share)) * added)
    term = added = 1.0
    for k in range(successes + 1, total):
        term *= (total - k) * odds / (k + 1)
        added += term
        if term < 1e-17 * added:
            break
    return max(0.0, 1 - math.exp(_log_mass(successes + 1, total, share)) * added)


def _log_mass(successes: int, total: int, share: float) -> float:
    """The logarithm of P(X = successes), for a share strictly between 0 and 1."""
    ways = math.lgamma(total + 1) - math.lgamma(successes + 1) - math.lgamma(total - successes + 1)
    return ways + successes * math.log(share) + (total - successes) * math.log1p(-share)


def _check(successes: int, total: int, confidence: float) -> None:
    if not 0 <= successes <= total:
        raise InputError(f"successes is {successes}; it must lie in 0 … total={total}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1")
