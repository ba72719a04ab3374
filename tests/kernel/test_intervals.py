"""Intervals of a share, against values from the literature, exact sums and their own promises."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.kernel.intervals import (
    binomial_cdf,
    clopper_pearson_interval,
    clopper_pearson_upper,
    wilson_interval,
)


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


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 5.
    [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_published_exact_intervals(successes: int, total: int, low: float, high: float) -> None:
    assert clopper_pearson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


def exact_cdf(successes: int, total: int, share: Fraction) -> Fraction:
    """P(X <= successes), term by term in fractions."""
    terms = (comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(successes + 1))
    return sum(terms, start=Fraction(0))


@given(total=st.integers(1, 80), data=st.data(), share=st.fractions(0, 1, max_denominator=1000))
def test_the_distribution_is_exact(total: int, data: st.DataObject, share: Fraction) -> None:
    successes = data.draw(st.integers(0, total))
    exact = exact_cdf(successes, total, share)
    assert binomial_cdf(successes, total, float(share)) == pytest.approx(float(exact), rel=1e-11)


@pytest.mark.parametrize(
    ("successes", "total", "share", "cdf"),
    # scipy.stats.binom.cdf
    [
        (9_700, 1_000_000, 0.01, 0.0012493412682678662),
        (100, 1_000_000, 0.0001, 0.5265621985632194),
        (499_000, 1_000_000, 0.5, 0.0228041499326948),
    ],
)
def test_the_distribution_at_a_million_trials(
    successes: int, total: int, share: float, cdf: float
) -> None:
    assert binomial_cdf(successes, total, share) == pytest.approx(cdf, rel=1e-7)


@given(total=st.integers(1, 100_000), data=st.data(), confidence=st.floats(0.01, 0.999_999))
def test_at_the_exact_bound_so_few_successes_are_as_rare_as_asked(
    total: int, data: st.DataObject, confidence: float
) -> None:
    successes = data.draw(st.integers(0, total - 1))
    bound = clopper_pearson_upper(successes, total, confidence)
    assert binomial_cdf(successes, total, bound) == pytest.approx(1 - confidence, rel=1e-6)


def test_the_exact_interval_covers_every_share_as_often_as_it_says() -> None:
    intervals = [clopper_pearson_interval(k, 50, 0.9) for k in range(51)]
    for step in range(1, 200):
        share = Fraction(step, 200)
        covered = sum(
            comb(50, k) * share**k * (1 - share) ** (50 - k)
            for k, (low, high) in enumerate(intervals)
            if low <= share <= high
        )
        assert covered >= Fraction(9, 10)


def test_exact_bounds_at_the_ends() -> None:
    assert clopper_pearson_interval(0, 0) == (0.0, 1.0)
    assert clopper_pearson_upper(7, 7) == 1.0
    assert clopper_pearson_interval(0, 10)[0] == 0.0
    # The rule of three, exactly.
    assert clopper_pearson_upper(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert (binomial_cdf(3, 9, 0.0), binomial_cdf(3, 9, 1.0), binomial_cdf(9, 9, 1.0)) == (1, 0, 1)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_named(share: float) -> None:
    with pytest.raises(InputError, match="share is"):
        binomial_cdf(1, 5, share)
