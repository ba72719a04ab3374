"""Requests served by a bundle of the arm through its route: counts, and an audit of each one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.kernel.batch import NOT_ASKED, STATUS_OF_CODE, BatchOutcome
from interlock.kernel.intervals import wilson_interval
from interlock.kernel.outcome import Status, StepResult
from interlock.strict.arm.kinematics import ARM, tracking_error
from interlock.strict.arm.requests import Requests
from interlock.strict.arm.route import TOLERANCE, arm_route
from interlock.strict.decode import StrictResult
from interlock.strict.engine import StrictEngine
from interlock.strict.runtime import load_onnx_runtime_bundle


@dataclass(frozen=True)
class Served:
    """What the bundle answered behind its masks, and what came of the requests in the route.

    strict      the bundle's answers to all requests
    outcome     of the route
    otherwise   what the route prescribes for requests that no step answered
    """

    requests: Requests
    strict: StrictResult
    outcome: BatchOutcome
    otherwise: str

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: rows whose every element the masks accept, those in the gap among them."""
        return np.asarray(~self.strict.bottom_mask.any(axis=1), dtype=np.bool_)

    def summary(self) -> dict[str, Any]:
        """Counts, shares and 95% Wilson intervals, for JSON; unsafe by the true Jacobian."""
        n, outcome = len(self.requests), self.outcome
        accepted, answered = self.accepted, outcome.answered
        masks_unsafe = int((self._unsafe(self.strict.decoded) & accepted).sum())
        unsafe = int((self._unsafe(outcome.value) & answered).sum())
        by_step = {
            step.name: int((outcome.step == index).sum())
            for index, step in enumerate(outcome.steps)
        }
        kept = int(accepted.sum())
        return {
            "requests": n,
            "near_singular": int(self.requests.near_singular.sum()),
            "tolerance": TOLERANCE,
            "masks": {
                "accepted": _share(kept, n),
                "gap": _share(int((self.strict.gap_mask.any(axis=1) & accepted).sum()), n),
                "bottom": _share(n - kept, n),
                "unsafe_of_accepted": _share(masks_unsafe, kept),
            },
            "route": {
                "answered_by": by_step,
                "status": {str(status): count for status, count in outcome.counts().items()},
                "answered": _share(int(answered.sum()), n),
                "unsafe_of_answered": _share(unsafe, int(answered.sum())),
                "otherwise": self.otherwise,
                "reasons": {
                    step.name: {text: rows for text, rows in step.reasons.items() if text}
                    for step in outcome.steps
                },
            },
            "in_words": self._in_words(by_step, kept, masks_unsafe, unsafe),
        }

    def audit(self) -> bytes:
        """JSON lines, one a request in order: input, masks, steps with reasons, answer."""
        outcome, results = self.outcome, tuple(StepResult)
        x = self.requests.x.tolist()
        bottom, gap = self.strict.bottom_mask.tolist(), self.strict.gap_mask.tolist()
        decoded, value = self.strict.decoded.tolist(), outcome.value.tolist()
        lines = []
        for row in range(len(self.requests)):
            status = STATUS_OF_CODE[int(outcome.status[row])]
            lines.append(
                {
                    "row": row,
                    "theta": x[row][:2],
                    "v": x[row][2:],
                    "near_singular": bool(self.requests.near_singular[row]),
                    "decoded": decoded[row],  # NaN is null in JSON
                    "bottom_mask": bottom[row],
                    "gap_mask": gap[row],
                    "status": status,
                    "answered_by": outcome.steps[int(outcome.step[row])].name
                    if status.usable
                    else None,
                    "resolved": value[row] if status.usable else None,
                    "steps": [
                        {
                            "name": step.name,
                            "result": results[int(outcome.results[index, row])],
                            "reason": outcome.reason_texts[int(outcome.reasons[index, row])],
                        }
                        for index, step in enumerate(outcome.steps)
                        if outcome.results[index, row] != NOT_ASKED
                    ],
                }
            )
        return bytes(msgspec.json.Encoder().encode_lines(lines))

    def _unsafe(self, dq: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        error = tracking_error(ARM, self.requests.theta, self.requests.v, dq)
        return np.asarray(~(error <= TOLERANCE), dtype=np.bool_)

    def _in_words(self, by_step: dict[str, int], kept: int, masks_unsafe: int, unsafe: int) -> str:
        n = len(self.requests)
        refused = n - int(self.outcome.answered.sum())
        flagged = self.outcome.counts()[Status.FLAGGED]
        steps = ", ".join(f"{name} {count:,}" for name, count in by_step.items())
        return (
            f"{n:,} requests, {int(self.requests.near_singular.sum()):,} near a singularity: the "
            f"masks accept {kept:,} ({kept / n:.1%}), {masks_unsafe} of them unsafe. In the route: "
            f"answers from {steps}, of them {flagged:,} flagged and {unsafe} unsafe; {refused:,} "
            "refused."
        )


def serve(directory: Path, digest: str, requests: Requests) -> Served:
    """Serve `requests` with the bundle in `directory`, which must have `digest`.

    Raises what `load_onnx_runtime_bundle` raises.
    """
    runtime = load_onnx_runtime_bundle(directory, expected_digest=digest)
    engine = StrictEngine(runtime)
    route = arm_route(engine, evidence=engine.evidence)
    return Served(
        requests=requests,
        strict=runtime.run(requests.x),
        outcome=route.run_batch({"x": requests.x}),
        otherwise=route.otherwise,
    )


def _share(count: int, total: int) -> dict[str, Any]:
    low, high = wilson_interval(count, total)
    return {"count": count, "of": total, "low": low, "high": high}
