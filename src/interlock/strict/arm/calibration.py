"""The arm's threshold on held-out requests: certified, or why it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interlock.engines.onnx import OnnxSession
from interlock.strict.arm.kinematics import ARM, Arm, tracking_error
from interlock.strict.arm.requests import Requests
from interlock.strict.arm.route import TOLERANCE
from interlock.strict.calibrate import calibrate_tau
from interlock.strict.calibration_record import Abstention, RiskCurve, curve_of
from interlock.strict.certificate import Certificate
from interlock.strict.metrics import tau_infer_sweep_from_q_abs
from interlock.strict.risk import risk_coverage

if TYPE_CHECKING:
    import onnx

CLOSED_TAU = 1.0
"""A threshold that accepts nothing: the network's |Q| is at most Q_SCALE, a quarter of it."""

GAP = 0.1

SPLIT = "held-out requests to the arm"


@dataclass(frozen=True)
class HeldOutCalibration:
    """A certificate or an abstention, never both; the curve and the sweep are for people.

    tau_train  the nearest to tau of the accepted held-out requests, a share of `GAP`, lie below
               it; None where nothing is certified
    """

    certificate: Certificate | None
    abstention: Abstention | None
    tau_train: float | None
    curve: RiskCurve
    sweep: dict[str, list[float]]

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if self.certificate is not None:
            found = self.certificate
            return (
                f"certified: tau_infer {found.tau:.6g} accepts {found.coverage:.1%} of the "
                f"requests, at most {100 * found.alpha:g}% of the answers unsafe with confidence "
                f"{100 * (1 - found.delta):g}%"
            )
        assert self.abstention is not None
        return (
            f"abstained: {self.abstention.reason}. The bundle is closed: tau_infer {CLOSED_TAU:g} "
            "is above every |Q|, so the model answers nothing"
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "certificate": self.certificate,
            "abstention": self.abstention,
            "risk_coverage": self.curve,
        }


def calibrate(
    network: onnx.ModelProto, requests: Requests, alpha: float, delta: float, arm: Arm = ARM
) -> HeldOutCalibration:
    """Run the P/Q network on held-out requests and certify a threshold on |Q|, or abstain.

    An answer P / Q is unsafe where its tip velocity is off by more than `TOLERANCE`.
    """
    found = OnnxSession(network.SerializeToString()).run({"x": requests.x})
    p, q = found["P"], found["Q"]
    with np.errstate(all="ignore"):
        dq = p / q
    error = tracking_error(arm, requests.theta, requests.v, dq)
    q_abs = np.where(np.isfinite(dq).all(axis=1), np.abs(q[:, 0]), q.dtype.type(np.nan))
    result = calibrate_tau(q_abs, error, alpha, delta, tolerance=TOLERANCE, split=SPLIT)
    abstention = tau_train = None
    taus = np.geomspace(1e-4, 0.2, 34).tolist()
    if result.tau is None:
        abstention = Abstention(
            reason=result.reason,
            alpha=alpha,
            delta=delta,
            n=result.n,
            pilot=result.pilot,
            split=SPLIT,
        )
    else:
        taus = sorted([*taus, result.tau])
        tau_train = float(np.quantile(q_abs[q_abs >= result.tau], GAP))
    return HeldOutCalibration(
        certificate=result.certificate,
        abstention=abstention,
        tau_train=tau_train,
        curve=curve_of(risk_coverage(q_abs, error, tolerance=TOLERANCE), alpha),
        sweep=tau_infer_sweep_from_q_abs(q_abs, is_in_range=error <= TOLERANCE, taus=taus),
    )
