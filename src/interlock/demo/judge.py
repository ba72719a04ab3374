"""An independent judge of joint rates; shares no code with the route's guard.

The tip is a complex number, and its velocity a central difference along the motion: no Jacobian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_ANGLE_STEP = 1e-5
"""Largest joint movement in rad of the difference: truncation and rounding are both near 1e-10."""


def tip_velocity_error(
    links: tuple[float, float], x: npt.NDArray[Any], dq: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """(n,) |tip velocity under dq - wanted| / |wanted|; inf where dq is not finite.

    links in m; x (n, 4): two joint angles in rad, wanted velocity in m/s; dq (n, 2) in rad/s.
    """
    request = np.asarray(x, dtype=np.float64)
    rates = np.asarray(dq, dtype=np.float64)
    usable: npt.NDArray[np.bool_] = np.isfinite(rates[:, 0]) & np.isfinite(rates[:, 1])
    rates = np.where(usable[:, None], rates, 0.0)
    seconds = _ANGLE_STEP / np.maximum(np.abs(rates).max(axis=1), 1e-12)

    def tip(time: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
        first = request[:, 0] + rates[:, 0] * time
        second = first + request[:, 1] + rates[:, 1] * time
        return np.asarray(links[0] * np.exp(1j * first) + links[1] * np.exp(1j * second))

    velocity = (tip(seconds) - tip(-seconds)) / (2 * seconds)
    wanted = request[:, 2] + 1j * request[:, 3]
    error = np.abs(velocity - wanted) / np.abs(wanted)
    return np.where(usable, error, np.inf)
