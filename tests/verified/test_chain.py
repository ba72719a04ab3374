"""A chain: which slices circuits answer, why the others fall back, and what is on record."""

from __future__ import annotations

import numpy as np
import pytest
from support.networks import examples, logarithm, residual, shipped
from support.provers import FixedPointProver

from interlock.engines.onnx import OnnxSession
from interlock.errors import EngineError, EngineUnavailableError
from interlock.kernel.outcome import EvidenceKind, Status, StepResult
from interlock.verified import NoProver, Policy, SliceChain, slice_model
from interlock.verified.chain import ChainRun

NET = slice_model(shipped("net"))
IMAGE = {"input": examples("net", 1)[0]}
FOUR = {f"slice_{k}" for k in (0, 1, 2, 4)}


def run(prover: FixedPointProver, policy: Policy = Policy()) -> ChainRun:  # noqa: B008
    return SliceChain(NET, prover).run(IMAGE, policy)


def fallbacks(found: ChainRun) -> dict[str, str]:
    """The reasons of the slices that fell back."""
    return {run.part.name: run.fallback for run in found.slices if run.fallback is not None}


def test_slices_with_keys_are_proved_and_the_rest_falls_back() -> None:
    found = run(FixedPointProver(keys=FOUR))
    assert (found.proved, found.replayed, found.unverified) == (4, 0, 1)
    assert [entry.method for entry in found.slices] == [
        "circuit",
        "circuit",
        "circuit",
        "onnx",
        "circuit",
    ]
    assert fallbacks(found) == {"slice_3": "no circuit"}
    kinds = [entry.outcome.evidence.kind for entry in found.slices]
    assert kinds[3] is EvidenceKind.ATTESTED
    assert kinds[0] is EvidenceKind.PROVED


def test_a_slice_takes_exactly_what_the_one_before_it_proved() -> None:
    found = run(FixedPointProver(scale=5))
    for before, after in zip(found.slices, found.slices[1:], strict=False):
        (name,) = after.inputs
        assert before.proof is not None
        assert after.inputs[name].tobytes() == before.proof.outputs[name].tobytes()
    whole = OnnxSession(NET.model).run(IMAGE)["logits"]
    assert not np.array_equal(found.outputs["logits"], whole)
    assert found.outputs["logits"].argmax() == whole.argmax()


@pytest.mark.parametrize(
    ("prover", "policy", "reason"),
    [
        (FixedPointProver(keys=FOUR), Policy(), "no circuit"),
        (FixedPointProver(keys=FOUR, compiled={"slice_3"}), Policy(), "no key"),
        (
            FixedPointProver(sizes={"slice_3": 5000}),
            Policy(size_limit=4999),
            "size: size 5000 is above 4999",
        ),
        (
            FixedPointProver(seconds={"slice_3": 2.0}),
            Policy(time_limit=1.5),
            "time: predicted 2 s, 1.5 s left",
        ),
        (
            FixedPointProver(seconds={"slice_3": None}),
            Policy(time_limit=1.5),
            "time: predicted inf s, 1.5 s left",
        ),
        (
            FixedPointProver(fails={"slice_3"}),
            Policy(),
            "proof failed: engine: the constraints are not satisfied",
        ),
        (
            FixedPointProver(lies={"slice_3"}),
            Policy(),
            "proof failed: the proof does not verify",
        ),
        (
            FixedPointProver(),
            Policy(excluded={"slice_3": "excluded: said so"}),
            "excluded: said so",
        ),
    ],
    ids=["no circuit", "no key", "size", "time", "no forecast", "failed", "lied", "excluded"],
)
def test_a_fallback_is_on_record_with_its_reason(
    prover: FixedPointProver, policy: Policy, reason: str
) -> None:
    found = run(prover, policy)
    assert fallbacks(found) == {"slice_3": reason}
    entry = found.slices[3]
    assert entry.method == "onnx"
    assert not entry.verified
    assert [step.name for step in entry.outcome.steps] == ["circuit", "onnx"]
    assert entry.outcome.status is Status.ACCEPTED
    assert found.proved == 4


def test_an_activation_out_of_range_falls_back() -> None:
    prover = FixedPointProver(reach=float(np.abs(IMAGE["input"]).max()))
    found = run(prover)
    reasons = fallbacks(found)
    assert reasons
    assert all(reason.startswith("out of range: ") for reason in reasons.values())
    assert found.proved == 5 - len(reasons)


