"""Quantiles of a stream in constant memory, with a stated relative error; sketches merge.

Logarithmic buckets as in DDSketch (C. Masson, J. E. Rim, H. K. Lee, "DDSketch: a fast and
fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12(12), 2019).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import ConfigError, InputError

Indices = npt.NDArray[np.int64]

# Sums are kept exactly, as an integer count of the smallest float, so that merging is associative.
_UNIT_EXPONENT = 1074
_MANTISSA = 53
_CHUNK = 1 << 20


class QuantileSketch:
    """Counts of values in buckets whose bounds grow by `(1 + accuracy) / (1 - accuracy)`.

    `quantile(q)` is within `accuracy` (relative) of the value of rank `floor(q * (count - 1))`,
    as long as that value's bucket was not collapsed: of either sign only the `bins` buckets of
    largest magnitude are kept apart, smaller magnitudes share the lowest of them. With the
    defaults this spares the values within a factor of 6e17 of the largest. Memory is bounded by
    16 * `bins` bytes. `count`, `sum`, `minimum` and `maximum` are exact. NaN and infinities
    are counted in `nan`, `positive_infinite` and `negative_infinite` and enter nothing else.
    Not safe across threads.
    """

    def __init__(self, accuracy: float = 0.01, bins: int = 2048) -> None:
        """Raises ConfigError for an `accuracy` outside 1e-6 … 0.5 or fewer than 2 bins."""
        if not 1e-6 <= accuracy <= 0.5:
            raise ConfigError(f"accuracy is {accuracy}; it must lie in 1e-6 … 0.5")
        if not bins >= 2:
            raise ConfigError(f"bins is {bins}; it must be 2 or more")
        self.accuracy = accuracy
        self.bins = bins
        self.minimum: float | None = None
        self.maximum: float | None = None
        self.nan = 0
        self.positive_infinite = 0
        self.negative_infinite = 0
        self._log_gamma = math.log1p(accuracy) - math.log1p(-accuracy)
        self._zeros = 0
        self._positive = _Buckets(bins)
        self._negative = _Buckets(bins)
        self._units = 0

    @property
    def count(self) -> int:
        """How many finite values were added."""
        return self._zeros + self._positive.total + self._negative.total

    @property
    def sum(self) -> float:
        """The sum of the finite values, rounded once."""
        try:
            return self._units / (1 << _UNIT_EXPONENT)
        except OverflowError:
            return math.inf if self._units > 0 else -math.inf

    @property
    def collapsed(self) -> bool:
        """Whether some values lost their bucket, and with it the stated accuracy."""
        return self._positive.collapsed or self._negative.collapsed

    def add(self, values: float | npt.ArrayLike) -> None:
        """Count a number, or every number of an array of any shape.

        Raises InputError for what is not real. Values are taken as float64.
        """
        if isinstance(values, float):
            self._add_one(values)
            return
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise InputError(f"values have dtype {array.dtype}; they must be real numbers")
        # Adding zero turns -0.0 into 0.0, so that the order of two zeros cannot matter.
        flat = array.astype(np.float64).ravel() + 0.0
        finite = flat[np.isfinite(flat)]
        if finite.size < flat.size:
            self.nan += int(np.isnan(flat).sum())
            self.positive_infinite += int(np.isposinf(flat).sum())
            self.negative_infinite += int(np.isneginf(flat).sum())
        if finite.size == 0:
            return
        self._widen(float(finite.min()), float(finite.max()))
        positive, negative = finite[finite > 0], finite[finite < 0]
        self._zeros += finite.size - positive.size - negative.size
        self._positive.add(self._index(positive))
        self._negative.add(self._index(-negative))
        self._units += sum(
            _units(finite[start : start + _CHUNK]) for start in range(0, finite.size, _CHUNK)
        )

    def quantile(self, q: float) -> float | None:
        """The value of rank `floor(q * (count - 1))`, estimated; None where nothing was added.

        The first and the last rank are exact. Raises InputError for `q` outside 0 … 1.
        """
        if not 0 <= q <= 1:
            raise InputError(f"q is {q}; it must lie in 0 … 1")
        if self.minimum is None or self.maximum is None:
            return None
        rank = min(math.floor(q * (self.count - 1)), self.count - 1)
        if rank == 0:
            return self.minimum
        if rank == self.count - 1:
            return self.maximum
        if rank < self._negative.total:
            # The most negative value comes first, and has the highest index.
            value = -self._value(self._negative.index_at(self._negative.total - 1 - rank))
        elif rank < self._negative.total + self._zeros:
            value = 0.0
        else:
            rank -= self._negative.total + self._zeros
            value = self._value(self._positive.index_at(rank))
        return min(max(value, self.minimum), self.maximum)

    def merge(self, other: QuantileSketch) -> None:
        """Add what `other` counted. In any order and grouping the result is the same.

        Raises ConfigError where the two differ in accuracy or bins.
        """
        if (self.accuracy, self.bins) != (other.accuracy, other.bins):
            raise ConfigError(
                f"sketches of accuracy {self.accuracy} with {self.bins} bins and of accuracy "
                f"{other.accuracy} with {other.bins} bins do not merge"
            )
        if other.minimum is not None and other.maximum is not None:
            self._widen(other.minimum, other.maximum)
        self.nan += other.nan
        self.positive_infinite += other.positive_infinite
        self.negative_infinite += other.negative_infinite
        self._zeros += other._zeros
        self._positive.merge(other._positive)
        self._negative.merge(other._negative)
        self._units += other._units

    def state(self) -> SketchState:
        """Everything, for JSON; `from_state` undoes it."""
        return SketchState(
            accuracy=self.accuracy,
            bins=self.bins,
            minimum=self.minimum,
            maximum=self.maximum,
            nan=self.nan,
            positive_infinite=self.positive_infinite,
            negative_infinite=self.negative_infinite,
            zeros=self._zeros,
            positive=self._positive.state(),
            negative=self._negative.state(),
            units=hex(self._units),
        )

    @classmethod
    def from_state(cls, state: SketchState) -> QuantileSketch:
        """The sketch that `state` was taken of; raises InputError where it cannot be one."""
        try:
            sketch = cls(state.accuracy, state.bins)
            sketch._units = int(state.units, 16)
        except ValueError as error:
            raise InputError(f"not a sketch: {error}") from None
        sketch._positive = _Buckets.from_state(state.positive, state.bins)
        sketch._negative = _Buckets.from_state(state.negative, state.bins)
        sketch._zeros = state.zeros
        sketch.nan = state.nan
        sketch.positive_infinite = state.positive_infinite
        sketch.negative_infinite = state.negative_infinite
        sketch.minimum, sketch.maximum = state.minimum, state.maximum
        if min(state.zeros, state.nan, state.positive_infinite, state.negative_infinite) < 0:
            raise InputError("not a sketch: a count is below zero")
        low, high = state.minimum, state.maximum
        if low is None or high is None:
            consistent = low is high is None and sketch.count == 0 and sketch._units == 0
        else:
            consistent = sketch.count > 0 and -math.inf < low <= high < math.inf
        if not consistent:
            raise InputError(f"not a sketch: {low} … {high} as range of {sketch.count} values")
        return sketch

    def _add_one(self, value: float) -> None:
        """`add` without arrays: a latency at a time is the common case."""
        if not math.isfinite(value):
            self.nan += math.isnan(value)
            self.positive_infinite += value == math.inf
            self.negative_infinite += value == -math.inf
            return
        value += 0.0
        self._widen(value, value)
        if value == 0:
            self._zeros += 1
            return
        index = math.ceil(math.log(abs(value)) / self._log_gamma)
        (self._positive if value > 0 else self._negative).add_one(index)
        fraction, exponent = math.frexp(value)
        self._units += _shifted(int(math.ldexp(fraction, _MANTISSA)), exponent)

    def _widen(self, low: float, high: float) -> None:
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def _index(self, magnitudes: npt.NDArray[np.float64]) -> Indices:
        """Bucket k holds gamma ** (k - 1) < magnitude <= gamma ** k."""
        return np.ceil(np.log(magnitudes) / self._log_gamma).astype(np.int64)

    def _value(self, index: int) -> float:
        """The value whose relative distance from both bounds of the bucket is the accuracy."""
        log = index * self._log_gamma + math.log1p(-self.accuracy)
        return math.exp(log) if log < 709.0 else math.inf


class _Buckets:
    """Counts by index, over at most `bins` consecutive indices up to the highest seen."""

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.low = 0
        self.lowest_seen = 0
        self.counts = np.zeros(0, dtype=np.int64)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def collapsed(self) -> bool:
        return self.lowest_seen < self.low

    def add(self, indices: Indices) -> None:
        if indices.size == 0:
            return
        lowest = int(indices.min())
        self._cover(lowest, int(indices.max()), lowest)
        at = np.maximum(indices, self.low) - self.low
        self.counts += np.bincount(at, minlength=self.counts.size)

    def add_one(self, index: int) -> None:
        if not self.low <= index < self.low + self.counts.size:
            self._cover(index, index, index)
        self.counts[max(index, self.low) - self.low] += 1

    def merge(self, other: _Buckets) -> None:
        if other.counts.size == 0:
            return
        self._cover(other.low, other.low + other.counts.size - 1, other.lowest_seen)
        at = np.maximum(np.arange(other.counts.size) + other.low, self.low) - self.low
        np.add.at(self.counts, at, other.counts)

    def index_at(self, rank: int) -> int:
        """The index of the bucket that holds rank `rank` (from 0, by rising index)."""
        return self.low + int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))

    def state(self) -> BucketState:
        return BucketState(self.low, self.lowest_seen, self.counts.tolist())

    @classmethod
    def from_state(cls, state: BucketState, bins: int) -> _Buckets:
        buckets = cls(bins)
        buckets.low, buckets.lowest_seen = state.low, state.lowest_seen
        total = sum(state.counts)
        if (
            len(state.counts) > bins
            or any(n < 0 for n in state.counts)
            or total >= 1 << 63
            or abs(state.low) >= 1 << 60
            or not -(1 << 60) < state.lowest_seen <= state.low
            or (state.counts and not state.counts[-1])
        ):
            raise InputError("not a sketch: its buckets do not hold together")
        buckets.counts = np.array(state.counts, dtype=np.int64)
        return buckets

    def _cover(self, low: int, high: int, lowest_seen: int) -> None:
        """Make room for `low` … `high`, collapsing what falls below the highest `bins`."""
        if self.counts.size:
            high = max(high, self.low + self.counts.size - 1)
            low = min(low, self.low)
            lowest_seen = min(lowest_seen, self.lowest_seen)
        low = max(low, high - self.bins + 1)
        if not self.counts.size or (low, high) != (self.low, self.low + self.counts.size - 1):
            counts = np.zeros(high - low + 1, dtype=np.int64)
            kept = self.counts[max(0, low - self.low) :]
            start = max(0, self.low - low)
            counts[start : start + kept.size] = kept
            counts[0] += self.counts[: max(0, low - self.low)].sum()
            self.counts, self.low = counts, low
        self.lowest_seen = lowest_seen


class BucketState(msgspec.Struct, frozen=True):
    """The buckets of one sign: counts from index `low` on."""

    low: int
    lowest_seen: int
    counts: list[int]


class SketchState(msgspec.Struct, frozen=True):
    """A sketch as plain data. `units` is the exact sum in units of 2 ** -1074, hexadecimal."""

    accuracy: float
    bins: int
    minimum: float | None
    maximum: float | None
    nan: int
    positive_infinite: int
    negative_infinite: int
    zeros: int
    positive: BucketState
    negative: BucketState
    units: str


def _units(values: npt.NDArray[np.float64]) -> int:
    """The exact sum of at most 2 ** 20 finite values, in units of 2 ** -1074."""
    fractions, exponents = np.frexp(values)
    mantissas = np.ldexp(fractions, _MANTISSA).astype(np.int64)
    present, where = np.unique(exponents, return_inverse=True)
    # Halves of a mantissa have at most 27 bits, so 2 ** 20 of them add up exactly as floats.
    high = np.bincount(where, weights=mantissas >> 27)
    low = np.bincount(where, weights=mantissas & ((1 << 27) - 1))
    total = 0
    for exponent, upper, lower in zip(present.tolist(), high, low, strict=True):
        total += _shifted((int(upper) << 27) + int(lower), exponent)
    return total


def _shifted(mantissa: int, exponent: int) -> int:
    """`mantissa` * 2 ** (`exponent` - 53), in units of 2 ** -1074."""
    shift = exponent - _MANTISSA + _UNIT_EXPONENT
    # A subnormal's mantissa ends in zeros, so nothing is lost to the right.
    return mantissa << shift if shift >= 0 else mantissa >> -shift


def summary(sketch: QuantileSketch, quantiles: tuple[float, ...]) -> dict[str, Any]:
    """Count, sum, mean, range and quantiles (`p50` for 0.5), in JSON's types."""
    count = sketch.count
    return {
        "count": count,
        "sum": sketch.sum,
        "mean": sketch.sum / count if count else None,
        "min": sketch.minimum,
        "max": sketch.maximum,
        **{f"p{100 * q:g}": sketch.quantile(q) for q in quantiles},
        "collapsed": sketch.collapsed,
        "nan": sketch.nan,
        "infinite": sketch.positive_infinite + sketch.negative_infinite,
    }
