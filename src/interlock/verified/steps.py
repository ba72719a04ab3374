"""The steps of a slice's route: its circuit, and ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import EngineError
from interlock.kernel.outcome import Evidence, EvidenceKind, StepResult
from interlock.kernel.route import RouteStep, Verdict
from interlock.verified.bound import BoundSlices
from interlock.verified.prover import Prover, SliceProof
from interlock.verified.slices import Slice

CIRCUIT, ONNX = "circuit", "onnx"
Circuits = Literal["prove", "witness", "none"]
Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Policy:
    """How a chain may run.

    circuits    "prove" them, compute their "witness" only, or "none"
    fallback    whether ONNX may answer for a slice whose circuit does not
    time_limit  seconds that the circuit of one slice may take, predicted and measured
    size_limit  bytes that the compiled circuits of one slice may have
    excluded    slices by name that stay with ONNX, and why
    record      keep what enters and leaves every slice, also where nothing is proved
    """

    circuits: Circuits = "prove"
    fallback: bool = True
    time_limit: float | None = None
    size_limit: float | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    record: bool = False


def circuit_step(prover: Prover, part: Slice, policy: Policy) -> RouteStep:
    """The step that proves a slice, or computes its witness, within the policy's limits."""
    if policy.circuits == "witness":
        return RouteStep(
            CIRCUIT,
            _Witness(prover, part),
            available=lambda: None if prover.circuit_bytes(part) else _no_circuit(prover, part),
            size=lambda item: prover.circuit_bytes(part) or 0,
            size_limit=policy.size_limit,
            time_limit=policy.time_limit,
            evidence=(attested(part),),
        )
    return RouteStep(
        CIRCUIT,
        _Circuit(prover, part),
        guards=(_ProofGuard(part),),
        available=lambda: prover.unavailable(part),
        size=lambda item: prover.circuit_bytes(part) or 0,
        size_limit=policy.size_limit,
        predicted_seconds=lambda item: _known(prover.predicted_seconds(part)),
        time_limit=policy.time_limit,
    )


def onnx_step(bound: BoundSlices, part: Slice) -> RouteStep:
    """The step that runs a slice on ONNX Runtime."""
    return RouteStep(ONNX, _Onnx(bound, part), evidence=(attested(part),))


def attested(part: Slice) -> Evidence:
    """What stands behind a slice that nobody proved: the digest of the bytes that ran."""
    return Evidence(EvidenceKind.ATTESTED, "interlock", {"slice_sha256": part.sha256})


def fallback_reason(result: StepResult, reason: str) -> str:
    """Why a circuit did not answer, its kind first: size, time, out of range, proof failed.

    What a prover says of a slice that it cannot prove names its kind itself: no circuit, no key.
    """
    match result:
        case StepResult.UNAVAILABLE if reason.startswith("engine_unavailable: "):
            # It was there when it was asked for.
            return f"no key: {reason.removeprefix('engine_unavailable: ')}"
        case StepResult.UNAVAILABLE if reason.startswith("its check: "):
            return f"no circuit: {reason}"
        case StepResult.OVER_SIZE:
            return f"size: {reason}"
        case StepResult.OVER_TIME:
            return f"time: {reason}"
        case StepResult.ERROR if reason.startswith("input: "):
            return f"out of range: {reason.removeprefix('input: ')}"
        case StepResult.ERROR | StepResult.REFUSED:
            return f"proof failed: {reason}"
    return reason


class _Circuit:
    def __init__(self, prover: Prover, part: Slice) -> None:
        self._prover, self._part = prover, part

    def answer(self, item: Tensors, *, deadline: Deadline) -> SliceProof:
        return self._prover.prove(self._part, item, deadline=deadline)


class _Witness:
    def __init__(self, prover: Prover, part: Slice) -> None:
        self._prover, self._part = prover, part

    def answer(self, item: Tensors, *, deadline: Deadline) -> dict[str, Array]:
        return checked(self._part, self._prover.witness(self._part, item))


class _Onnx:
    def __init__(self, bound: BoundSlices, part: Slice) -> None:
        self._bound, self._part = bound, part

    def answer(self, item: Tensors, *, deadline: Deadline = NO_DEADLINE) -> dict[str, Array]:
        return self._bound.run_one(self._part.index, item, deadline)


class _ProofGuard:
    """Lets a proof pass that the prover itself verified, and whose outputs fit the slice."""

    def __init__(self, part: Slice) -> None:
        self._part = part

    def check(self, item: Tensors, answer: Any) -> Verdict:
        if not isinstance(answer, SliceProof) or not answer.verified or not answer.pieces:
            return Verdict(StepResult.REFUSED, "the proof does not verify")
        checked(self._part, answer.outputs)
        if not all(np.isfinite(array).all() for array in answer.outputs.values()):
            return Verdict(StepResult.REFUSED, "the proved output is not finite")
        detail = dict(answer.detail)
        detail |= {"pieces": len(answer.pieces), "slice_sha256": self._part.sha256}
        by = str(answer.detail.get("backend", "prover"))
        evidence = Evidence(EvidenceKind.PROVED, by, detail)
        return Verdict(evidence=(evidence,))


def checked(part: Slice, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that a slice declares; EngineError where one is missing or does not fit."""
    found = {}
    for spec in part.outputs:
        array = outputs.get(spec.name)
        if array is None or array.shape != spec.shape or array.dtype != spec.dtype:
            raise EngineError(f"the circuit's output '{spec.name}' does not fit the slice")
        found[spec.name] = array
    return found


def _known(seconds: float | None) -> float:
    """Where nothing is known, the worst: a limit must not be passed by ignorance."""
    return math.inf if seconds is None else seconds


def _no_circuit(prover: Prover, part: Slice) -> str:
    return prover.unavailable(part) or "no circuit"
