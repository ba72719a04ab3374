"""Answers with masks that may lie: finite where bottom, not finite where not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]


class Masked(NamedTuple):
    """Answers (B,) or (B, D), and two masks of one shape that fits."""

    decoded: Array
    bottom: Array
    gap: Array


@st.composite
def masked(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float32", "float64")) -> Masked:
    """Any such answers, in any layout of masks."""
    rows, width = draw(st.integers(0, 6)), draw(st.integers(1, 3))
    shape = draw(st.sampled_from([(rows,), (rows, width)]))
    layouts = [shape] if len(shape) == 1 else [shape, (rows,), (rows, 1)]
    mask_shape = draw(st.sampled_from(layouts))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    decoded = rng.normal(size=shape).astype(draw(st.sampled_from(dtypes)))
    odd = [np.nan, np.inf, -np.inf, -0.0]
    np.copyto(decoded, rng.choice(odd, size=shape).astype(decoded.dtype), where=_some(rng, shape))
    return Masked(decoded, _some(rng, mask_shape), _some(rng, mask_shape))


def _some(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.random(shape) < rng.choice([0.0, 0.3, 1.0], p=[0.2, 0.6, 0.2]))


def rows_with(mask: Array) -> Array:
    """(B,) bool: the rows with an element set."""
    return np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))


def as_bits(array: Array) -> Array:
    """The bits of real numbers, as unsigned integers."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def assert_same_numbers(got: Array, expected: Array) -> None:
    """The same dtype, shape and bits, whichever NaN stands where both have one."""
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(as_bits(got)[~nan], as_bits(expected)[~nan])
