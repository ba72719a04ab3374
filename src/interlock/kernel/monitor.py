"""What a stream of outcomes looks like, in constant memory: counts, rates and quantiles.

A monitor is lossy and aggregate; the durable record of each item is the journal. Monitors of
several workers merge, and a monitor's state survives a restart as versioned JSON.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.kernel.batch import RESULT_CODE, BatchOutcome
from interlock.kernel.errors import ConfigError, InputError
from interlock.kernel.intervals import wilson_interval
from interlock.kernel.outcome import (
    Outcome,
    Status,
    StepResult,
    decode_json,
    encode_json,
    strongest,
    struct_from_plain,
)
from interlock.kernel.sketch import QuantileSketch, SketchState, summary

MONITOR_SCHEMA = 1

OTHER = "other"
"""Stands for every label beyond those that are kept apart."""

_LONGEST_LABEL = 200
_MOST_NAMES = 64
_REASONED = [RESULT_CODE[StepResult.REFUSED], RESULT_CODE[StepResult.FLAGGED]]


class Counter:
    """A count that grows."""

    def __init__(self, total: int = 0) -> None:
        self.total = total

    def add(self, by: int) -> None:
        """Count `by` more; raises InputError for a negative number."""
        if by < 0:
            raise InputError(f"by is {by}; a counter cannot go back")
        self.total += by

    def merge(self, other: Counter) -> None:
        """Add what `other` counted."""
        self.total += other.total


class Rate:
    """A share of successes, with the interval in which the true rate lies."""

    def __init__(self, successes: int = 0, total: int = 0) -> None:
        self.successes = 0
        self.total = 0
        self.add(successes, total)

    def add(self, successes: int, total: int) -> None:
        """Count `successes` out of `total` more; raises InputError unless 0 ≤ successes ≤ total."""
        if not 0 <= successes <= total:
            raise InputError(f"successes is {successes} of {total}")
        self.successes += successes
        self.total += total

    @property
    def value(self) -> float | None:
        """successes / total; None where nothing was counted."""
        return self.successes / self.total if self.total else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval (E. B. Wilson, JASA 22, 1927); (0, 1) where nothing was counted.

        Its coverage is approximate, and holds for independent trials of one rate only: not for
        adversarial input, and not for a rate that drifts.
        """
        return wilson_interval(self.successes, self.total, confidence)

    def merge(self, other: Rate) -> None:
        """Add what `other` counted."""
        self.successes += other.successes
        self.total += other.total


class _Measure(Protocol):
    def merge(self, other: Any) -> None: ...


M = TypeVar("M", bound=_Measure)


class _State(msgspec.Struct, frozen=True):
    """A monitor as plain data: measures by name and label."""

    labels: int
    accuracy: float
    bins: int
    counters: dict[str, dict[str, int]]
    rates: dict[str, dict[str, tuple[int, int]]]
    sketches: dict[str, dict[str, SketchState]]
    schema: int = MONITOR_SCHEMA


