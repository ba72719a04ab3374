"""One score from the windows of a text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect.fuse import fused_logit, fused_score, probability, worst_windows
from interlock.detect.settings import FuseSettings

LOGITS = st.lists(st.floats(-30, 30), min_size=1, max_size=20)


def test_one_window_is_scaled_and_shifted() -> None:
    settings = FuseSettings(scale=2.0, shift=-1.0)
    assert fused_logit(np.array([3.0]), settings) == pytest.approx(5.0)
    assert fused_score(np.array([0.5]), settings) == pytest.approx(0.5)


def test_the_worst_window_decides() -> None:
    assert fused_logit(np.array([-4.0, 2.0, -9.0]), FuseSettings()) == 2.0


def test_many_windows_cost_up_to_a_bound() -> None:
    settings = FuseSettings(windows=0.5, counted=10)
    assert fused_logit(np.full(5, 1.0), settings) == pytest.approx(1.0 - 0.5 * math.log(5))
    assert fused_logit(np.full(10, 1.0), settings) == pytest.approx(1.0 - 0.5 * math.log(10))
    assert fused_logit(np.full(500, 1.0), settings) == pytest.approx(1.0 - 0.5 * math.log(10))


@given(LOGITS, st.floats(0, 3), st.floats(0, 1))
def test_a_worse_window_never_lowers_the_score(
    logits: list[float], temperature: float, windows: float
) -> None:
    settings = FuseSettings(temperature=temperature, windows=windows)
    worse = [*logits[:-1], logits[-1] + 1.0]
    before = fused_logit(np.array(logits), settings)
    assert fused_logit(np.array(worse), settings) >= before - 1e-9
    assert 0 <= fused_score(np.array(logits), settings) <= 1


def test_no_windows_and_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one window"):
        fused_logit(np.zeros(0), FuseSettings())
    with pytest.raises(ValueError, match="NaN"):
        fused_logit(np.array([1.0, np.nan]), FuseSettings())


def test_probability_does_not_overflow() -> None:
    assert probability(1e9) == 1.0
    assert probability(-1e9) == pytest.approx(0.0)


def test_worst_windows_come_worst_first() -> None:
    assert worst_windows(np.array([0.0, 3.0, -1.0, 3.0]), 3) == [1, 3, 0]
