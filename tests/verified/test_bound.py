"""Slices over shared buffers: the same bits, no buffer handed out, and failures that stop."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models import FLOAT, build, constant, tensor
from support.networks import dense, examples, logarithm, residual, shipped

from interlock.engines.onnx import OnnxSession
from interlock.errors import DeadlineError, EngineError
from interlock.kernel.clock import Deadline
from interlock.verified import slice_model
from interlock.verified.bound import BoundSlices
from interlock.verified.equality import random_inputs


def test_a_stretch_gives_what_the_sessions_give_one_by_one() -> None:
    bound = BoundSlices(slice_model(shipped("net")))
    for row in examples("net", 3):
        apart = {"input": row}
        for part in bound.slices:
            apart |= bound.run_one(part.index, {s.name: apart[s.name] for s in part.inputs})
        together = {"input": row}
        seconds = bound.run(0, 5, together, record=True)
        assert len(seconds) == 5
        assert min(seconds) > 0
        assert together.keys() == apart.keys()
        assert all(together[name].tobytes() == apart[name].tobytes() for name in apart)


def test_a_stretch_hands_out_what_is_needed_behind_it_and_no_more() -> None:
    sliced = slice_model(residual(), crossing=2)
    bound = BoundSlices(sliced)
    tensors = next(random_inputs(sliced))
    bound.run(0, 2, tensors)
    assert set(tensors) == {"x", "r1", "r2"}
    bound.run(2, 5, tensors)
    assert set(tensors) == {"x", "r1", "r2", "y"}
    whole = OnnxSession(sliced.model).run({"x": tensors["x"]})
    assert np.allclose(whole["y"], tensors["y"], atol=1e-5)


def test_an_answer_does_not_change_with_the_next_run() -> None:
    bound = BoundSlices(slice_model(shipped("net")))
    first, second = examples("net", 2)
    one = {"input": first}
    bound.run(0, 5, one)
    kept = one["logits"].copy()
    bound.run(0, 5, {"input": second})
    assert np.array_equal(one["logits"], kept)


def test_runs_from_several_threads_do_not_mix() -> None:
    bound = BoundSlices(slice_model(shipped("net")))
    rows = examples("net", 8)
    wanted = []
    for row in rows:
        tensors = {"input": row}
        bound.run(0, 5, tensors)
        wanted.append(tensors["logits"].tobytes())
    wrong = []

    def work(k: int) -> None:
        for _ in range(50):
            tensors = {"input": rows[k]}
            bound.run(0, 5, tensors)
            if tensors["logits"].tobytes() != wanted[k]:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("deadline", [None, 60.0])
def test_a_value_that_is_not_finite_stops_the_chain_at_its_slice(deadline: float | None) -> None:
    bound = BoundSlices(slice_model(logarithm(), at=["h", "log"]))
    tensors = {"x": np.array([[1, -1]], np.float32)}
    with pytest.raises(EngineError, match="slice_1 failed: its output is not finite"):
        bound.run(0, 3, tensors, deadline=Deadline.after(deadline))
    assert "y" not in tensors


def test_what_a_failed_run_left_behind_fails_no_other() -> None:
    bound = BoundSlices(slice_model(logarithm(), at=["h", "log"]))
    with pytest.raises(EngineError, match="slice_1"):
        bound.run(0, 3, {"x": np.array([[1, -1]], np.float32)})
    tensors = {"x": np.array([[1, 2]], np.float32)}
    bound.run(0, 1, tensors)
    bound.run(1, 3, tensors)
    assert np.isfinite(tensors["y"]).all()


def test_large_values_are_no_failure() -> None:
    """Their squares overflow, they do not."""
    bound = BoundSlices(slice_model(dense([2, 2, 2]), at=["h0"]))
    tensors = {"x": np.array([[1e30, 3e30]], np.float32)}
    bound.run(0, 2, tensors)
    assert np.isfinite(tensors["y"]).all()


def test_a_node_that_fails_names_its_slice() -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceSum", ["h"], ["total"], keepdims=0),
            helper.make_node("Cast", ["total"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "place"], ["y"], axis=0),
        ],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [])],
        [constant("w", np.eye(2), np.float32), constant("table", range(4), np.float32)],
    )
    bound = BoundSlices(slice_model(model, at=["h"]))
    good = {"x": np.array([[1, 2]], np.float32)}
    bound.run(0, 2, good)
    assert good["y"] == 3
    with pytest.raises(EngineError, match="slice_1 failed"):
        bound.run(0, 2, {"x": np.array([[9, 9]], np.float32)})


def test_text_takes_the_way_without_buffers() -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Greater", ["h", "zero"], ["positive"]),
            helper.make_node("Where", ["positive", "yes", "no"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", TensorProto.STRING, [1, 2])],
        [
            constant("w", np.eye(2), np.float32),
            constant("zero", 0, np.float32),
            numpy_helper.from_array(np.array(["yes"], dtype=object), "yes"),
            numpy_helper.from_array(np.array(["no"], dtype=object), "no"),
        ],
    )
    bound = BoundSlices(slice_model(model, at=["positive"]))
    tensors = {"x": np.array([[1, -1]], np.float32)}
    bound.run(0, 2, tensors)
    assert tensors["y"].tolist() == [["yes", "no"]]


def test_a_deadline_that_has_passed_is_an_error() -> None:
    bound = BoundSlices(slice_model(dense([2, 2, 2])))
    with pytest.raises(DeadlineError):
        bound.run(0, 2, {"x": np.zeros((1, 2), np.float32)}, deadline=Deadline.after(0.0))
