"""The arm's true kinematics in float64, and the damped analytic solver built on them.

Symbols: theta (n, 2) joint angles in rad, v (n, 2) tip velocity in m/s, dq (n, 2) joint rates in
rad/s. The second angle is measured from the first link. Formulas: Siciliano, Sciavicco, Villani,
Oriolo, "Robotics: Modelling, Planning and Control" (Springer 2009), sections 2.9.1 and 3.5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """Link lengths in m, and the largest joint rate in rad/s that the drives can follow."""

    first: float = 0.5
    second: float = 0.4
    rate_limit: float = 40.0


ARM = Arm()
"""The arm that the shipped model was trained for."""


def tip(arm: Arm, theta: npt.ArrayLike) -> Floats:
    """(n, 2) tip position in m."""
    angles = np.asarray(theta, dtype=np.float64)
    elbow, both = angles[:, 0], angles[:, 0] + angles[:, 1]
    x = arm.first * np.cos(elbow) + arm.second * np.cos(both)
    y = arm.first * np.sin(elbow) + arm.second * np.sin(both)
    return np.stack([x, y], axis=1)


def jacobian(arm: Arm, theta: npt.ArrayLike) -> Floats:
    """(n, 2, 2) derivative of the tip position by the joint angles, in m/rad."""
    angles = np.asarray(theta, dtype=np.float64)
    elbow, both = angles[:, 0], angles[:, 0] + angles[:, 1]
    matrix = np.empty((len(angles), 2, 2))
    matrix[:, 0, 1] = -arm.second * np.sin(both)
    matrix[:, 1, 1] = arm.second * np.cos(both)
    matrix[:, 0, 0] = -arm.first * np.sin(elbow) + matrix[:, 0, 1]
    matrix[:, 1, 0] = arm.first * np.cos(elbow) + matrix[:, 1, 1]
    return matrix


def tracking_error(arm: Arm, theta: npt.ArrayLike, v: npt.ArrayLike, dq: npt.ArrayLike) -> Floats:
    """(n,) relative error of the tip velocity, |J dq - v| / |v|; NaN or inf where undefined.

    0/0 (nothing wanted, nothing done) counts as 0.
    """
    wanted = np.asarray(v, dtype=np.float64)
    with np.errstate(all="ignore"):
        done = np.einsum("nij,nj->ni", jacobian(arm, theta), np.asarray(dq, dtype=np.float64))
        miss = np.hypot(*(done - wanted).T)
        size = np.hypot(*wanted.T)
        error = miss / size
    error[(miss == 0) & (size == 0)] = 0.0
    return np.asarray(error, dtype=np.float64)


def damped_rates(arm: Arm, theta: npt.ArrayLike, v: npt.ArrayLike) -> Floats:
    """(n, 2) joint rates: exact where they stay within the rate limit, damped where they do not.

    Damped least squares, dq = J^T (J J^T + lambda^2 I)^-1 v, with the smallest lambda that keeps
    every joint within `arm.rate_limit`, found by bisection over the singular value decomposition.
    NaN in the rows whose angles or velocity are not finite.
    """
    velocity = np.array(v, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        matrix = jacobian(arm, theta)
    # One such matrix would make the decomposition of all rows fail.
    broken = ~(np.isfinite(matrix).all(axis=(1, 2)) & np.isfinite(velocity).all(axis=1))
    matrix[broken], velocity[broken] = 0.0, 0.0
    left, sigma, right = np.linalg.svd(matrix)
    wanted = np.einsum("nji,nj->ni", left, velocity)

    def rates(damping: Floats) -> Floats:
        # At lambda = 0 this is the exact inverse, or the pseudo-inverse where sigma is exactly 0:
        # the limit of ever smaller lambda.
        with np.errstate(all="ignore"):
            gain = sigma / (sigma**2 + damping[:, None] ** 2)
            gain[np.isnan(gain)] = 0.0
            found = np.einsum("nji,nj->ni", right, gain * wanted)
        return np.asarray(found, dtype=np.float64)

    def within(dq: Floats) -> npt.NDArray[np.bool_]:
        return np.asarray((np.abs(dq) <= arm.rate_limit).all(axis=1), dtype=np.bool_)

    low = np.zeros(len(sigma))
    dq = rates(low)
    exact = within(dq)
    # The largest gain of the damped inverse is 1 / (2 lambda), so this lambda always suffices.
    high = np.hypot(*wanted.T) / (2 * arm.rate_limit)
    for _ in range(60):
        middle = (low + high) / 2
        fits = within(rates(middle))
        high = np.where(fits, middle, high)
        low = np.where(fits, low, middle)
    found = np.where(exact[:, None], dq, rates(high))
    found[broken] = np.nan
    return found
