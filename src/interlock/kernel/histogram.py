"""How often each count occurred, in bounded memory; histograms merge exactly."""

from __future__ import annotations

from collections.abc import Iterable

from interlock.kernel.errors import InputError

_BITS = 6
"""Significant bits that are kept apart: numbers below 2 ** _BITS exactly."""


class Histogram:
    """Counts by whole number: exactly up to 63, above by a lower bound less than 1/32 away.

    Numbers up to 2 ** 64 need at most 1,920 entries. `counts` maps lower bound to count.
    """

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, number: int) -> None:
        """Count a number that is 0 or more."""
        if number >> _BITS:
            shift = number.bit_length() - _BITS
            number = number >> shift << shift
        self.counts[number] = self.counts.get(number, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add what `other` counted."""
        for number, times in other.counts.items():
            self.counts[number] = self.counts.get(number, 0) + times

    def state(self) -> list[tuple[int, int]]:
        """Number and count, by rising number, for JSON; `from_state` undoes it."""
        return sorted(self.counts.items())

    @classmethod
    def from_state(cls, state: Iterable[tuple[int, int]]) -> Histogram:
        """The histogram that `state` was taken of; raises InputError where it cannot be one."""
        histogram = cls()
        for number, times in state:
            if number < 0 or times < 1 or number in histogram.counts:
                raise InputError(f"not a histogram: {times} times {number}")
            histogram.add(number)
            if number not in histogram.counts:
                raise InputError(f"not a histogram: {number} is no lower bound")
            histogram.counts[number] = times
        return histogram
