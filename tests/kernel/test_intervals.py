"""The score interval, against values from the literature and its own promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.kernel.intervals import wilson_interval


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(successes: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(total=st.integers(0, 10_000), data=st.data(), confidence=st.floats(0.01, 0.999))
def test_the_share_lies_inside(total: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, total))
    low, high = wilson_interval(successes, total, confidence)
    assert 0 <= low <= high <= 1
    if total:
        assert low <= successes / total <= high


def test_nothing_counted_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "total", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)]
)
def test_values_out_of_range_are_named(successes: int, total: int, confidence: float) -> None:
    with pytest.raises(InputError, match="must lie"):
        wilson_interval(successes, total, confidence)
