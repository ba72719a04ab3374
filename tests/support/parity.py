"""What it means that two strict decodes agree to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def assert_same(got: Sequence[Any], want: Sequence[Any]) -> None:
    """Shapes, dtypes, masks and the bits of accepted values are equal; the rest is NaN."""
    for one, other in zip(got, want, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    decoded, bottom, gap = got
    np.testing.assert_array_equal(bottom, want[1])
    np.testing.assert_array_equal(gap, want[2])
    rows = bottom.reshape(bottom.shape + (1,) * (decoded.ndim - bottom.ndim))
    accepted = np.broadcast_to(~rows, decoded.shape)
    assert decoded[accepted].tobytes() == want[0][accepted].tobytes()
    assert np.isnan(decoded[~accepted]).all()
