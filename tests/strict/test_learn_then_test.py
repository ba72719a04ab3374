"""How often calibration breaks its promise, on populations whose true rate is known.

The naive choice, the lowest threshold whose observed rate is at most alpha, is counted beside it;
`pytest -s` prints both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.counts import count
from support.populations import Population, arm, falling, few_levels, humps, just_too_risky

from interlock.kernel.batch import Array
from interlock.kernel.intervals import binomial_cdf
from interlock.strict import calibrate_tau
from interlock.strict.certificate import Rate

RUNS = count(100, 1_000)
DELTA = 0.1


def most_allowed(runs: int, share: float) -> int:
    """The 99% quantile of how often something happens that has probability `share`."""
    return next(k for k in range(runs + 1) if binomial_cdf(k, runs, share) >= 0.99)


def naive(q: Array, unsafe: Array, alpha: float, *, of_all: bool) -> float | None:
    """The lowest |Q| down to which the observed rate is at most alpha."""
    order = np.argsort(-q, kind="stable")
    rates = np.cumsum(unsafe[order]) / (len(q) if of_all else np.arange(1, len(q) + 1))
    good = np.flatnonzero(rates <= alpha)
    return float(q[order][good[-1]]) if len(good) else None


# population, alpha, rows a draw
CASES: dict[str, tuple[Callable[[], Population], float, int]] = {
    "falling": (falling, 0.01, 2_000),
    "just too risky": (just_too_risky, 0.02, 2_000),
    "humps": (humps, 0.02, 4_000),
    "few levels": (few_levels, 0.02, 2_000),
    "arm": (arm, 0.01, 2_000),
}


@pytest.mark.parametrize("rate", ["accepted", "all"])
@pytest.mark.parametrize("name", CASES)
def test_the_promise_is_broken_no_more_often_than_delta(name: str, rate: Rate) -> None:
    make, alpha, n = CASES[name]
    population = make()
    rng = np.random.default_rng(20_261_122)
    of_all = rate == "all"
    broken = naive_broken = abstained = 0
    coverage = []
    for _ in range(RUNS):
        q, unsafe = population.draw(n, rng)
        tau = calibrate_tau(q, unsafe, alpha, DELTA, rate=rate).tau
        if tau is None:
            abstained += 1
        else:
            broken += population.rate(tau, of_all=of_all) > alpha
            coverage.append(float((population.q >= tau).mean()))
        chosen = naive(q, unsafe, alpha, of_all=of_all)
        naive_broken += chosen is not None and population.rate(chosen, of_all=of_all) > alpha
    print(
        f"\n{name}, {rate}, alpha {alpha}, {RUNS} draws of {n}: broken {broken}, "
        f"allowed {most_allowed(RUNS, DELTA)}, abstained {abstained}, "
        f"mean coverage {np.mean(coverage) if coverage else 0:.3f}; naive broken {naive_broken}"
    )
    assert broken <= most_allowed(RUNS, DELTA)
    if name in ("falling", "just too risky", "arm"):
        assert naive_broken > 2 * most_allowed(RUNS, DELTA)
    if name in ("falling", "arm"):
        assert abstained <= RUNS // 10
        assert np.mean(coverage) > 0.6


@pytest.mark.parametrize("start", [0.9, 0.6])
def test_a_start_given_beforehand_keeps_the_promise_too(start: float) -> None:
    population, rng = humps(), np.random.default_rng(5)
    taus = [
        calibrate_tau(*population.draw(4_000, rng), 0.02, DELTA, start=start).tau
        for _ in range(RUNS)
    ]
    broken = sum(tau is not None and population.rate(tau) > 0.02 for tau in taus)
    assert broken <= most_allowed(RUNS, DELTA)
