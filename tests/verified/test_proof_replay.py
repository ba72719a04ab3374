"""When a replayed output counts as the recorded one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from support.networks import dense

from interlock.errors import DeadlineError
from interlock.kernel.clock import NO_DEADLINE
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.proof_checks import CheckedBundle
from interlock.verified.proof_manifest import Claims, ProofManifest, ReplayedSlice
from interlock.verified.proof_replay import _differs, check_replays
from interlock.verified.replay_process import ReplayProcess

TOLD = np.array([1.0, -2.0], np.float32)


@pytest.mark.parametrize(
    ("found", "tolerance", "problem"),
    [
        (TOLD, 0.0, None),
        (TOLD + np.float32(1e-6), 0.0, "differs by up to"),
        (TOLD + np.float32(1e-6), 1e-5, None),
        (TOLD + np.float32(1e-3), 1e-5, "differs by up to"),
        (TOLD.astype(np.float64), 1.0, "gives float64"),
        (TOLD[:1], 1.0, "gives float32 (1,)"),
        (np.array([1, np.nan], np.float32), 1.0, "differs by up to nan"),
        (np.array([1, np.inf], np.float32), 1e-5, "differs by up to inf"),
    ],
)
def test_a_difference_is_allowed_as_far_as_the_tolerance(
    found: np.ndarray, tolerance: float, problem: str | None
) -> None:
    told = _differs(TOLD, found, tolerance)
    assert told is None if problem is None else told is not None and problem in told


@pytest.mark.filterwarnings("error")
def test_infinities_are_within_no_tolerance() -> None:
    told, found = (np.array([np.inf, value], np.float32) for value in (1, 2))
    assert _differs(told, found, 1.0) is not None
    assert _differs(told, told, 0.0) is None


def test_integers_have_no_tolerance() -> None:
    told, found = (np.array([value], np.int64) for value in (1, 2))
    assert _differs(told, found, 1.0) == "running again gives other values"


class Endless(ReplayProcess):
    """Every run is late."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def run(self, *arguments: Any, **options: Any) -> Any:
        self.runs += 1
        raise DeadlineError("replay: killed at the deadline")


def test_after_a_replay_that_is_late_none_is_waited_for() -> None:
    """A bundle of a thousand of them would take a day."""
    model = dense([2, 2])
    digest = hashlib.sha256(model).hexdigest()
    slices = tuple(
        ReplayedSlice(f"slice_{k}", digest, (), (), f"{k}.onnx", "none", "") for k in range(9)
    )
    manifest = ProofManifest(
        schema_version=1,
        created_by="",
        backend="",
        model_sha256=digest,
        layout=dict(CircuitSettings().told()),
        srs_origin="file",
        inputs=(),
        outputs=(),
        tensors=(),
        slices=slices,
        circuits=(),
        claims=Claims(9, 0, 9, 0.0),
        files=(),
    )
    checked = CheckedBundle(manifest, {part.model: model for part in slices})
    process = Endless()
    check_replays(checked, process, 0.0, NO_DEADLINE)
    assert [(found.code, found.where) for found in checked.findings] == [
        ("replay_failed", "slice_0")
    ]
    assert process.runs == 1
