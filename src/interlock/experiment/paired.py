"""Two models on the same prompts: exact tests, intervals of the difference, and what n can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interlock.experiment.bootstrap import cluster_bootstrap, expanded_percentiles, generator
from interlock.kernel.errors import InputError
from interlock.kernel.intervals import binomial_cdf, clopper_pearson_upper

_FLIPS = 20_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the prompts for which both have verdicts.

    n            prompts compared
    left_out     prompts with a verdict of one model only
    first_only   prompts on which the first model's share of yes is higher
    second_only  and the second model's
    difference   mean over prompts of (second - first)
    low, high    its paired bootstrap interval, prompts resampled
    p            two-sided; `test` says of which test
    p_holm       the same, corrected by Holm for all comparisons made; None before that
    detectable   the smallest difference that this n shows with power 80% at 5%, given how often the
                 two disagreed; None where that cannot be said
    """

    first: str
    second: str
    n: int
    left_out: int
    first_only: int
    second_only: int
    difference: float | None
    low: float
    high: float
    p: float
    test: str
    p_holm: float | None = None
    detectable: float | None = None


def compare(
    first: str,
    second: str,
    first_verdicts: Mapping[str, Sequence[bool]],
    second_verdicts: Mapping[str, Sequence[bool]],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two models, prompt by prompt; each mapping is prompt id -> verdicts of its samples.

    With one verdict a prompt and model the test is McNemar's exact one. With several, the signs of
    the prompts' differences are flipped at random, `test` says "sign-flip permutation"; for one
    verdict each that is the same test.
    """
    have = [key for key, found in first_verdicts.items() if found]
    shared = [key for key in have if second_verdicts.get(key)]
    either = set(have) | {key for key, found in second_verdicts.items() if found}
    left = np.array([np.mean(first_verdicts[key]) for key in shared], dtype=np.float64)
    right = np.array([np.mean(second_verdicts[key]) for key in shared], dtype=np.float64)
    change = right - left
    n = len(shared)
    worse, better = int(np.sum(change < 0)), int(np.sum(change > 0))
    single = all(len(first_verdicts[key]) == len(second_verdicts[key]) == 1 for key in shared)
    if single:
        p, test = mcnemar_exact(worse, better), "McNemar exact"
    else:
        p = _sign_flip(change, generator(seed, f"flip {first} {second}"))
        test = "sign-flip permutation"
    low, high = _difference_interval(
        change, generator(seed, f"paired {first} {second}"), resamples, confidence
    )
    return Comparison(
        first=first,
        second=second,
        n=n,
        left_out=len(either) - n,
        first_only=worse,
        second_only=better,
        difference=float(change.mean()) if n else None,
        low=low,
        high=high,
        p=p,
        test=test,
        detectable=detectable_paired(n, (worse + better) / n) if n and single else None,
    )


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """The two-sided exact p of McNemar's test: discordant pairs against a fair coin.

    Twice the smaller tail, at most 1. Raises InputError for negative counts.
    """
    if first_only < 0 or second_only < 0:
        raise InputError(f"counts are {first_only} and {second_only}; they cannot be negative")
    total = first_only + second_only
    if total == 0:
        return 1.0
    return min(1.0, 2 * binomial_cdf(min(first_only, second_only), total, 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number: S. Holm, Scandinavian J. of Statistics 6 (1979) 65-70.

    In the order given. Raises InputError for a value outside 0 … 1.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise InputError(f"p is {p}; it must lie in 0 … 1")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def detectable_paired(
    n: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest difference between two models that n paired prompts show with that power.

    discordant  share of prompts on which the two disagree

    Solves R. J. Connor's sample size for McNemar's test (Biometrics 43 (1987) 207-211) for the
    difference. None where even a difference as large as the discordance would not be shown.
    """
    if n < 1 or not 0 < discordant <= 1:
        return None
    from statistics import NormalDist

    z_alpha = NormalDist().inv_cdf(1 - alpha / 2)
    z_power = NormalDist().inv_cdf(power)

    def needed(gap: float) -> float:
        spread = math.sqrt(max(0.0, discordant - gap * gap))
        return ((z_alpha * math.sqrt(discordant) + z_power * spread) / gap) ** 2

    if needed(discordant) > n:
        return None
    low, high = 0.0, discordant
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) > n else (low, middle)
    return high


def detectable_unpaired(
    first_n: int, second_n: int, base: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest rise above `base` that two independent groups show with that power.

    The normal approximation of two proportions (J. L. Fleiss, "Statistical Methods for Rates and
    Proportions", without continuity correction). None where even a rise to 1 would not be shown.
    """
    if first_n < 1 or second_n < 1 or not 0 <= base < 1:
        return None
    from statistics import NormalDist

    z_alpha = NormalDist().inv_cdf(1 - alpha / 2)
    z_power = NormalDist().inv_cdf(power)

    def short(gap: float) -> bool:
        other = base + gap
        pooled = (first_n * base + second_n * other) / (first_n + second_n)
        null = math.sqrt(pooled * (1 - pooled) * (1 / first_n + 1 / second_n))
        real = math.sqrt(base * (1 - base) / first_n + other * (1 - other) / second_n)
        return gap < z_alpha * null + z_power * real

    if short(1 - base):
        return None
    low, high = 0.0, 1 - base
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) else (low, middle)
    return high


def _sign_flip(
    change: np.ndarray[tuple[int], np.dtype[np.float64]], rng: np.random.Generator
) -> float:
    moved = change[change != 0]
    if moved.size == 0:
        return 1.0
    observed = abs(moved.sum()) - 1e-12
    if moved.size <= 14:
        # Every pattern of signs, so that the p is exact.
        patterns = (np.arange(1 << moved.size)[:, None] >> np.arange(moved.size)) & 1
        return float(np.mean(np.abs((patterns * 2 - 1) @ moved) >= observed))
    extreme = 0
    for start in range(0, _FLIPS, 2000):
        signs = rng.integers(0, 2, size=(min(2000, _FLIPS - start), moved.size)) * 2 - 1
        extreme += int(np.sum(np.abs(signs @ moved) >= observed))
    # The observed pattern is one of the possible ones, so the p is never 0.
    return (extreme + 1) / (_FLIPS + 1)


def _difference_interval(
    change: np.ndarray[tuple[int], np.dtype[np.float64]],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> tuple[float, float]:
    n = len(change)
    if n < 2:
        return -1.0, 1.0
    if np.ptp(change) == 0:
        # All prompts agree: what is left is how often an unseen one could differ.
        unseen = clopper_pearson_upper(0, n, (1 + confidence) / 2)
        return max(-1.0, float(change[0]) - unseen), min(1.0, float(change[0]) + unseen)
    values = cluster_bootstrap(lambda weights: weights @ change / n, n, rng, resamples=resamples)
    low, high = expanded_percentiles(values, n, confidence)
    return max(-1.0, low), min(1.0, high)
