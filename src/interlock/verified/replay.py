"""Runs the slices that ONNX answered again, in another process, and compares the bits."""

from __future__ import annotations

import msgspec

from interlock.engines.onnx import Optimization
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import EngineError
from interlock.kernel.outcome import Evidence, EvidenceKind, Outcome
from interlock.verified.chain import ChainRun, SliceRun
from interlock.verified.replay_process import ReplayProcess
from interlock.verified.steps import ONNX, Tensors


def replay(
    run: ChainRun, *, optimization: Optimization = "all", deadline: Deadline = NO_DEADLINE
) -> ChainRun:
    """The run with evidence `replayed` for each recorded slice that ONNX answered.

    Raises EngineError, naming the slice, where the other process gives other bits.
    """
    with ReplayProcess() as process:
        slices = tuple(
            _replayed(process, entry, optimization, deadline) if entry.method == ONNX else entry
            for entry in run.slices
        )
    return ChainRun(run.model, slices, run.inputs, run.outputs, run.seconds)


def gives(
    process: ReplayProcess,
    model: bytes,
    inputs: Tensors,
    outputs: Tensors,
    *,
    optimization: Optimization = "all",
    deadline: Deadline = NO_DEADLINE,
) -> bool:
    """Whether a model, run in another process, gives exactly the bits of `outputs`."""
    found = process.run(model, inputs, tuple(outputs), optimization=optimization, deadline=deadline)
    return all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in outputs.items()
    )


def _replayed(
    process: ReplayProcess, entry: SliceRun, optimization: Optimization, deadline: Deadline
) -> SliceRun:
    part = entry.part
    if not gives(
        process,
        part.model,
        entry.inputs,
        entry.outputs,
        optimization=optimization,
        deadline=deadline,
    ):
        raise EngineError(f"{part.name}: another process gave other bits for the same input")
    evidence = Evidence(EvidenceKind.REPLAYED, "another process", {"slice_sha256": part.sha256})
    old = entry.outcome
    outcome: Outcome[None] = msgspec.structs.replace(old, evidence=evidence)
    return msgspec.structs.replace(entry, outcome=outcome)
