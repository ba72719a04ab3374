"""The intervals, against values from the literature, exact sums and their own promises."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.kernel.intervals import clopper_pearson_interval, wilson_interval


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


def tail(total: int, rate: float, at_least: int) -> float:
    """The probability of `at_least` or more of `total`, in exact arithmetic."""
    p = Fraction(rate)
    terms = (comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(at_least, total + 1))
    return float(sum(terms))


@pytest.mark.parametrize(
    ("successes", "total"), [(1, 10), (9, 10), (3, 50), (40, 200), (1, 300), (299, 300)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.998])
def test_each_end_of_the_exact_interval_is_missed_with_half_of_the_rest(
    successes: int, total: int, confidence: float
) -> None:
    low, high = clopper_pearson_interval(successes, total, confidence)
    half = pytest.approx((1 - confidence) / 2, rel=1e-9)
    assert tail(total, low, successes) == half
    assert 1 - tail(total, high, successes + 1) == half


@pytest.mark.parametrize("total", [1, 20, 10**9])
def test_without_an_exception_the_exact_interval_is_a_power(total: int) -> None:
    high = clopper_pearson_interval(0, total)[1]
    assert (1 - high) ** total == pytest.approx(0.025, rel=1e-6)
    assert clopper_pearson_interval(0, total)[0] == 0
    assert clopper_pearson_interval(total, total) == pytest.approx((1 - high, 1))


@given(total=st.integers(1, 5_000), data=st.data(), confidence=st.floats(0.01, 0.999))
def test_the_exact_interval_holds_the_share_and_mirrors(
    total: int, data: st.DataObject, confidence: float
) -> None:
    successes = data.draw(st.integers(0, total))
    low, high = clopper_pearson_interval(successes, total, confidence)
    assert 0 <= low <= successes / total <= high <= 1
    mirrored = clopper_pearson_interval(total - successes, total, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("successes", [10**8, 9 * 10**8, 5])
def test_a_thousand_million_trials_are_close_to_normal(successes: int) -> None:
    low, high = clopper_pearson_interval(successes, 10**9)
    score = wilson_interval(successes, 10**9)
    assert (low, high) == pytest.approx(score, rel=1e-6 if successes > 5 else 0.5)


@pytest.mark.parametrize(
    ("successes", "total", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)]
)
def test_the_exact_interval_names_values_out_of_range(
    successes: int, total: int, confidence: float
) -> None:
    assert clopper_pearson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(InputError, match="must lie"):
        clopper_pearson_interval(successes, total, confidence)
