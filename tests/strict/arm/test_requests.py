"""Requests to the arm."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.errors import InputError
from interlock.strict.arm.requests import (
    EXACTLY_SINGULAR,
    NEAR_SINGULAR,
    SPEED,
    sample_requests,
)


def test_one_seed_gives_the_same_requests_every_time() -> None:
    first, again, other = (sample_requests(1000, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize(("n", "share", "close"), [(1000, 0.35, 350), (7, 0.5, 4), (10, 0.0, 0)])
def test_the_share_near_a_singularity_is_exact(n: int, share: float, close: int) -> None:
    requests = sample_requests(n, 5, near_singular=share)
    assert len(requests) == n
    assert int(requests.near_singular.sum()) == close


def test_near_singular_is_said_of_those_that_are() -> None:
    requests = sample_requests(20_000, 11)
    determinant = np.abs(np.sin(requests.theta[:, 1].astype(np.float64)))
    rounding = 1e-6
    assert determinant[requests.near_singular].max() <= NEAR_SINGULAR + rounding
    assert determinant[~requests.near_singular].min() >= NEAR_SINGULAR - rounding


def test_some_are_exactly_stretched_or_folded() -> None:
    requests = sample_requests(20_000, 11)
    elbow = requests.theta[:, 1]
    exact = int(((elbow == 0) | (elbow == np.float32(np.pi))).sum())
    assert exact == round(20_000 * 0.35 * EXACTLY_SINGULAR)


def test_speeds_lie_in_their_range_and_the_input_is_theta_then_v() -> None:
    requests = sample_requests(5000, 2)
    speed = np.hypot(*requests.v.T)
    assert SPEED[0] * 0.999 < speed.min() <= speed.max() < SPEED[1] * 1.001
    np.testing.assert_array_equal(requests.x[:, :2], requests.theta)
    np.testing.assert_array_equal(requests.x[:, 2:], requests.v)
    assert requests.x.dtype == np.float32


def test_no_requests_are_a_batch_as_well() -> None:
    assert sample_requests(0, 1).x.shape == (0, 4)


@pytest.mark.parametrize(("n", "share"), [(-1, 0.35), (10, 1.5), (10, -0.1), (10, float("nan"))])
def test_a_wrong_count_or_share_is_refused(n: int, share: float) -> None:
    with pytest.raises(InputError):
        sample_requests(n, 1, near_singular=share)
