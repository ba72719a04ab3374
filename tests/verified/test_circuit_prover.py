"""Slices proved by real circuits: the proof's numbers, limits, refusals and clear errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper
from support.circuits import SMALL, image, infer, ready_prover, shared_cache, tiny
from support.models import FLOAT, build, constant, tensor
from support.networks import dense, residual

from interlock.engines.onnx import OnnxSession
from interlock.errors import (
    DeadlineError,
    EngineUnavailableError,
    InputError,
    StorageError,
)
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.verified import circuit_prover
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.directory import Cuts, cut
from interlock.verified.ezkl_backend import CircuitSettings, EzklBackend
from interlock.verified.field import dequantise
from interlock.verified.proof_system import COMPILED, GRAPH
from interlock.verified.prover import Limits
from interlock.verified.slices import Slice
from interlock.verified.srs import DEVELOPMENT_WARNING

pytestmark = pytest.mark.zk


@pytest.fixture(scope="module")
def prover() -> Iterator[CircuitProver]:
    yield from ready_prover()


def entering(part: Slice, seed: int = 0) -> dict[str, Array]:
    """What ONNX gives the slice of the tiny network."""
    tensors = image(seed)
    for before in tiny().slices[: part.index]:
        tensors |= OnnxSession(before.model).run(
            {spec.name: tensors[spec.name] for spec in before.inputs}
        )
    return {spec.name: tensors[spec.name] for spec in part.inputs}


def test_every_slice_is_proved_and_close_to_onnx(prover: CircuitProver) -> None:
    run = infer(prover)
    assert run.proved == 3
    tensors = image()
    for part in tiny().slices:
        tensors |= OnnxSession(part.model).run({s.name: tensors[s.name] for s in part.inputs})
    assert np.abs(run.outputs["y"] - tensors["y"]).max() <= 2e-3
    assert run.outputs["y"].argmax() == tensors["y"].argmax()


def test_pieces_give_the_integers_of_the_whole_circuit(prover: CircuitProver) -> None:
    """Tiled and lowered against ezkl's own circuit of the slice as it is."""
    part = tiny().slices[0]
    proof = prover.prove(part, entering(part))
    assert len(proof.pieces) == 6
    assert len({piece.circuit for piece in proof.pieces}) == 2
    (name,) = proof.outputs
    assert np.array_equal(proof.outputs[name], prover.witness(part, entering(part))[name])
    assert np.array_equal(proof.outputs[name].reshape(-1), as_it_is(part, entering(part)))


def as_it_is(part: Slice, inputs: dict[str, Array]) -> Array:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, EzklBackend() as backend:
        directory = Path(scratch)
        (directory / GRAPH).write_bytes(part.model)
        backend.measure(directory)
        backend.compile(directory, 12)
        (output,) = backend.witness(directory, list(inputs.values()))
    return dequantise(output, CircuitSettings().scale)


def test_the_record_says_what_was_proved(prover: CircuitProver) -> None:
    part = tiny().slices[1]
    proof = prover.prove(part, entering(part))
    assert proof.verified
    assert proof.seconds > 0
    assert proof.pieces[0].piece == "whole"
    assert proof.pieces[0].key_bytes > 1_000_000
    assert proof.detail["srs_warning"] == DEVELOPMENT_WARNING
    assert proof.detail["scale"] == CircuitSettings().scale


def test_setup_that_is_done_costs_nothing(prover: CircuitProver) -> None:
    part = tiny().slices[1]
    stamp = {p: p.stat().st_mtime_ns for p in prover.keys.directory.glob("*/pk.key")}
    plan = prover.setup(part)
    assert plan.decision == "prove"
    assert plan.circuit_bytes == prover.circuit_bytes(part)
    assert {p: p.stat().st_mtime_ns for p in prover.keys.directory.glob("*/pk.key")} == stamp


def test_what_is_not_set_up_says_so(tmp_path: Path) -> None:
    part = tiny().slices[1]
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        assert prover.unavailable(part) == "no circuit: the slice is not set up"
        assert prover.circuit_bytes(part) is None
        assert prover.predicted_seconds(part) is None
        with pytest.raises(EngineUnavailableError, match="slice_1: no circuit"):
            prover.prove(part, entering(part))
        assert prover.compile(part) == prover.circuit_bytes(part)
        assert prover.unavailable(part) == "no key: the circuit is compiled, but has no keys"
        prover.witness(part, entering(part))


def test_keys_that_left_the_cache_are_missed_and_made_again(tmp_path: Path) -> None:
    part = tiny().slices[2]
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        prover.setup(part)
        assert prover.unavailable(part) is None
        (digest,) = prover.circuits_of(part)[1]
        (prover.keys.path(digest) / "pk.key").write_bytes(b"cut short")
        assert prover.unavailable(part) == "no key: the keys are not in the cache"
        prover.setup(part)
        assert prover.prove(part, entering(part)).verified


