"""Risk against coverage as the threshold on |Q| falls, and the area below that curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError
from interlock.kernel.intervals import clopper_pearson_interval
from interlock.strict.held_out import read_held_out

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RiskCoverage:
    """A risk-coverage curve; arrays of one value a point, coverage ascending.

    tau         threshold, in the dtype of Q; 0 at a last point for rows that none accepts
    coverage    share of all rows that are accepted
    risk        share of the accepted rows that are unsafe
    low, high   the Clopper-Pearson interval of the risk, each point on its own
    area        mean risk over coverage from 0 to 1, the area under the curve (AURC)
    area_low    the mean of `low` over coverage
    area_high   the mean of `high` over coverage
    n           rows
    confidence  of the intervals
    """

    tau: npt.NDArray[Any]
    coverage: Floats
    risk: Floats
    low: Floats
    high: Floats
    area: float
    area_low: float
    area_high: float
    n: int
    confidence: float


def risk_coverage(
    q_abs: Any,
    loss: Any,
    *,
    tolerance: float | None = None,
    dtype: str | None = None,
    confidence: float = 0.95,
    points: int = 200,
) -> RiskCoverage:
    """The risk-coverage curve of |Q| as a measure of how safe an answer is.

    The arguments are those of `calibrate_tau`; of the sets that thresholds accept, at most about
    `points` become points of the curve, closer together at low coverage. The area counts every
    set (Y. Geifman, G. Uziel, R. El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers", 2019); rows of equal |Q| enter together, and rows that no threshold accepts enter
    last. A curve that falls has |Q| the wrong way round.

    The interval of the area averages those of the points, so it is wider than it need be.

    Raises InputError, for arrays that are empty too.
    """
    data = read_held_out(q_abs, loss, tolerance=tolerance, dtype=dtype)
    n = len(data)
    if n == 0:
        raise InputError("q_abs is empty; a curve needs at least one row")
    if points < 2:
        raise InputError(f"points is {points}; it must be at least 2")
    sets = data.accepted_sets()
    tau, accepted, unsafe = sets.tau, sets.accepted, sets.unsafe
    if not len(accepted) or accepted[-1] < n:
        tau = np.append(tau, np.zeros(1, tau.dtype))
        accepted, unsafe = np.append(accepted, n), np.append(unsafe, data.unsafe.sum())
    area = float(np.sum(np.diff(accepted, prepend=0) * unsafe / accepted) / n)
    ranks = np.append(np.geomspace(1, n, points - points // 2), np.linspace(1, n, points // 2))
    kept = np.unique(np.clip(np.searchsorted(accepted, ranks - 0.5), 0, len(accepted) - 1))
    bounds = np.array(
        [
            clopper_pearson_interval(int(unsafe[index]), int(accepted[index]), confidence)
            for index in kept
        ]
    )
    low, high = bounds[:, 0], bounds[:, 1]
    coverage = accepted[kept] / n
    return RiskCoverage(
        tau=tau[kept],
        coverage=coverage,
        risk=unsafe[kept] / accepted[kept],
        low=low,
        high=high,
        area=area,
        area_low=min(area, _mean(coverage, low)),
        area_high=max(area, _mean(coverage, high)),
        n=n,
        confidence=confidence,
    )


def _mean(coverage: Floats, values: Floats) -> float:
    """The mean over coverage 0 … 1, straight between points and level before the first."""
    return float(np.trapezoid(np.append(values[0], values), np.append(0.0, coverage)))
