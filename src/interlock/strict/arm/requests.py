"""Requests to the arm, drawn from a seed: a stated share of them near a singularity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from interlock.errors import InputError

NEAR_SINGULAR = 0.1
"""A request is near-singular where |sin theta_2|, the determinant over its maximum, is below."""

EXACTLY_SINGULAR = 0.01
"""The share of the near-singular requests whose arm is exactly stretched or folded."""

SPEED = (0.02, 0.2)
"""Wanted tip speed in m/s, uniform; the direction is uniform too."""


@dataclass(frozen=True)
class Requests:
    """theta (n, 2) rad, v (n, 2) m/s, both float32; near_singular (n,) bool."""

    theta: npt.NDArray[np.float32]
    v: npt.NDArray[np.float32]
    near_singular: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of requests."""
        return len(self.theta)

    @property
    def x(self) -> npt.NDArray[np.float32]:
        """(n, 4): the model's input, theta then v."""
        return np.concatenate([self.theta, self.v], axis=1)


def sample_requests(n: int, seed: int, near_singular: float = 0.35) -> Requests:
    """`n` requests of which exactly `round(n * near_singular)` are near-singular, shuffled.

    Raises InputError for a negative `n` or a share outside 0 … 1.
    """
    if n < 0:
        raise InputError(f"n is {n}; it must be 0 or more")
    if not 0 <= near_singular <= 1:
        raise InputError(f"near_singular is {near_singular}; it must lie in 0 … 1")
    rng = np.random.default_rng(seed)
    close = round(n * near_singular)
    width = math.asin(NEAR_SINGULAR)
    offset = np.where(
        np.arange(n) < close,
        rng.uniform(-width, width, n),
        rng.uniform(width, math.pi - width, n) * rng.choice([-1.0, 1.0], n),
    )
    offset[: round(close * EXACTLY_SINGULAR)] = 0.0
    folded = (np.arange(n) < close) & (rng.random(n) < 0.5)
    theta_2 = np.where(folded, math.pi - offset, offset)
    theta_1 = rng.uniform(-math.pi, math.pi, n)
    speed = rng.uniform(*SPEED, n)
    heading = rng.uniform(-math.pi, math.pi, n)
    order = rng.permutation(n)
    theta = np.stack([theta_1, theta_2], axis=1).astype(np.float32)
    v = np.stack([speed * np.cos(heading), speed * np.sin(heading)], axis=1).astype(np.float32)
    return Requests(theta[order], v[order], (np.arange(n) < close)[order])
