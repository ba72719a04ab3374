"""What the steps of a slice accept from a prover, and how a fallback is worded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.networks import examples, shipped
from support.provers import FixedPointProver

from interlock.errors import EngineError
from interlock.kernel.outcome import EvidenceKind, StepResult
from interlock.kernel.route import Route
from interlock.verified import Policy, slice_model
from interlock.verified.prover import SliceProof
from interlock.verified.steps import checked, circuit_step, fallback_reason

PART = slice_model(shipped("net")).slices[0]
IMAGE = {"input": examples("net", 1)[0]}
PROVED = FixedPointProver().prove(PART, IMAGE)


class Says(FixedPointProver):
    """A prover that gives the proof it was told."""

    def __init__(self, proof: SliceProof) -> None:
        super().__init__()
        self.proof = proof

    def prove(self, part: object, inputs: object, **options: object) -> SliceProof:
        return self.proof


def asked(proof: SliceProof) -> Route[object, object]:
    return Route("slice_0", (circuit_step(Says(proof), PART, Policy()),), "refuse")


def test_a_proof_becomes_evidence() -> None:
    outcome = asked(replace(PROVED, detail={"backend": "ezkl 23", "logrows": 7})).run(IMAGE)
    assert outcome.evidence.kind is EvidenceKind.PROVED
    assert outcome.evidence.by == "ezkl 23"
    assert outcome.evidence.detail == {
        "backend": "ezkl 23",
        "logrows": 7,
        "pieces": 1,
        "slice_sha256": PART.sha256,
    }


NAME = PART.outputs[0].name
VALUE = PROVED.outputs[NAME]


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        (replace(PROVED, verified=False), "the proof does not verify"),
        (replace(PROVED, pieces=()), "the proof does not verify"),
        (replace(PROVED, outputs={NAME: VALUE * np.nan}), "the proved output is not finite"),
        (replace(PROVED, outputs={}), "engine: the circuit's output 'conv1_pool' does not fit"),
        (replace(PROVED, outputs={NAME: VALUE[0]}), "does not fit"),
        (replace(PROVED, outputs={NAME: VALUE.astype(np.float64)}), "does not fit"),
    ],
    ids=["unverified", "empty", "NaN", "missing", "shape", "dtype"],
)
def test_what_is_no_proof_of_the_slice_is_not_used(proof: SliceProof, reason: str) -> None:
    outcome = asked(proof).run(IMAGE)
    assert not outcome.status.usable
    assert reason in outcome.steps[0].reason


def test_outputs_beyond_the_slices_own_are_dropped() -> None:
    assert set(checked(PART, {NAME: VALUE, "more": VALUE})) == {NAME}
    with pytest.raises(EngineError, match="conv1_pool"):
        checked(PART, {"more": VALUE})


@pytest.mark.parametrize(
    ("result", "reason", "wording"),
    [
        (StepResult.UNAVAILABLE, "no key", "no key"),
        (StepResult.UNAVAILABLE, "engine_unavailable: gone since", "no key: gone since"),
        (StepResult.UNAVAILABLE, "its check: storage: no", "no circuit: its check: storage: no"),
        (StepResult.OVER_SIZE, "size 3 is above 2", "size: size 3 is above 2"),
        (StepResult.OVER_TIME, "predicted 3 s, 2 s left", "time: predicted 3 s, 2 s left"),
        (StepResult.ERROR, "input: 'x' leaves it", "out of range: 'x' leaves it"),
        (StepResult.ERROR, "raised ValueError", "proof failed: raised ValueError"),
        (StepResult.REFUSED, "no", "proof failed: no"),
    ],
)
def test_a_fallbacks_reason_begins_with_its_kind(
    result: StepResult, reason: str, wording: str
) -> None:
    assert fallback_reason(result, reason) == wording
