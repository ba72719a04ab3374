"""Whether a rate still is what a calibration sample found: a test that may be looked at any time.

The null hypothesis is an interval, since the calibrated rate is itself an estimate. The budget of
false alarms is split between the two ways to be wrong:

    INTERVAL_SHARE of it   the interval misses the true rate
    the rest               the stream makes an e-process reach 1 / (its share), Ville's inequality

so that over a stream of any length, looked at after every batch, a false alarm has at most the
stated probability. It is over both the calibration sample and the stream.

The e-process is a wealth that starts at 1 and cannot grow on average while the null holds. Each bet
is a likelihood ratio of a rate beyond one end of the interval against that end, so its expectation
is at most 1 for every rate inside. Most of what is not yet bet is kept back, and a small part of it
is staked at every step, which finds a change that comes late (the mixture over starting times of
J. Shin, A. Ramdas, A. Rinaldo, "E-detectors", NEJSDS 2(2), 2024, with weights that add up to 1, so
that the bound is on the probability of a false alarm and not on how often one comes). For bets see
I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86(1),
2024.

What is assumed: the calibration sample is independent draws of the rate, and in the stream the
probability of a success, given everything before, stays inside the interval. Trials may depend on
the past in any other way. Trials that repeat one another (the elements of one row, the frames of
one video) are not covered: count such a group as one trial. Nothing holds against an adversary who
chooses inputs.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from interlock.kernel.errors import ConfigError, InputError
from interlock.kernel.intervals import clopper_pearson_interval

INTERVAL_SHARE = 0.8
"""The larger part: no length of stream makes the interval narrower."""

Direction = Literal["rise", "fall"]

# The distance of each bet's rate from the end of the interval, as a share of what lies beyond it.
_REACH = np.array([0.875, *(2.0**-k for k in range(1, 12))])

# Trials are gathered until a step is worth its arithmetic. A batch is never split.
_STEP = 8


class DriftState(msgspec.Struct, frozen=True):
    """A test as plain data."""

    calibrated: tuple[int, int]
    candidates: int | None
    false_alarm_rate: float
    successes: int
    total: int
    waiting: tuple[int, int]
    steps: int
    streams: int
    log_kept: float
    log_wealth: list[float]
    alarm: Direction | None
    alarm_total: int | None


class RateDrift:
    """A two-sided test of `successes` of `total` in calibration against a stream that follows.

    false_alarm_rate  bound on the probability of ever raising an alarm while the rate is unchanged
    candidates        among how many thresholds calibration chose on this very sample; the
                      interval then holds for all of them at once. None: any number of thresholds
                      on one score, by the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart

    `low` and `high` are the interval. The alarm latches: it stays until `reset`. Not safe across
    threads.
    """

    def __init__(
        self,
        successes: int,
        total: int,
        *,
        false_alarm_rate: float = 0.01,
        candidates: int | None = 1,
    ) -> None:
        """Raises ConfigError for counts or a rate out of range, or where `total` says nothing."""
        if not 0 <= successes <= total or total < 1:
            raise ConfigError(f"calibration has {successes} successes of {total}")
        if not 0 < false_alarm_rate < 1:
            raise ConfigError(
                f"false_alarm_rate is {false_alarm_rate}; it must lie between 0 and 1"
            )
        if candidates is not None and candidates < 1:
            raise ConfigError(f"candidates is {candidates}; it must be 1 or more, or None")
        self.calibrated = (successes, total)
        self.candidates = candidates
        self.false_alarm_rate = false_alarm_rate
        self.low, self.high = _interval(
            successes, total, INTERVAL_SHARE * false_alarm_rate, candidates
        )
        if self.low <= 0 and self.high >= 1:
            raise ConfigError(
                f"calibration on {total} samples says nothing about the rate",
                hint="calibrate on more samples",
            )
        self._log_needed = -math.log((1 - INTERVAL_SHARE) * false_alarm_rate)
        self._on_success, self._on_failure, self._rises = _bets(self.low, self.high)
        self.reset()

    def reset(self) -> None:
        """Forget the stream and the alarm. The bound holds anew from here: each reset spends it."""
        bets = self._on_success.size
        self.alarm: Direction | None = None
        self.alarm_total: int | None = None
        self.successes = 0
        self.total = 0
        self._waiting = [0, 0]
        self._steps = 0
        self._streams = 1
        # Half is bet from the start, half is kept for changes that come later.
        self._log_kept = math.log(0.5)
        self._log_wealth = np.full(bets, math.log(0.5 / bets))

    def add(self, successes: int, total: int) -> bool:
        """Count `successes` out of `total` more; True where this raises the alarm.

        A decision may wait for up to 7 further trials. Raises InputError unless
        0 ≤ successes ≤ total.
        """
        if not 0 <= successes <= total:
            raise InputError(f"successes is {successes} of {total}")
        self.successes += successes
        self.total += total
        waiting = self._waiting
        waiting[0] += successes
        waiting[1] += total
        return waiting[1] >= _STEP and self._step()

    @property
    def log_e(self) -> float:
        """The logarithm of the evidence against the null; ln 1 = 0 at the start.

        The mean over the streams that were merged, of the trials that were worked in.
        """
        most = max(float(self._log_wealth.max()), self._log_kept)
        total = np.exp(self._log_wealth - most).sum() + math.exp(self._log_kept - most)
        return most + math.log(total) - math.log(self._streams)

    @property
    def log_needed(self) -> float:
        """What `log_e` has to reach for an alarm."""
        return self._log_needed

    def merge(self, other: RateDrift) -> bool:
        """Add another stream with the same calibration; True where this raises the alarm.

        The evidence becomes the mean over all streams, whose bound is the stated one. An alarm of
        either is kept, so a fleet of k workers that each raise their own has up to k times the
        rate. In any order and grouping the result is the same, rounding aside. Raises ConfigError
        where the two tests differ.
        """
        if (self.calibrated, self.candidates, self.false_alarm_rate) != (
            other.calibrated,
            other.candidates,
            other.false_alarm_rate,
        ):
            raise ConfigError("drift tests of different calibrations do not merge")
        before = self.alarm
        theirs = RateDrift.from_state(other.state())
        for side in (self, theirs):
            if side._waiting[1]:
                side._step()
        self.successes += theirs.successes
        self.total += theirs.total
        self._steps += theirs._steps
        self._streams += theirs._streams
        self._log_kept = float(np.logaddexp(self._log_kept, theirs._log_kept))
        self._log_wealth = np.logaddexp(self._log_wealth, theirs._log_wealth)
        # The earlier one stands, and of two equally early ones the same in either order.
        alarms = [
            (side.alarm_total, side.alarm)
            for side in (self, theirs)
            if side.alarm is not None and side.alarm_total is not None
        ]
        if alarms:
            self.alarm_total, self.alarm = min(alarms)
        self._judge()
        return before is None and self.alarm is not None

    def state(self) -> DriftState:
        """Everything, for JSON; `from_state` undoes it."""
        return DriftState(
            calibrated=self.calibrated,
            candidates=self.candidates,
            false_alarm_rate=self.false_alarm_rate,
            successes=self.successes,
            total=self.total,
            waiting=(self._waiting[0], self._waiting[1]),
            steps=self._steps,
            streams=self._streams,
            log_kept=self._log_kept,
            log_wealth=self._log_wealth.tolist(),
            alarm=self.alarm,
            alarm_total=self.alarm_total,
        )

    @classmethod
    def from_state(cls, state: DriftState) -> RateDrift:
        """The test that `state` was taken of; raises InputError where it cannot be one."""
        try:
            drift = cls(
                *state.calibrated,
                false_alarm_rate=state.false_alarm_rate,
                candidates=state.candidates,
            )
        except ConfigError as error:
            raise InputError(f"not a drift test: {error}") from None
        logs = [state.log_kept, *state.log_wealth]
        if (
            len(state.log_wealth) != drift._log_wealth.size
            or not all(math.isfinite(log) for log in logs)
            or not 0 <= state.waiting[0] <= state.waiting[1] <= state.total
            or not 0 <= state.successes <= state.total
            or state.waiting[0] > state.successes
            or state.steps < 0
            or state.streams < 1
            or (state.alarm is None) != (state.alarm_total is None)
        ):
            raise InputError("not a drift test: its counts do not hold together")
        drift.successes, drift.total = state.successes, state.total
        drift._waiting = list(state.waiting)
        drift._steps, drift._streams = state.steps, state.streams
        drift._log_kept = state.log_kept
        drift._log_wealth = np.array(state.log_wealth)
        drift.alarm, drift.alarm_total = state.alarm, state.alarm_total
        return drift

    def _step(self) -> bool:
        """Settle the bets on what waits, judge, and stake a part of what is kept."""
        successes, total = self._waiting
        self._waiting = [0, 0]
        self._steps += 1
        wealth = self._log_wealth
        # Floats first: a count that NumPy takes for an integer array costs twice the time.
        wealth += float(successes) * self._on_success
        wealth += float(total - successes) * self._on_failure
        raised = self._judge()
        # After t steps 1 / (t + 2) is still kept: a change after t steps has to overcome a factor
        # that grows like t squared, and no faster.
        stake = self._log_kept - math.log(self._steps + 2)
        self._log_kept += math.log1p(-1 / (self._steps + 2))
        np.logaddexp(wealth, stake - math.log(wealth.size), out=wealth)
        return raised

    def _judge(self) -> bool:
        if self.alarm is not None:
            return False
        # The sum is at most the largest times their number; most steps end here.
        most = max(float(self._log_wealth.max()), self._log_kept)
        bound = most + math.log((self._log_wealth.size + 1) / self._streams)
        if bound < self._log_needed or self.log_e < self._log_needed:
            return False
        self.alarm = "rise" if self._rises[int(self._log_wealth.argmax())] else "fall"
        self.alarm_total = self.total
        return True


def _interval(
    successes: int, total: int, error: float, candidates: int | None
) -> tuple[float, float]:
    if candidates is None:
        half = math.sqrt(math.log(2 / error) / (2 * total))
        rate = successes / total
        return max(0.0, rate - half), min(1.0, rate + half)
    return clopper_pearson_interval(successes, total, 1 - error / candidates)


def _bets(low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each bet adds to its logarithm at a success and at a failure, and whether it rises."""
    on_success, on_failure, rises = [], [], []
    if high < 1:
        on_success.append(np.log1p(_REACH * (1 - high) / high))
        on_failure.append(np.log1p(-_REACH))
        rises.append(np.ones(_REACH.size, np.bool_))
    if low > 0:
        on_success.append(np.log1p(-_REACH))
        on_failure.append(np.log1p(_REACH * low / (1 - low)))
        rises.append(np.zeros(_REACH.size, np.bool_))
    return np.concatenate(on_success), np.concatenate(on_failure), np.concatenate(rises)