def test_a_record_that_names_another_slices_circuit_proves_nothing(tmp_path: Path) -> None:
    """Its proof would be sound, and about other weights."""
    own = cut(dense([4, 3]), Cuts()).slices[0]
    foreign = cut(dense([4, 3], seed=1), Cuts()).slices[0]
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        for part in (own, foreign):
            prover.setup(part)
        record = prover._records.read(own)
        assert record is not None
        circuits = prover.circuits_of(foreign)[1]
        prover._records.write(own, msgspec.structs.replace(record, circuits=circuits))
        assert prover.unavailable(own) == (
            "no key: the keys are of another circuit, or of another release of ezkl"
        )
        with pytest.raises(EngineUnavailableError, match="slice_0: no key"):
            prover.prove(own, {"x": np.ones((1, 4), np.float32)})
        prover.setup(own)
        assert prover.unavailable(own) is None


def test_an_srs_directory_that_lacks_the_size_is_no_key(tmp_path: Path) -> None:
    part = tiny().slices[2]
    own = tmp_path / "srs"
    own.mkdir()
    for _ in ready_prover((2,)):
        made = shared_cache() / "srs" / "development-9.srs"
        (own / "kzg9.srs").write_bytes(made.read_bytes())
    with CircuitProver(tmp_path / "cache", ceiling=SMALL, srs=own) as prover:
        prover.setup(part)
        (own / "kzg9.srs").unlink()
        why = prover.unavailable(part)
        assert why is not None
        assert why.startswith("no key: there is no kzg9.srs")


def test_two_provers_may_compile_the_same_slice(tmp_path: Path) -> None:
    part = tiny().slices[2]
    left = (
        tmp_path / "compiled" / f".{CircuitProver(tmp_path)._records.compiled(part).name}.partial"
    )
    left.mkdir(parents=True)
    (left / GRAPH).write_bytes(b"half: its process died")

    def work(_: int) -> int:
        with CircuitProver(tmp_path, ceiling=SMALL) as prover:
            return prover.compile(part)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(work, range(2))
    assert one == other > 0
    assert not left.exists()


def test_the_same_slice_is_proved_by_two_threads(prover: CircuitProver) -> None:
    part = tiny().slices[2]
    with ThreadPoolExecutor(2) as pool:
        proofs = list(pool.map(lambda seed: prover.prove(part, entering(part, seed)), (0, 1)))
    assert all(proof.verified for proof in proofs)
    assert not np.array_equal(proofs[0].outputs["y"], proofs[1].outputs["y"])


def test_predicted_seconds_follow_the_last_proof(prover: CircuitProver) -> None:
    part = tiny().slices[1]
    proof = prover.prove(part, entering(part))
    assert prover.predicted_seconds(part) == pytest.approx(proof.seconds, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v: np.full_like(v, np.nan), "'f' holds values that are not finite"),
        (lambda v: np.full_like(v, 5000), "outside the circuit's range"),
        (lambda v: v.astype(np.float64), "the slice takes float32"),
        (lambda v: v[:, 1:], "the slice takes float32"),
    ],
    ids=["NaN", "out of range", "dtype", "shape"],
)
def test_bad_inputs_are_named(prover: CircuitProver, change: object, named: str) -> None:
    part = tiny().slices[1]
    (name, value) = next(iter(entering(part).items()))
    with pytest.raises(InputError, match=named):
        prover.prove(part, {name: change(value)})  # type: ignore[operator]
    with pytest.raises(InputError, match="'f' is missing"):
        prover.prove(part, {})


def test_an_activation_out_of_range_inside_the_circuit_is_told(tmp_path: Path) -> None:
    """The inputs fit; a sum of products does not."""
    part = cut(dense([64, 2]), Cuts()).slices[0]
    with CircuitProver(tmp_path) as prover:
        value = {"x": np.full((1, 64), 2000, np.float32)}
        model = onnx.load_from_string(part.model)
        for tensor_ in model.graph.initializer:
            if len(tensor_.dims) == 2:
                ones = np.full(tuple(tensor_.dims), 8, np.float32)
                tensor_.CopyFrom(onnx.numpy_helper.from_array(ones, tensor_.name))
        part = replace(part, model=model.SerializeToString())
        with pytest.raises(InputError, match="an activation is outside the circuit's range"):
            prover.witness(part, value)


def test_a_deadline_ends_the_proof_and_the_next_one_works(prover: CircuitProver) -> None:
    part = tiny().slices[1]
    with pytest.raises(DeadlineError):
        prover.prove(part, entering(part), deadline=Deadline.after(0.05))
    assert prover.prove(part, entering(part)).verified


