"""Runs the slices of a bundle that ONNX answered again, in a process that can be killed."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import BundleError, DeadlineError, EngineError, InputError
from interlock.verified.proof_checks import CheckedBundle
from interlock.verified.proof_manifest import ProvedSlice
from interlock.verified.replay_process import ReplayProcess
from interlock.verified.slicing import parse

SECONDS = 60.0
"""Most that one slice may take: its model may be built never to end."""


def check_replays(
    checked: CheckedBundle, process: ReplayProcess, tolerance: float, deadline: Deadline
) -> None:
    """Run the slices again; their recorded outputs must be what comes out.

    tolerance  largest difference, as a share of the largest value; 0 for the same bits

    Raises DeadlineError where `deadline` passes.
    """
    for part in checked.manifest.slices:
        if isinstance(part, ProvedSlice):
            continue
        model = checked.files[part.model]
        if hashlib.sha256(model).hexdigest() != part.sha256:
            checked.refuse("onnx_digest", "its model is not the one it names", part.name)
            continue
        try:
            parse(model)
            outputs = process.run(
                model,
                {name: checked.tensors[name] for name in part.inputs},
                part.outputs,
                optimization=part.optimization,
                deadline=deadline.earlier(SECONDS),
            )
        except (BundleError, EngineError, InputError) as error:
            if isinstance(error, DeadlineError) and deadline.expired:
                raise
            checked.refuse("replay_failed", f"it cannot be run again: {error.message}", part.name)
            if isinstance(error, DeadlineError):
                return  # the others may be as slow, and the bundle is refused already
            continue
        for name in part.outputs:
            problem = _differs(checked.tensors[name], outputs[name], tolerance)
            if problem is not None:
                checked.refuse("replay_differs", f"'{name}': {problem}", part.name)


def _differs(told: Array, found: Array, tolerance: float) -> str | None:
    if told.dtype != found.dtype or told.shape != found.shape:
        return f"running again gives {found.dtype} {found.shape}"
    if told.tobytes() == found.tobytes():
        return None
    if told.dtype.kind != "f":
        return "running again gives other values"
    with np.errstate(invalid="ignore"):  # infinities; their difference is within no tolerance
        worst = float(np.max(np.abs(told.astype(np.float64) - found), initial=0.0))
    largest = float(np.max(np.abs(found), initial=0.0))
    if math.isfinite(worst) and worst <= tolerance * largest:
        return None
    return f"running again differs by up to {worst:.3g} (largest value {largest:.3g})"
