"""What the masks of many batches add up to, in constant memory; tallies of workers merge."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import msgspec
import numpy.typing as npt

from interlock.kernel.errors import InputError
from interlock.kernel.histogram import Histogram
from interlock.kernel.sketch import QuantileSketch, SketchState, summary
from interlock.strict.batch_counts import SIDES

_QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)

# Up to this many, adding numbers one by one is faster than adding an array.
_FEW = 16


class TallyState(msgspec.Struct, frozen=True):
    """A tally as plain data; `batches` hold update index, size, bottom and sides."""

    updates: int
    n: int
    bottom: int
    rows: int
    rows_accepted: int
    sides: dict[str, tuple[int, int]]
    histograms: dict[str, list[tuple[int, int]]]
    summaries: int
    batches: list[tuple[int, int, int, dict[str, int]]]
    q_abs_min: float
    q_abs: SketchState


class Tally:
    """Counts of updates, elements and rows. Not safe across threads.

    summaries   how many of the latest batches are kept one by one
    """

    def __init__(self, summaries: int) -> None:
        self.updates = self.n = self.bottom = self.rows = self.rows_accepted = 0
        self._sides: dict[str, tuple[int, int]] = {}
        self._sizes, self._bottoms = Histogram(), Histogram()
        self._histograms = {"batch_size": self._sizes, "batch_bottom_count": self._bottoms}
        self._batches: deque[tuple[int, int, int, dict[str, int]]] = deque(maxlen=summaries)
        self._q_abs_min = math.inf
        self._q_abs = QuantileSketch()

    def add(
        self, size: int, bottom: int, sides: dict[str, int], rows: int, rows_accepted: int
    ) -> None:
        """Count one batch, as `count_batch` found it; `sides` is kept."""
        self.updates += 1
        self.n += size
        self.bottom += bottom
        self.rows += rows
        self.rows_accepted += rows_accepted
        self._sizes.add(size)
        self._bottoms.add(bottom)
        for name, total in sides.items():
            updates, before = self.side(name)
            self._sides[name] = (updates + 1, before + total)
            key = f"batch_{name}_count"
            if key not in self._histograms:
                self._histograms[key] = Histogram()
            self._histograms[key].add(total)
        self._batches.append((self.updates, size, bottom, sides))

    def observe(self, least: float, q_abs: npt.NDArray[Any]) -> None:
        """Add |Q| of one batch: the least of it, infinite for none, and a sample of all of it."""
        self._q_abs_min = min(self._q_abs_min, least)
        if q_abs.size <= _FEW:
            for value in q_abs.ravel().tolist():
                self._q_abs.add(value)
        else:
            self._q_abs.add(q_abs)

    def side(self, name: str) -> tuple[int, int]:
        """Of one side: the updates that had it, and the elements set."""
        return self._sides.get(name, (0, 0))

    def rates(self) -> dict[str, Any]:
        """Shares, with the side rates and the minimum of |Q| where there are any."""
        _, gap = self.side("gap")
        accepted = self.n - self.bottom
        rates: dict[str, Any] = {
            "n": self.n,
            "bottom_rate": share(self.bottom, self.n),
            "gap_rate": share(gap, self.n),
            "accept_rate": share(accepted, self.n),
            "accept_rate_excluding_gap": share(accepted - gap, self.n),
            "row_accept_rate": share(self.rows_accepted, self.rows),
        }
        for name, (_, total) in self._sides.items():
            rates[f"{name}_rate"] = share(total, self.n)
        if self._q_abs_min < math.inf:
            rates["denominator_min"] = self._q_abs_min
        return rates

    def counts(self) -> dict[str, Any]:
        """What the rates are made of."""
        gap_updates, gap = self.side("gap")
        counts: dict[str, Any] = {
            "n_updates": self.updates,
            "n_gap_updates": gap_updates,
            "n_provenance_updates": self.side("fault")[0],
            "n_bottom": self.bottom,
            "n_gap": gap,
            "n_accept": self.n - self.bottom,
            "n_accept_excluding_gap": self.n - self.bottom - gap,
            "n_rows": self.rows,
            "n_rows_accepted": self.rows_accepted,
            "has_provenance": "fault" in self._sides,
        }
        for name, (updates, total) in self._sides.items():
            counts[f"n_{name}"] = total
            if name in ("route", "numerical_hazard"):
                counts[f"n_{name}_updates"] = updates
                counts[f"has_{name}"] = True
        if self._q_abs.count:
            counts["q_abs"] = summary(self._q_abs, _QUANTILES)
        return counts

    def histograms(self) -> dict[str, dict[str, int]]:
        """How often each batch size and each count per batch occurred."""
        return {
            name: {str(number): times for number, times in seen.state()}
            for name, seen in self._histograms.items()
        }

    def batches(self) -> list[dict[str, Any]]:
        """The latest batches, one by one."""
        return [_describe(*batch) for batch in self._batches]

    def merge(self, other: Tally) -> None:
        """Add what `other` counted. Single batches belong to one order of updates: none is kept."""
        self.updates += other.updates
        self.n += other.n
        self.bottom += other.bottom
        self.rows += other.rows
        self.rows_accepted += other.rows_accepted
        for name, (updates, total) in other._sides.items():
            mine = self.side(name)
            self._sides[name] = (mine[0] + updates, mine[1] + total)
        for name, seen in other._histograms.items():
            self._histograms.setdefault(name, Histogram()).merge(seen)
        self._batches.clear()
        self._q_abs_min = min(self._q_abs_min, other._q_abs_min)
        self._q_abs.merge(other._q_abs)

    def state(self) -> TallyState:
        """Everything, for JSON; `from_state` undoes it."""
        return TallyState(
            updates=self.updates,
            n=self.n,
            bottom=self.bottom,
            rows=self.rows,
            rows_accepted=self.rows_accepted,
            sides=dict(self._sides),
            histograms={name: seen.state() for name, seen in self._histograms.items()},
            summaries=self._batches.maxlen or 0,
            batches=list(self._batches),
            q_abs_min=self._q_abs_min,
            q_abs=self._q_abs.state(),
        )

    @classmethod
    def from_state(cls, state: TallyState) -> Tally:
        """The tally that `state` was taken of; raises InputError where it cannot be one."""
        sides = state.sides
        gap = sides.get("gap", (0, 0))[1]
        consistent = (
            state.updates >= 0
            and state.bottom >= 0
            and state.bottom + gap <= state.n
            and 0 <= state.rows_accepted <= state.rows
            and set(sides) <= set(SIDES)
            and all(0 <= u <= state.updates and 0 <= t <= state.n for u, t in sides.values())
            and len(state.batches) <= min(state.summaries, state.updates)
            and state.q_abs_min >= 0
            and all(set(batch[3]) <= set(sides) for batch in state.batches)
        )
        if not consistent:
            raise InputError("not a tally: its counts do not hold together")
        tally = cls(state.summaries)
        tally.updates, tally.n, tally.bottom = state.updates, state.n, state.bottom
        tally.rows, tally.rows_accepted = state.rows, state.rows_accepted
        tally._sides = dict(sides)
        for name, seen in state.histograms.items():
            tally._histograms.setdefault(name, Histogram()).merge(Histogram.from_state(seen))
        tally._batches.extend(state.batches)
        tally._q_abs_min = state.q_abs_min
        tally._q_abs = QuantileSketch.from_state(state.q_abs)
        return tally


def share(part: int, whole: int) -> float | None:
    """part / whole; None of nothing."""
    return part / whole if whole else None


def _describe(update_index: int, size: int, bottom: int, sides: dict[str, int]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "update_index": update_index,
        "batch_size": size,
        "bottom_count": bottom,
        "bottom_rate": share(bottom, size),
        "gap_count": 0,
        "gap_rate": share(0, size),
        "accept_count": size - bottom,
        "accept_rate": share(size - bottom, size),
        "has_gap": "gap" in sides,
        "has_provenance": "fault" in sides,
    }
    for name, total in sides.items():
        described |= {f"{name}_count": total, f"{name}_rate": share(total, size)}
    if "numerical_hazard" in sides:
        described["has_numerical_hazard"] = True
    return described