def test_rows_that_were_predicted_wrong_are_refused_before_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner believes in half of the rows; ezkl's count decides."""
    from interlock.verified import cost, planner

    real = cost.predict

    def optimist(model: onnx.ModelProto) -> object:
        return replace(real(model), rows=10, key_bytes=1, memory_bytes=1, logrows=9)

    monkeypatch.setattr(planner, "predict", optimist)
    part = cut(dense([40, 20]), Cuts()).slices[0]
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        assert prover.plan(part).decision == "prove"
        with pytest.raises(EngineUnavailableError, match="10 rows were predicted, ezkl counts"):
            prover.setup(part)
    assert list(tmp_path.rglob("pk.key")) == []


def test_a_plan_that_falls_back_cannot_be_set_up(tmp_path: Path) -> None:
    model = build(
        [helper.make_node("Sigmoid", ["x"], ["y"])],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2])],
        [],
    )
    with (
        CircuitProver(tmp_path) as prover,
        pytest.raises(
            EngineUnavailableError, match="slice_0: no circuit is made for the operator Sigmoid"
        ),
    ):
        prover.setup(cut(model, Cuts()).slices[0])


def test_the_callers_limits_count_beside_the_ceiling(tmp_path: Path) -> None:
    part = tiny().slices[0]
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        assert prover.plan(part).decision == "tile"
        assert prover.plan(part, Limits(seconds=0.01)).decision == "fallback"
        assert prover.plan(part, Limits(key_bytes=10**9)).decision == "tile"


def test_a_slice_with_several_inputs_and_outputs_is_proved_whole(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["a", "w"], ["h"]),
            helper.make_node("Add", ["h", "b"], ["y"]),
            helper.make_node("Relu", ["y"], ["z"]),
        ],
        [tensor("a", FLOAT, [1, 2]), tensor("b", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2]), tensor("z", FLOAT, [1, 2])],
        [constant("w", np.array([[1, 2], [3, -4]]), np.float32)],
    )
    part = cut(model, Cuts()).slices[0]
    given = {
        "a": np.array([[0.5, 0.25]], np.float32),
        "b": np.array([[1, -8]], np.float32),
    }
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        prover.setup(part)
        proof = prover.prove(part, given)
    assert proof.verified
    assert np.array_equal(proof.outputs["y"], np.array([[2.25, -8]], np.float32))
    assert np.array_equal(proof.outputs["z"], np.array([[2.25, 0]], np.float32))


def test_a_residual_block_computes_what_onnx_does(tmp_path: Path) -> None:
    parts = cut(residual(), Cuts()).slices
    part = next(part for part in parts if len(part.parameterised) > 1)
    rng = np.random.default_rng(0)
    given = {
        spec.name: rng.uniform(0, 1, spec.shape).astype(np.float32)  # type: ignore[arg-type]
        for spec in part.inputs
    }
    expected = OnnxSession(part.model).run(given)
    with CircuitProver(tmp_path) as prover:
        found = prover.witness(part, given)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 5e-3


def test_no_space_for_keys_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"a file where the keys would go")
    with (
        CircuitProver(tmp_path, ceiling=SMALL) as prover,
        pytest.raises(StorageError, match="cannot write keys below"),
    ):
        prover.setup(tiny().slices[2])


def test_an_srs_of_another_secret_makes_the_keys_unusable(tmp_path: Path) -> None:
    part = tiny().slices[2]
    with CircuitProver(tmp_path, ceiling=SMALL) as prover:
        prover.setup(part)
        (srs,) = (tmp_path / "srs").glob("*.srs")
        data = bytearray(srs.read_bytes())
        data[-1] ^= 1
        srs.write_bytes(data)
        assert prover.unavailable(part) == "no key: the keys were made under another SRS"


def test_a_directory_of_files_stands_for_the_srs(tmp_path: Path) -> None:
    own = tmp_path / "srs"
    own.mkdir()
    made = shared_cache() / "srs" / "development-9.srs"
    for _ in ready_prover((2,)):
        (own / "kzg9.srs").write_bytes(made.read_bytes())
    part = tiny().slices[2]
    with CircuitProver(tmp_path / "cache", ceiling=SMALL, srs=own) as prover:
        prover.setup(part)
        proof = prover.prove(part, entering(part))
    assert proof.verified
    assert proof.detail["srs"] == "file"
    assert proof.detail["srs_warning"] is None
    assert (own / "kzg9.srs").read_bytes() == made.read_bytes()


def test_the_cache_is_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(circuit_prover.CACHE_VARIABLE, str(tmp_path))
    assert circuit_prover.default_cache() == tmp_path


def test_closing_ends_the_workers(tmp_path: Path) -> None:
    prover = CircuitProver(tmp_path, ceiling=SMALL)
    prover.compile(tiny().slices[2])
    before = threading.active_count()
    prover.close()
    assert (prover._records.compiled(tiny().slices[2]) / COMPILED).exists()
    assert threading.active_count() <= before
