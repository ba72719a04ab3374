"""The arm's kinematics and its damped solver."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.strict.arm.kinematics import ARM, Floats, damped_rates, jacobian, tip, tracking_error

ANGLES = st.one_of(
    st.floats(-10, 10),
    st.sampled_from([0.0, -0.0, math.pi, -math.pi, math.pi / 2, 1e-300, 1e-9, 1e9]),
)
SPEEDS = st.one_of(st.floats(-10, 10), st.sampled_from([0.0, 5e-324, 1e-300, 1e-12, 1e6, 1e100]))
POSTURE, VELOCITY = st.tuples(ANGLES, ANGLES), st.tuples(SPEEDS, SPEEDS)


def test_the_stretched_arm_reaches_both_link_lengths() -> None:
    np.testing.assert_allclose(tip(ARM, [[0.0, 0.0]]), [[0.9, 0.0]])


def test_the_folded_arm_reaches_their_difference() -> None:
    np.testing.assert_allclose(tip(ARM, [[0.0, math.pi]]), [[0.1, 0.0]], atol=1e-15)


@given(POSTURE.filter(lambda posture: max(map(abs, posture)) < 100))
@settings(deadline=None)
def test_the_jacobian_is_the_derivative_of_the_tip(posture: tuple[float, float]) -> None:
    theta, step = np.array([posture]), 1e-6
    for joint in range(2):
        nudge = np.zeros((1, 2))
        nudge[0, joint] = step
        difference = (tip(ARM, theta + nudge) - tip(ARM, theta - nudge)) / (2 * step)
        np.testing.assert_allclose(jacobian(ARM, theta)[0, :, joint], difference[0], atol=1e-8)


@given(POSTURE, VELOCITY)
@settings(max_examples=count(300, 2_000), deadline=None)
def test_rates_are_finite_and_within_the_drives_limit(
    posture: tuple[float, float], velocity: tuple[float, float]
) -> None:
    rates = damped_rates(ARM, [posture], [velocity])
    assert np.all(np.abs(rates) <= ARM.rate_limit)


@given(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), POSTURE)
@settings(max_examples=count(300, 2_000), deadline=None)
def test_rates_are_exact_where_the_drives_can_follow(
    wanted_rates: tuple[float, float], posture: tuple[float, float]
) -> None:
    velocity = jacobian(ARM, [posture])[0] @ np.array(wanted_rates)
    # The rates that give this velocity are within the limit; the solver may find others near a
    # singularity, but they must give the same velocity.
    rates = damped_rates(ARM, [posture], [velocity])
    reached = jacobian(ARM, [posture])[0] @ rates[0]
    np.testing.assert_allclose(reached, velocity, atol=1e-9)


def test_many_postures_near_singularities_keep_the_limit_and_are_exact_if_they_can() -> None:
    n = count(20_000, 500_000)
    rng = np.random.default_rng(17)
    theta = rng.uniform(-4, 4, (n, 2))
    theta[:, 1] = rng.choice([0.0, math.pi, -math.pi], n) + 10 ** rng.uniform(-18, 0, n)
    v = rng.normal(size=(n, 2)) * 10 ** rng.uniform(-6, 1, (n, 1))
    rates = damped_rates(ARM, theta, v)
    assert np.all(np.abs(rates) <= ARM.rate_limit)
    with np.errstate(all="ignore"):
        exact = adjugate_rates(theta, v)
    # The closed form loses digits as the determinant vanishes, so it judges only away from that.
    regular = np.abs(np.sin(theta[:, 1])) > 1e-3
    slow = regular & (np.abs(exact) < 0.999 * ARM.rate_limit).all(axis=1)
    assert slow.sum() > n / 100
    np.testing.assert_allclose(rates[slow], exact[slow], rtol=1e-9, atol=1e-9)


def adjugate_rates(theta: Floats, v: Floats) -> Floats:
    """J^-1 v in closed form."""
    (a, b), (c, d) = np.moveaxis(jacobian(ARM, theta), 0, -1)
    determinant = ARM.first * ARM.second * np.sin(theta[:, 1])
    solved = [d * v[:, 0] - b * v[:, 1], a * v[:, 1] - c * v[:, 0]]
    return np.asarray(np.stack(solved, axis=1) / determinant[:, None], dtype=np.float64)


def test_rates_are_damped_onto_the_limit_where_the_drives_cannot_follow() -> None:
    theta, v = np.array([[0.3, 1e-6]]), np.array([[-1.0, 0.2]])
    exact = np.linalg.solve(jacobian(ARM, theta)[0], v[0])
    assert np.abs(exact).max() > ARM.rate_limit
    rates = damped_rates(ARM, theta, v)
    assert np.abs(rates).max() == pytest.approx(ARM.rate_limit)
    assert np.sign(rates[0]).tolist() == np.sign(exact).tolist()


def test_an_exactly_singular_arm_that_shall_stand_still_stands_still() -> None:
    np.testing.assert_array_equal(damped_rates(ARM, [[0.0, 0.0]], [[0.0, 0.0]]), [[0.0, 0.0]])


def test_rates_do_not_depend_on_the_other_rows() -> None:
    rng = np.random.default_rng(3)
    theta, v = rng.uniform(-3, 3, (50, 2)), rng.uniform(-1, 1, (50, 2))
    alone = np.concatenate([damped_rates(ARM, theta[i : i + 1], v[i : i + 1]) for i in range(50)])
    np.testing.assert_array_equal(damped_rates(ARM, theta, v), alone)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_a_row_that_is_not_finite_has_no_rates_and_costs_no_other_row(
    value: float, column: int
) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (9, 4))
    wanted = damped_rates(ARM, x[:, :2], x[:, 2:])
    x[4, column] = value
    wanted[4] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(damped_rates(ARM, x[:, :2], x[:, 2:]), wanted)


@pytest.mark.parametrize(
    ("v", "dq", "error"),
    [
        ([0.4, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [1.0, 0.0], math.inf),
        ([0.4, 0.0], [math.nan, 0.0], math.nan),
    ],
)
def test_tracking_error(v: list[float], dq: list[float], error: float) -> None:
    found = tracking_error(ARM, [[0.3, 1.0]], [v], [dq])
    np.testing.assert_array_equal(found, [error])
