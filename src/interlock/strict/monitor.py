"""What the masks of a served model look like over time, in constant memory.

Two signs of drift stand beside each other. `acceptance_rate_drift_threshold` compares each batch
with the one before it and makes no statistical claim. `calibration` compares the whole stream with
the calibration sample, and raises a false alarm with at most the stated probability; see
`interlock.kernel.drift` for what that assumes.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

import msgspec

from interlock.kernel.drift import DriftState, RateDrift
from interlock.kernel.errors import ConfigError, InputError, StorageError
from interlock.kernel.events import EventLogger
from interlock.kernel.events import JsonlLogger as JsonlLogger
from interlock.kernel.outcome import decode_json, encode_json, struct_from_plain
from interlock.kernel.replace_file import replace_file
from interlock.strict.batch_counts import SIDES, BatchCounts, count_batch, magnitudes
from interlock.strict.tally import Tally, TallyState, share

STATE_SCHEMA = 1

_TRIGGERS = {
    "fault": "fault-bottom-trigger",
    "semantic_bottom": "semantic-bottom-trigger",
    "numerical_hazard": "numerical-hazard-trigger",
    "gap": "gap-trigger",
    "route": "route-trigger",
}


class Calibrated(Protocol):
    """What a calibration found: how many of `n` samples, which are rows, it accepted.

    A `candidates` beside it says among how many thresholds calibration chose on these samples;
    without one, any number is allowed for.
    """

    @property
    def accepted(self) -> int:
        """Samples without a bottom; those in the gap are accepted."""

    @property
    def n(self) -> int:
        """Samples."""


@dataclass(frozen=True)
class CalibratedRate:
    """Counts of a calibration, or of a validation with a threshold that was fixed before it."""

    accepted: int
    n: int
    candidates: int | None = 1


class _State(msgspec.Struct, frozen=True):
    bundle_id: str | None
    acceptance_rate_drift_threshold: float | None
    tally: TallyState
    last_accept_rate: float | None
    drift: DriftState | None
    drift_announced: bool
    schema: int = STATE_SCHEMA


class StrictInferenceMonitor:
    """Counts what strict inference accepted, flagged and refused, and watches for drift.

    bundle_id      names what is served in rates and events
    event_logger   takes a mapping an event, such as a `JsonlLogger`; events hold counts and rates,
                   never inputs or answers
    acceptance_rate_drift_threshold
                   an event "acceptance-rate-drift" where a batch's acceptance rate differs by this
                   much or more from that of the batch before
    calibration    the calibration certificate, or a `CalibratedRate`; an event "calibration-drift",
                   once, where the acceptance rate of rows has left what calibration found
    false_alarm_rate
                   bound on the probability that "calibration-drift" is ever sent while the rate
                   is unchanged, over a stream of any length
    summaries      how many batches `export_state` describes one by one, the latest

    Safe across threads; events are sent outside the lock. Raises ConfigError for values out of
    range.
    """

    def __init__(
        self,
        bundle_id: str | None = None,
        event_logger: EventLogger | None = None,
        acceptance_rate_drift_threshold: float | None = None,
        *,
        calibration: Calibrated | None = None,
        false_alarm_rate: float = 0.01,
        summaries: int = 256,
    ) -> None:
        threshold = acceptance_rate_drift_threshold
        if threshold is not None and not 0 < threshold <= 1:
            raise ConfigError(
                f"acceptance_rate_drift_threshold is {threshold}; it must lie in 0 … 1 and not be 0"
            )
        if summaries < 0:
            raise ConfigError(f"summaries is {summaries}; it must be 0 or more")
        self.bundle_id = bundle_id
        self.event_logger = event_logger
        self.acceptance_rate_drift_threshold = threshold
        self._drift = _drift_against(calibration, false_alarm_rate)
        self._drift_announced = False
        self._lock = threading.Lock()
        self._tally = Tally(summaries)
        self._last_accept_rate: float | None = None

    def update(
        self,
        bottom_mask: Any,
        gap_mask: Any = None,
        *,
        route_mask: Any = None,
        q_abs: Any = None,
        fault_mask: Any = None,
        semantic_bottom_mask: Any = None,
        bottom_provenance: Any = None,
        numerical_hazard_mask: Any = None,
    ) -> None:
        """Count one batch. Arrays or torch tensors; an empty batch counts as an update.

        bottom_mask, gap_mask    bool, (B,) or with further axes, disjoint
        route_mask               bool: what a fallback was asked for
        q_abs                    |Q|, real and not negative; NaN where there is none. The minimum
                                 is over all of it, quantiles over 4,096 of a larger batch
        fault_mask, semantic_bottom_mask, bottom_provenance
                                 why bottoms are bottoms: two bool masks, or codes (0 finite,
                                 1 fault, 2 semantic, 3 both); counted within bottom_mask
        numerical_hazard_mask    bool: finite answers that someone judged numerically unsafe;
                                 counted outside bottom_mask

        All have the shape of `bottom_mask`, or one entry a row; |Q| may have 1 as its last axis.
        Rates are by element, drift by row: a row is accepted where none of its elements is bottom.
        Raises InputError, before anything is counted, for other shapes and dtypes. What the event
        logger raises is passed on after the batch was counted.
        """
        batch = count_batch(
            bottom_mask,
            gap_mask,
            route_mask,
            fault_mask,
            semantic_bottom_mask,
            bottom_provenance,
            numerical_hazard_mask,
        )
        sizes = None if q_abs is None else magnitudes(q_abs, bottom_mask)
        with self._lock:
            if sizes is not None:
                self._tally.observe(*sizes)
            events = self._count(batch)
        if events:
            self._send(events)

    def rates(self) -> dict[str, Any]:
        """Shares of all elements so far, in JSON's types; None where nothing was counted.

        n, bottom_rate, gap_rate; accept_rate counts the gap as accepted, and
        accept_rate_excluding_gap does not. row_accept_rate is by row. denominator_min, route_rate,
        fault_rate, semantic_bottom_rate and numerical_hazard_rate are there where these were
        given, and calibration_accept_rate and drift_alarm where there is a calibration.
        """
        with self._lock:
            return self._rates()

    def export_state(
        self, *, include_histograms: bool = False, include_batch_summaries: bool = False
    ) -> dict[str, Any]:
        """The rates and what they are made of, in JSON's types, for dashboards and reports.

        include_histograms        how often each batch size and count per batch occurred; exact
                                  up to 63, above that the key is at most 1/32 below
        include_batch_summaries   the latest batches, one by one

        `to_json` is the form that can be read back.
        """
        with self._lock:
            state = self._rates() | self._tally.counts()
            if self._drift is not None:
                state["drift"] = _describe_drift(self._drift)
            if include_histograms:
                state["histograms"] = self._tally.histograms()
            if include_batch_summaries:
                state["batch_summaries"] = self._tally.batches()
            return state

    def reset_drift(self) -> None:
        """Take the alarm back and watch from here; each reset spends the false-alarm rate anew."""
        with self._lock:
            self._drift_announced = False
            if self._drift is not None:
                self._drift.reset()

    def merge(self, other: StrictInferenceMonitor) -> None:
        """Add what the monitor of another worker saw; in any order the counts are the same.

        Summaries of single batches belong to one worker's order, so a merged monitor starts
        without any. Raises ConfigError for another bundle or calibration.
        """
        # A copy first: two monitors that merge into each other must not wait for each other.
        theirs = StrictInferenceMonitor._from_state(other._state())
        with self._lock:
            if self.bundle_id != theirs.bundle_id:
                raise ConfigError(
                    f"monitors of {self.bundle_id!r} and of {theirs.bundle_id!r} do not merge"
                )
            if (self._drift is None) != (theirs._drift is None):
                raise ConfigError("monitors with and without a calibration do not merge")
            if self._drift is not None and theirs._drift is not None:
                self._drift.merge(theirs._drift)
                self._drift_announced |= theirs._drift_announced
            self._tally.merge(theirs._tally)
            self._last_accept_rate = None
            events = self._drift_event({})
        self._send(events)

    def to_json(self) -> bytes:
        """The whole state as versioned JSON."""
        return encode_json(self._state())

    @classmethod
    def from_json(
        cls, data: bytes | str, *, event_logger: EventLogger | None = None
    ) -> StrictInferenceMonitor:
        """Read what `to_json` wrote; raises InputError for anything else or a newer schema."""
        plain = decode_json(data, "a strict monitor", newest=STATE_SCHEMA)
        try:
            return cls._from_state(struct_from_plain(plain, _State), event_logger)
        except (msgspec.ValidationError, ConfigError) as error:
            raise InputError(f"not a strict monitor: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, in one step; raises StorageError and keeps the old one."""
        replace_file(Path(path), self.to_json())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, event_logger: EventLogger | None = None
    ) -> StrictInferenceMonitor:
        """Go on from what `save` wrote; raises StorageError and InputError."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None
        return cls.from_json(data, event_logger=event_logger)

    def _count(self, batch: BatchCounts) -> list[dict[str, Any]]:
        """Add one batch; the events that it calls for."""
        size, bottom, sides, rows, rows_accepted = batch
        self._tally.add(size, bottom, sides, rows, rows_accepted)
        if self._drift is not None:
            self._drift.add(rows_accepted, rows)
        if not size:
            return []
        accept_rate, previous = 1 - bottom / size, self._last_accept_rate
        self._last_accept_rate = accept_rate
        if self.event_logger is None:
            return []
        return self._events(size, sides, accept_rate, previous)

    def _events(
        self, size: int, sides: dict[str, int], accept_rate: float, previous: float | None
    ) -> list[dict[str, Any]]:
        tally = self._tally
        context = {
            "update_index": tally.updates,
            "batch_size": size,
            "running_accept_rate": share(tally.n - tally.bottom, tally.n),
        }
        events = [
            self._event(_TRIGGERS[side], {**context, "count": count, "rate": count / size})
            for side in SIDES
            if (count := sides.get(side))
        ]
        threshold = self.acceptance_rate_drift_threshold
        if threshold is not None and previous is not None:
            delta = accept_rate - previous
            # Rates are rounded quotients: 0.8 - 0.9 falls a hair short of 0.1.
            if abs(delta) > threshold or math.isclose(abs(delta), threshold):
                change = {
                    "accept_rate": accept_rate,
                    "previous_accept_rate": previous,
                    "delta": delta,
                    "threshold": threshold,
                    "direction": "increase" if delta > 0 else "decrease",
                }
                events.append(self._event("acceptance-rate-drift", context | change))
        return events + self._drift_event(context)

    def _drift_event(self, context: dict[str, Any]) -> list[dict[str, Any]]:
        """The alarm, until a logger has taken it."""
        if self._drift is None or self._drift.alarm is None or self._drift_announced:
            return []
        return [self._event("calibration-drift", context | _describe_drift(self._drift))]

    def _event(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {"event": name, "bundle_id": self.bundle_id, **fields}

    def _send(self, events: list[dict[str, Any]]) -> None:
        logger = self.event_logger
        if logger is None:
            return
        for event in events:
            if event["event"] == "calibration-drift":
                with self._lock:
                    if self._drift_announced:
                        continue
                    self._drift_announced = True
                try:
                    logger(event)
                except BaseException:
                    self._drift_announced = False
                    raise
            else:
                logger(event)

    def _rates(self) -> dict[str, Any]:
        rates: dict[str, Any] = {"bundle_id": self.bundle_id, **self._tally.rates()}
        if self._drift is not None:
            rates["calibration_accept_rate"] = share(*self._drift.calibrated)
            rates["drift_alarm"] = self._drift.alarm
        return rates

    def _state(self) -> _State:
        with self._lock:
            return _State(
                bundle_id=self.bundle_id,
                acceptance_rate_drift_threshold=self.acceptance_rate_drift_threshold,
                tally=self._tally.state(),
                last_accept_rate=self._last_accept_rate,
                drift=None if self._drift is None else self._drift.state(),
                drift_announced=self._drift_announced,
            )

    @classmethod
    def _from_state(
        cls, state: _State, event_logger: EventLogger | None = None
    ) -> StrictInferenceMonitor:
        threshold = state.acceptance_rate_drift_threshold
        monitor = cls(state.bundle_id, event_logger, threshold)
        monitor._tally = Tally.from_state(state.tally)
        monitor._last_accept_rate = state.last_accept_rate
        if state.drift is not None:
            monitor._drift = RateDrift.from_state(state.drift)
        monitor._drift_announced = state.drift_announced
        return monitor


def _drift_against(calibration: Calibrated | None, false_alarm_rate: float) -> RateDrift | None:
    if calibration is None:
        return None
    accepted, n = (getattr(calibration, name, None) for name in ("accepted", "n"))
    if not (isinstance(accepted, Integral) and isinstance(n, Integral)):
        raise ConfigError(
            f"calibration is a {type(calibration).__name__} without whole numbers accepted and n",
            hint="give the certificate of a calibration, or a CalibratedRate",
        )
    return RateDrift(
        int(accepted),
        int(n),
        false_alarm_rate=false_alarm_rate,
        candidates=getattr(calibration, "candidates", None),
    )


def _describe_drift(drift: RateDrift) -> dict[str, Any]:
    accepted, n = drift.calibrated
    return {
        "alarm": drift.alarm,
        "alarm_rows": drift.alarm_total,
        "rows": drift.total,
        "row_accept_rate": share(drift.successes, drift.total),
        "calibration_accept_rate": accepted / n,
        "calibration_rows": n,
        "low": drift.low,
        "high": drift.high,
        "false_alarm_rate": drift.false_alarm_rate,
        "log_e": drift.log_e,
        "log_needed": drift.log_needed,
    }
