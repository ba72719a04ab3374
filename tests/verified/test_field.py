"""Fixed point numbers and field elements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.errors import InputError
from interlock.verified.field import LIMIT, MODULUS, dequantise, integers_of, quantise


def element(integer: int) -> str:
    return (integer % MODULUS).to_bytes(32, "little").hex()


@given(st.lists(st.integers(-LIMIT + 1, LIMIT - 1), min_size=1))
def test_integers_survive_the_field(integers: list[int]) -> None:
    assert integers_of([element(i) for i in integers]).tolist() == integers


@pytest.mark.parametrize("integer", [LIMIT, -LIMIT, 1 << 64, -(1 << 64), MODULUS // 2, 1 << 200])
def test_what_is_no_small_integer_is_refused(integer: int) -> None:
    with pytest.raises(InputError, match="not an integer below"):
        integers_of([element(integer)])


@pytest.mark.parametrize("text", ["", "00", 63 * "0" + "x", 65 * "0", 32 * "0 "])
def test_what_is_no_element_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="64 hex digits"):
        integers_of([text])


@given(hnp.arrays(np.float32, 5, elements=st.floats(-1000, 1000, width=32)), st.integers(1, 13))
def test_rounding_is_to_the_nearest_half_away_from_zero(values: np.ndarray, scale: int) -> None:
    found = quantise(values, scale)
    exact = values.astype(np.float64) * 2**scale
    assert (np.abs(found - exact) <= 0.5).all()
    ties = np.abs(exact - np.trunc(exact)) == 0.5
    assert (np.abs(found) >= np.abs(exact))[ties].all()


@given(hnp.arrays(np.int64, 7, elements=st.integers(-LIMIT + 1, LIMIT - 1)))
def test_integers_survive_float32(integers: np.ndarray) -> None:
    assert np.array_equal(quantise(dequantise(integers, 12), 12), integers)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    with pytest.raises(InputError, match="'x' holds values that are not finite"):
        quantise(np.array([0.0, value], np.float32), 12, "x")


def test_what_is_out_of_range_is_refused_by_name() -> None:
    quantise(np.array([4095.99], np.float32), 12)
    with pytest.raises(InputError, match="'x' holds a value outside the circuit's range of ±4096"):
        quantise(np.array([-4096.0], np.float32), 12, "x")