def test_a_limit_at_the_value_itself_lets_it_pass() -> None:
    prover = FixedPointProver(sizes={"slice_3": 5000}, seconds=dict.fromkeys(FOUR, 30.0))
    assert run(prover, Policy(size_limit=5000, time_limit=30.0)).proved == 5


def test_without_fallback_nothing_runs_unless_everything_can_be_proved() -> None:
    prover = FixedPointProver(keys=FOUR, sizes={"slice_0": 9})
    with pytest.raises(EngineUnavailableError) as caught:
        run(prover, Policy(fallback=False, size_limit=8))
    message = caught.value.message
    assert message.startswith("5 of 5 slices cannot be proved: slice_0: size: size 9 is above 8")
    assert "slice_3: no circuit" in message
    assert prover.asked == []


def test_without_fallback_a_failed_proof_stops_the_chain() -> None:
    prover = FixedPointProver(fails={"slice_2"})
    with pytest.raises(EngineError, match="slice_2 failed: circuit: engine: the constraints"):
        run(prover, Policy(fallback=False))
    assert prover.asked == ["slice_0", "slice_1", "slice_2"]


def test_without_fallback_all_slices_are_proved() -> None:
    found = run(FixedPointProver(), Policy(fallback=False))
    assert (found.proved, found.unverified) == (5, 0)


def test_a_witness_without_a_proof_counts_as_unverified() -> None:
    found = run(FixedPointProver(), Policy(circuits="witness"))
    assert {entry.method for entry in found.slices} == {"witness"}
    assert (found.proved, found.unverified) == (0, 5)
    assert fallbacks(found) == {}
    proved = run(FixedPointProver())
    assert found.outputs["logits"].tobytes() == proved.outputs["logits"].tobytes()


def test_a_witness_needs_a_circuit_but_no_key() -> None:
    prover = FixedPointProver(keys={"slice_0"}, compiled={"slice_1"})
    found = run(prover, Policy(circuits="witness"))
    assert [entry.method for entry in found.slices] == ["witness"] * 2 + ["onnx"] * 3


def test_without_circuits_no_fallback_is_on_record() -> None:
    prover = FixedPointProver()
    found = run(prover, Policy(circuits="none"))
    assert prover.asked == []
    assert fallbacks(found) == {}
    assert all(len(entry.outcome.steps) == 1 for entry in found.slices)
    assert (
        found.outputs["logits"].tobytes() == OnnxSession(NET.model).run(IMAGE)["logits"].tobytes()
    )


def test_without_a_prover_every_slice_says_why() -> None:
    found = SliceChain(NET, NoProver("no circuit: no extra")).run(IMAGE)
    assert set(fallbacks(found).values()) == {"no circuit: no extra"}
    first = found.slices[0].outcome.steps[0]
    assert (first.result, first.attempts) == (StepResult.UNAVAILABLE, 0)


def test_a_record_holds_what_entered_and_left() -> None:
    plain = SliceChain(NET, NoProver("none"))
    assert plain.run(IMAGE).slices[0].inputs == {}
    found = plain.run(IMAGE, Policy(record=True))
    for entry in found.slices:
        again = OnnxSession(entry.part.model).run(entry.inputs)
        assert again.keys() == entry.outputs.keys()
        assert all(again[name].tobytes() == entry.outputs[name].tobytes() for name in again)


def test_several_tensors_cross_between_circuits_and_onnx() -> None:
    sliced = slice_model(residual(), crossing=2)
    given = {"x": np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    wanted = OnnxSession(sliced.model).run(given)["y"]
    for keys in (set(), {"slice_1"}, {"slice_0", "slice_2"}, None):
        found = SliceChain(sliced, FixedPointProver(keys=keys)).run(given)
        assert found.proved == (5 if keys is None else len(keys))
        assert np.allclose(found.outputs["y"], wanted, atol=1e-2)


def test_a_failing_slice_stops_the_chain_and_no_later_circuit_is_asked() -> None:
    prover = FixedPointProver(keys={"slice_2"})
    chain = SliceChain(slice_model(logarithm(), at=["h", "log"]), prover)
    with pytest.raises(EngineError, match="slice_1 failed: its output is not finite"):
        chain.run({"x": np.array([[1, -1]], np.float32)})
    assert prover.asked == []