class Monitor:
    """Counters, rates and quantile sketches by name and label. Safe across threads.

    Of each name the first `labels` labels are kept apart, and all further ones are counted
    together as "other". Memory stays below `_MOST_NAMES * (labels + 1) * 16 * bins` bytes, and in
    practice far below, since a sketch holds only the range that it saw.

    `observe_outcome` and `observe_batch` fill in, with r a route and s a step:

        counters  status; action; evidence (its kind); result ("s: refused"); reason ("s: near …",
                  of refusals and flags); retries (s)
        rates     usable (r: items with a value); answered (s: items answered of those asked)
        sketches  seconds (r), step_seconds (s) of single items;
                  batch_seconds (r), batch_step_seconds (s), batch_rows (r) of batches
    """

    def __init__(self, *, labels: int = 32, accuracy: float = 0.01, bins: int = 2048) -> None:
        """Raises ConfigError for fewer than 1 label; see `QuantileSketch` for the others."""
        if labels < 1:
            raise ConfigError(f"labels is {labels}; it must be 1 or more")
        QuantileSketch(accuracy, bins)
        self.labels = labels
        self.accuracy = accuracy
        self.bins = bins
        self._counters: dict[str, dict[str, Counter]] = {}
        self._rates: dict[str, dict[str, Rate]] = {}
        self._sketches: dict[str, dict[str, QuantileSketch]] = {}
        self._lock = threading.RLock()

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add `by` to a counter."""
        with self._lock:
            self._at(self._counters, name, label, Counter).add(by)

    def rate(self, name: str, successes: int, total: int, label: str = "") -> None:
        """Add `successes` out of `total` to a rate."""
        with self._lock:
            self._at(self._rates, name, label, Rate).add(successes, total)

    def observe(self, name: str, values: npt.ArrayLike, label: str = "") -> None:
        """Add a number, or an array of them, to a sketch."""
        with self._lock:
            self._at(self._sketches, name, label, self._sketch).add(values)

    def observe_outcome(self, outcome: Outcome[Any]) -> None:
        """Add one item's outcome."""
        with self._lock:
            self.count("status", outcome.status)
            if outcome.action is not None:
                self.count("action", outcome.action)
            if outcome.status.usable:
                self.count("evidence", outcome.evidence.kind)
            self.rate("usable", int(outcome.status.usable), 1, outcome.route)
            self.observe("seconds", math.fsum(s.seconds for s in outcome.steps), outcome.route)
            for step in outcome.steps:
                self.count("result", f"{step.name}: {step.result}")
                if step.result in (StepResult.REFUSED, StepResult.FLAGGED):
                    self.count("reason", f"{step.name}: {step.reason}")
                if step.attempts:
                    self._asked(step.name, int(step.result.answered), 1, step.attempts)
                    self.observe("step_seconds", step.seconds, step.name)

    def observe_batch(self, outcome: BatchOutcome) -> None:
        """Add a batch's outcome: its rows are counted like items, its times once."""
        with self._lock:
            counts = outcome.counts()
            for status, rows in counts.items():
                self._count_some("status", status, rows)
            usable = counts[Status.ACCEPTED] + counts[Status.FLAGGED]
            if outcome.action is not None:
                self._count_some("action", outcome.action, len(outcome) - usable)
            self.rate("usable", usable, len(outcome), outcome.route)
            self.observe("batch_rows", len(outcome), outcome.route)
            seconds = math.fsum(step.seconds for step in outcome.steps)
            self.observe("batch_seconds", seconds, outcome.route)
            for k, step in enumerate(outcome.steps):
                answered = int(np.count_nonzero(outcome.step == k))
                self._count_some("evidence", strongest(step.evidence).kind, answered)
                for result, rows in step.counts.items():
                    self.count("result", f"{step.name}: {result}", rows)
                reasoned = outcome.reasons[k][np.isin(outcome.results[k], _REASONED)]
                for text, rows in enumerate(np.bincount(reasoned).tolist()):
                    self._count_some("reason", f"{step.name}: {outcome.reason_texts[text]}", rows)
                if step.attempts:
                    self._asked(step.name, answered, step.rows, step.attempts)
                    self.observe("batch_step_seconds", step.seconds, step.name)

    def snapshot(
        self,
        *,
        quantiles: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99),
        confidence: float = 0.95,
    ) -> dict[str, Any]:
        """All of it in JSON's types: `counters`, `rates` and `quantiles`, by name and label."""
        with self._lock:
            return {
                "counters": {
                    name: {label: counter.total for label, counter in family.items()}
                    for name, family in self._counters.items()
                },
                "rates": {
                    name: {
                        label: _describe_rate(rate, confidence) for label, rate in family.items()
                    }
                    for name, family in self._rates.items()
                },
                "quantiles": {
                    name: {label: summary(sketch, quantiles) for label, sketch in family.items()}
                    for name, family in self._sketches.items()
                },
            }

    def merge(self, other: Monitor) -> None:
        """Add what `other` saw.

        Totals are exact. Where the two know more labels than are kept, those of this monitor and
        then the most frequent of the other stay apart. Raises ConfigError where the two differ
        in accuracy or bins.
        """
        if (self.accuracy, self.bins) != (other.accuracy, other.bins):
            raise ConfigError(
                f"monitors of accuracy {self.accuracy} with {self.bins} bins and of accuracy "
                f"{other.accuracy} with {other.bins} bins do not merge"
            )
        # A copy first: two monitors that merge into each other must not wait for each other.
        theirs = Monitor._from_state(other._state())
        with self._lock:
            for name, counters in theirs._counters.items():
                for label, counter in _by_weight(counters.items()):
                    self._at(self._counters, name, label, Counter).merge(counter)
            for name, rates in theirs._rates.items():
                for label, rate in _by_weight(rates.items()):
                    self._at(self._rates, name, label, Rate).merge(rate)
            for name, sketches in theirs._sketches.items():
                for label, sketch in _by_weight(sketches.items()):
                    self._at(self._sketches, name, label, self._sketch).merge(sketch)

    def to_json(self) -> bytes:
        """The whole state as versioned JSON."""
        return encode_json(self._state())

    @classmethod
    def from_json(cls, data: bytes | str) -> Monitor:
        """Read what `to_json` wrote; raises InputError for anything else or a newer schema."""
        plain = decode_json(data, "a monitor", newest=MONITOR_SCHEMA)
        try:
            return cls._from_state(struct_from_plain(plain, _State))
        except (msgspec.ValidationError, ConfigError) as error:
            raise InputError(f"not a monitor: {error}") from None

    def _state(self) -> _State:
        with self._lock:
            return _State(
                labels=self.labels,
                accuracy=self.accuracy,
                bins=self.bins,
                counters={
                    name: {label: counter.total for label, counter in family.items()}
                    for name, family in self._counters.items()
                },
                rates={
                    name: {label: (rate.successes, rate.total) for label, rate in family.items()}
                    for name, family in self._rates.items()
                },
                sketches={
                    name: {label: sketch.state() for label, sketch in family.items()}
                    for name, family in self._sketches.items()
                },
            )

    @classmethod
    def _from_state(cls, state: _State) -> Monitor:
        monitor = cls(labels=state.labels, accuracy=state.accuracy, bins=state.bins)
        for name, counters in state.counters.items():
            for label, total in counters.items():
                monitor.count(name, label, total)
        for name, rates in state.rates.items():
            for label, (successes, total) in rates.items():
                monitor.rate(name, successes, total, label)
        for name, sketches in state.sketches.items():
            for label, sketch in sketches.items():
                target = monitor._at(monitor._sketches, name, label, monitor._sketch)
                target.merge(QuantileSketch.from_state(sketch))
        return monitor

    def _asked(self, step: str, answered: int, asked: int, attempts: int) -> None:
        self.rate("answered", answered, asked, step)
        self._count_some("retries", step, attempts - 1)

    def _count_some(self, name: str, label: str, by: int) -> None:
        """Count, where there is something: a label that never occurs takes no place."""
        if by:
            self.count(name, label, by)

    def _sketch(self) -> QuantileSketch:
        return QuantileSketch(self.accuracy, self.bins)

    def _at(
        self, families: dict[str, dict[str, M]], name: str, label: str, make: Callable[[], M]
    ) -> M:
        """The measure under `name` and `label`, or under `name` and "other" beyond the limits."""
        if name not in families and len(families) >= _MOST_NAMES:
            raise ConfigError(f"a monitor keeps at most {_MOST_NAMES} names; '{name}' is one more")
        family = families.setdefault(name, {})
        label = label[:_LONGEST_LABEL]
        if label not in family and len(family) - (OTHER in family) >= self.labels:
            label = OTHER
        if label not in family:
            family[label] = make()
        return family[label]


def _by_weight(measures: Iterable[tuple[str, M]]) -> list[tuple[str, M]]:
    """The most frequent first; by label where two are equally frequent."""

    def weight(item: tuple[str, M]) -> tuple[int, str]:
        measure = item[1]
        total = measure.count if isinstance(measure, QuantileSketch) else measure.total  # type: ignore[attr-defined]
        return -int(total), item[0]

    return sorted(measures, key=weight)


def _describe_rate(rate: Rate, confidence: float) -> dict[str, Any]:
    low, high = rate.interval(confidence)
    return {
        "successes": rate.successes,
        "total": rate.total,
        "rate": rate.value,
        "low": low,
        "high": high,
        "confidence": confidence,
    }
