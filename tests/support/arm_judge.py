"""A judge of joint rates that shares no code with the arm's guard.

The tip as a complex number is l1 exp(i a) + l2 exp(i (a + b)); its derivative by time is the
velocity that the rates give.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FIRST, SECOND = 0.5, 0.4  # link lengths in m of the arm that ships


def relative_error(
    theta: npt.NDArray[Any], v: npt.NDArray[Any], dq: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """(n,) |velocity that dq gives - v| / |v|; NaN for a rate that is NaN."""
    shoulder, elbow = theta.astype(np.float64).T
    first_rate, second_rate = dq.astype(np.float64).T
    upper = FIRST * np.exp(1j * shoulder)
    lower = SECOND * np.exp(1j * (shoulder + elbow))
    given = 1j * (upper * first_rate + lower * (first_rate + second_rate))
    wanted = v[:, 0].astype(np.float64) + 1j * v[:, 1].astype(np.float64)
    return np.asarray(np.abs(given - wanted) / np.abs(wanted), dtype=np.float64)
