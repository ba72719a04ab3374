"""Confidence intervals for what was counted."""

from __future__ import annotations

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
