"""Evidence about a mean that may be looked at any time, however the data come.

The evidence is a wealth that starts at 1 and is bet on the next values: with `bound` m and a value
x, a bet of size b turns a wealth W into W (1 + b (x - m)). Where the mean of x, given everything
before, is at most m, no such bet gains on average, whatever the distribution, so the wealth is a
supermartingale and reaches 1/a with probability at most a (J. Ville, 1939). Several sizes are bet
side by side and their mean counts, since none is the best for every mean: I. Waudby-Smith, A.
Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86(1), 2024, sections 4
and 5.

With `restarts` half of the wealth is kept back at first, and a part of what is kept is staked at
every step, which finds a change that comes late (the mixture over starting times of J. Shin, A.
Ramdas, A. Rinaldo, "E-detectors", NEJSDS 2(2), 2024, with weights that add up to 1).

What is assumed is the mean given the past and nothing else: values may depend on earlier ones.
Nothing holds against somebody who chooses the values.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from interlock.kernel.errors import ConfigError, InputError

# Sizes of the bets, as shares of the largest that cannot lose everything and more.
_SIZES = np.array([0.98, 0.75, *(2.0**-k for k in range(1, 10))])


class MeanTestState(msgspec.Struct, frozen=True):
    """A test as plain data."""

    log_wealth: list[float]
    log_kept: float | None
    steps: int
    peak: float


class MeanTest:
    """Evidence against "the mean is at most `bound`", for values within `low` … `high`.

    For "the mean is at least" negate the values, the bound and the ends. Not safe across threads.
    """

    def __init__(self, bound: float, low: float, high: float, *, restarts: bool = False) -> None:
        """Raises ConfigError unless low < bound < high."""
        if not low < bound < high:
            raise ConfigError(f"bound is {bound}; it must lie between {low} and {high}")
        self.bound, self.low, self.high = bound, low, high
        self._bets = _SIZES / (bound - low)
        start = 0.5 if restarts else 1.0
        self._log_wealth = np.full(_SIZES.size, math.log(start / _SIZES.size))
        self._log_kept = math.log(0.5) if restarts else None
        self._steps = 0
        self.peak = 0.0

    def add(self, values: Any) -> None:
        """Bet on values in their order; the evidence counts from their last one.

        Raises InputError for a value outside low … high.
        """
        found = np.asarray(values, dtype=np.float64)
        if found.size == 0:
            return
        if not (found.min() >= self.low and found.max() <= self.high):
            raise InputError(f"a value is outside {self.low} … {self.high}")
        gains = np.log1p(np.multiply.outer(found - self.bound, self._bets))
        self._log_wealth += gains.sum(axis=0)
        self._steps += 1
        self.peak = max(self.peak, self.log_e)
        if self._log_kept is None:
            return
        stake = self._log_kept - math.log(self._steps + 2)
        self._log_kept += math.log1p(-1 / (self._steps + 2))
        np.logaddexp(
            self._log_wealth, stake - math.log(self._log_wealth.size), out=self._log_wealth
        )

    @property
    def log_e(self) -> float:
        """The logarithm of the evidence now; 0 at the start. `peak` is the largest so far."""
        most = float(self._log_wealth.max())
        if self._log_kept is not None:
            most = max(most, self._log_kept)
        total = float(np.exp(self._log_wealth - most).sum())
        if self._log_kept is not None:
            total += math.exp(self._log_kept - most)
        return most + math.log(total)

    def state(self) -> MeanTestState:
        """Everything but the bound, for JSON; `restore` undoes it."""
        return MeanTestState(self._log_wealth.tolist(), self._log_kept, self._steps, self.peak)

    def restore(self, state: MeanTestState) -> None:
        """Go on where `state` was taken; raises InputError where it is of another kind of test."""
        numbers = [*state.log_wealth, state.peak, state.log_kept or 0.0]
        if (
            len(state.log_wealth) != _SIZES.size
            or (state.log_kept is None) != (self._log_kept is None)
            or not all(math.isfinite(number) for number in numbers)
            or state.steps < 0
        ):
            raise InputError("not the state of this test")
        self._log_wealth = np.array(state.log_wealth)
        self._log_kept, self._steps, self.peak = state.log_kept, state.steps, state.peak
