"""The arm's route: the P/Q model, then the damped analytic solver, then refusal.

Every answer, whoever gave it, is re-checked against the true Jacobian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.outcome import Evidence, EvidenceKind
from interlock.kernel.route import BatchAnswer, BatchEngine, BatchVerdict, Route, RouteStep
from interlock.strict.arm.kinematics import ARM, Arm, damped_rates, tracking_error
from interlock.strict.guards import MaskGuard

TOLERANCE = 0.05
"""Largest relative error of the tip velocity that counts as safe."""


@dataclass(frozen=True)
class JacobianGuard:
    """Refuses joint rates whose tip velocity is off by more than `tolerance`, or beyond the drives.

    Reads the input `x` (n, 4): theta in rad, then the wanted velocity in m/s.
    """

    arm: Arm = ARM
    tolerance: float = TOLERANCE

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """Refuse row by row; the rows that pass are `checked`."""
        x = inputs["x"]
        error = tracking_error(self.arm, x[:, :2], x[:, 2:], answer.value)
        with np.errstate(invalid="ignore"):
            # Written so that NaN fails: a comparison with NaN is false.
            on_track = error <= self.tolerance
            beyond = ~np.all(np.abs(answer.value) <= self.arm.rate_limit, axis=1, keepdims=True)[
                :, 0
            ]
        return BatchVerdict(
            refuse={
                f"tip velocity off by more than {self.tolerance:.0%}": ~on_track,
                f"joint rate above {self.arm.rate_limit:g} rad/s": beyond,
            },
            evidence=(
                Evidence(
                    EvidenceKind.CHECKED,
                    by="forward differential kinematics",
                    detail={"tolerance": self.tolerance, "rate_limit": self.arm.rate_limit},
                ),
            ),
        )


@dataclass(frozen=True)
class AnalyticEngine:
    """Damped least squares on the true Jacobian, exact where the drives can follow."""

    arm: Arm = ARM

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """(n, 2) float64 joint rates in rad/s."""
        x = inputs["x"]
        deadline.check("analytic solver")
        return BatchAnswer(damped_rates(self.arm, x[:, :2], x[:, 2:]))


def arm_route(
    model: BatchEngine, evidence: tuple[Evidence, ...] = (), arm: Arm = ARM
) -> Route[Mapping[str, Array], Array]:
    """`model` -> `analytic` -> refuse; `evidence` is what the model's bundle attests."""
    check = JacobianGuard(arm)
    return Route(
        name="arm",
        steps=(
            RouteStep("model", model, guards=(MaskGuard(), check), evidence=evidence),
            RouteStep("analytic", AnalyticEngine(arm), guards=(check,)),
        ),
        otherwise="refuse",
    )
