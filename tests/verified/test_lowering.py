"""Slices in circuit form: the same numbers, whatever the model calls its tensors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from support.models import FLOAT, build, constant, tensor

from interlock.engines.onnx import OnnxSession
from interlock.verified.directory import Cuts, cut
from interlock.verified.lowering import lower
from interlock.verified.slicing import parse

NAMES = ["p/0", "p/3", "p/axes", "p/steps", "p/0/start", "p/max1", "p/over", "p/above"]


@pytest.mark.parametrize("first", ["Relu", "Identity"])
@pytest.mark.parametrize("name", [*NAMES, "p/before_relu", "p/before_relu/0", "p_", "z"])
def test_a_name_of_the_models_is_not_taken_for_another_tensor(name: str, first: str) -> None:
    model = build(
        [
            helper.make_node(first, ["x"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
            helper.make_node("MaxPool", ["x"], ["p/_"], kernel_shape=[2, 2]),
            helper.make_node("MaxPool", ["x"], ["p__"], kernel_shape=[2, 2]),
            helper.make_node("Add", ["p", name], ["a"]),
            helper.make_node("Add", ["a", "p/_"], ["b"]),
            helper.make_node("Add", ["b", "p__"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 1, 3, 3])],
        [tensor("y", FLOAT, [1, 1, 2, 2])],
        [constant(name, np.full((1, 1, 2, 2), 5), np.float32)],
    )
    part = cut(model, Cuts(at=[])).slices[0]
    lowered = lower(parse(part.model))
    assert "MaxPool" not in {node.op_type for node in lowered.graph.node}
    made = [name for node in lowered.graph.node for name in node.output]
    made += [weight.name for weight in lowered.graph.initializer]
    assert len(set(made)) == len(made)
    given = {"x": np.arange(-4, 5, dtype=np.float32).reshape(1, 1, 3, 3)}
    found = OnnxSession(lowered.SerializeToString()).run(given)
    assert np.array_equal(found["y"], OnnxSession(part.model).run(given)["y"])
