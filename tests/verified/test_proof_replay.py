"""When a replayed output counts as the recorded one."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.verified.proof_replay import _differs

TOLD = np.array([1.0, -2.0], np.float32)


@pytest.mark.parametrize(
    ("found", "tolerance", "problem"),
    [
        (TOLD, 0.0, None),
        (TOLD + np.float32(1e-6), 0.0, "differs by up to"),
        (TOLD + np.float32(1e-6), 1e-5, None),
        (TOLD + np.float32(1e-3), 1e-5, "differs by up to"),
        (TOLD.astype(np.float64), 1.0, "gives float64"),
        (TOLD[:1], 1.0, "gives float32 (1,)"),
        (np.array([1, np.nan], np.float32), 1.0, "differs by up to nan"),
        (np.array([1, np.inf], np.float32), 1e-5, "differs by up to inf"),
    ],
)
def test_a_difference_is_allowed_as_far_as_the_tolerance(
    found: np.ndarray, tolerance: float, problem: str | None
) -> None:
    told = _differs(TOLD, found, tolerance)
    assert told is None if problem is None else told is not None and problem in told


@pytest.mark.filterwarnings("error")
def test_infinities_are_within_no_tolerance() -> None:
    told, found = (np.array([np.inf, value], np.float32) for value in (1, 2))
    assert _differs(told, found, 1.0) is not None
    assert _differs(told, told, 0.0) is None


def test_integers_have_no_tolerance() -> None:
    told, found = (np.array([value], np.int64) for value in (1, 2))
    assert _differs(told, found, 1.0) == "running again gives other values"
