"""Histograms of counts: exact where it matters, bounded, and they merge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.kernel.histogram import Histogram

NUMBERS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 200))


def of(numbers: list[int]) -> Histogram:
    """What counted `numbers`."""
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram


def test_small_numbers_stay_apart_and_large_ones_keep_two_digits() -> None:
    assert of([0, 1, 1, 63, 64, 65, 1_000, 1_001]).state() == [
        (0, 1),
        (1, 2),
        (63, 1),
        (64, 2),
        (992, 2),
    ]


@given(st.integers(0, 2**64 - 1))
def test_the_key_is_less_than_a_thirty_second_below(number: int) -> None:
    ((key, times),) = of([number]).state()
    assert times == 1
    assert key <= number
    assert (number - key) * 32 < max(number, 1)


def test_memory_is_bounded() -> None:
    every = of([(1 << bits) + (step << bits >> 5) for bits in range(64) for step in range(32)])
    assert len(every.counts) <= 1_920


@given(NUMBERS, NUMBERS)
def test_histograms_merge_and_survive_json(one: list[int], other: list[int]) -> None:
    merged = of(one)
    merged.merge(of(other))
    assert merged.state() == of(other + one).state()
    assert Histogram.from_state(merged.state()).state() == merged.state()


@pytest.mark.parametrize("state", [[(-1, 1)], [(1, 0)], [(1, 1), (1, 2)], [(65, 1)]])
def test_a_state_that_cannot_be_is_refused(state: list[tuple[int, int]]) -> None:
    with pytest.raises(InputError):
        Histogram.from_state(state)
