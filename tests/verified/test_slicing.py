"""Slices: where a model is cut, what crosses, and that the chain gives the model's bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.counts import count
from support.models import FLOAT, INT64, build, constant, tensor
from support.networks import dense, examples, graphs, residual, shipped

from interlock.errors import BundleFormatError, ConfigError, InputError
from interlock.verified import slice_model
from interlock.verified.equality import random_inputs, same_bits
from interlock.verified.slices import SlicedModel


def crossings(sliced: SlicedModel) -> list[list[str]]:
    """The tensors that enter each slice."""
    return [[spec.name for spec in part.inputs] for part in sliced.slices]


@pytest.mark.parametrize(
    ("name", "layers", "tensors"),
    [
        (
            "net",
            [("Conv",), ("Conv",), ("Gemm",), ("Gemm",), ("Gemm",)],
            ["input", "conv1_pool", "flat", "fc1_relu", "fc2_relu"],
        ),
        (
            "doom",
            [("Conv",), ("Conv",), ("Conv",), ("Gemm",), ("Gemm",)],
            ["input", "conv1_relu", "conv2_relu", "flat", "fc1_relu"],
        ),
    ],
)
def test_a_shipped_model_has_a_slice_a_layer(
    name: str, layers: list[tuple[str, ...]], tensors: list[str]
) -> None:
    sliced = slice_model(shipped(name))
    assert [part.parameterised for part in sliced.slices] == layers
    assert crossings(sliced) == [[tensor] for tensor in tensors]
    assert [part.name for part in sliced.slices] == [f"slice_{k}" for k in range(5)]
    for part in sliced.slices:
        onnx.checker.check_model(onnx.load_model_from_string(part.model), full_check=True)


@pytest.mark.parametrize("name", ["net", "doom"])
@pytest.mark.parametrize("level", ["all", "none"])
def test_the_chain_gives_a_shipped_models_bits(name: str, level: str) -> None:
    n = count(40, 200)
    inputs = [{"input": row} for row in examples(name, n)]
    assert same_bits(slice_model(shipped(name)), inputs, level) == (n, n)  # type: ignore[arg-type]


@given(graphs(), st.sampled_from([1, 2, None]))
@settings(max_examples=count(40, 600), deadline=None)
def test_the_chain_of_any_graph_gives_its_bits(model: bytes, crossing: int | None) -> None:
    sliced = slice_model(model, crossing=crossing)
    for part in sliced.slices[1:]:
        at = sliced.lasting(part.index)
        assert crossing is None or len(at) <= crossing
    equal, total = same_bits(sliced, random_inputs(sliced, 3), "none")
    assert equal == total


@given(graphs(), st.data())
@settings(max_examples=count(40, 600), deadline=None)
def test_a_cut_at_any_tensor_gives_the_bits(model: bytes, data: st.DataObject) -> None:
    made = [name for node in onnx.load_model_from_string(model).graph.node for name in node.output]
    at = data.draw(st.sampled_from(made[:-1]))
    sliced = slice_model(model, at=[at])
    assert at in {spec.name for spec in sliced.slices[0].outputs}
    equal, total = same_bits(sliced, random_inputs(sliced, 3), "none")
    assert equal == total


def test_a_shortcut_is_not_cut_unless_several_tensors_may_cross() -> None:
    single = slice_model(residual())
    assert [part.parameterised for part in single.slices] == [
        ("Conv",),
        ("Conv", "Conv"),
        ("Conv",),
        ("Gemm",),
    ]
    several = slice_model(residual(), crossing=2)
    assert [part.parameterised for part in several.slices] == [
        ("Conv",),
        ("Conv",),
        ("Conv",),
        ("Conv",),
        ("Gemm",),
    ]
    # The shortcut passes by the slice in between.
    assert crossings(several)[1:3] == [["r1"], ["r1", "r2"]]
    for sliced in (single, several):
        assert same_bits(sliced, random_inputs(sliced, 8), "none") == (8, 8)


def test_a_cut_at_several_tensors_together() -> None:
    sliced = slice_model(residual(), at=[["r1", "r2"], "r3"])
    assert crossings(sliced) == [["x"], ["r1", "r2"], ["r3"]]
    assert same_bits(sliced, random_inputs(sliced, 4), "none") == (4, 4)


def test_no_cut_gives_one_slice_with_the_whole_model() -> None:
    assert len(slice_model(dense([4, 3, 2]), at=[]).slices) == 1


def test_the_same_model_gives_the_same_digests() -> None:
    one, other = slice_model(shipped("net")), slice_model(shipped("net"))
    assert [part.sha256 for part in one.slices] == [part.sha256 for part in other.slices]
    changed = slice_model(shipped("net"), at=["conv1_pool"])
    assert changed.slices[0].sha256 == one.slices[0].sha256
    assert changed.slices[1].sha256 != one.slices[1].sha256


def test_constants_as_nodes_become_weights() -> None:
    weight = constant("unnamed", np.ones((3, 2)), np.float32)
    model = build(
        [
            helper.make_node("Constant", [], ["w"], value=weight),
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Constant", [], ["v"], value=weight),
            helper.make_node("Transpose", ["v"], ["vt"], perm=[1, 0]),
            helper.make_node("MatMul", ["r", "vt"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 3])],
        [tensor("y", FLOAT, [1, 3])],
    )
    sliced = slice_model(model, at=["r"])
    assert crossings(sliced) == [["x"], ["r"]]
    assert same_bits(sliced, random_inputs(sliced, 2), "none") == (2, 2)


def test_a_subgraph_sees_what_crosses_the_cut() -> None:
    def branch(name: str, source: str) -> onnx.GraphProto:
        node = helper.make_node("Mul", [source, "factor"], [f"{name}_out"])
        return helper.make_graph([node], name, [], [tensor(f"{name}_out", FLOAT, [1, 2])])

    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceSum", ["h"], ["total"], keepdims=0),
            helper.make_node("Greater", ["total", "zero"], ["positive"]),
            helper.make_node(
                "If",
                ["positive"],
                ["chosen"],
                then_branch=branch("then", "h"),
                else_branch=branch("else", "x"),
            ),
            helper.make_node("MatMul", ["chosen", "w"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2])],
        [
            constant("w", [[1, 2], [3, 4]], np.float32),
            constant("zero", 0, np.float32),
            constant("factor", 3, np.float32),
        ],
    )
    sliced = slice_model(model, at=[["h", "positive"]])
    assert crossings(sliced) == [["x"], ["x", "h", "positive"]]
    assert same_bits(sliced, random_inputs(sliced, 6), "none") == (6, 6)


def test_an_old_model_lists_its_weights_among_its_inputs() -> None:
    """Up to version 3 of the representation it has to."""
    model = onnx.load_from_string(dense([4, 3, 2]))
    model.ir_version = 3
    model.opset_import[0].version = 8
    model.graph.input.extend(
        tensor(weight.name, FLOAT, list(weight.dims)) for weight in model.graph.initializer
    )
    sliced = slice_model(model.SerializeToString())
    assert crossings(sliced) == [["x"], ["h0_relu"]]
    assert same_bits(sliced, random_inputs(sliced, 2), "none") == (2, 2)


@pytest.mark.parametrize("crossing", [1, 2, None])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_layer_that_nothing_uses_has_no_slice_of_its_own(
    place: int, crossing: int | None
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    nodes.insert(place, helper.make_node("MatMul", ["x", "w"], ["unused"]))
    model = build(
        nodes,
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2])],
        [constant("w", [[1, 2], [3, 4]], np.float32)],
    )
    sliced = slice_model(model, crossing=crossing)
    # At the end it makes the input cross every cut, beside what a layer gives.
    assert len(sliced.slices) == (1 if (place, crossing) == (2, 1) else 2)
    assert same_bits(sliced, random_inputs(sliced, 2), "none") == (2, 2)


def test_outputs_that_no_layer_makes() -> None:
    """A constant, a weight, and an input handed through."""
    model = build(
        [
            helper.make_node("Constant", [], ["c"], value=constant("", np.ones(2), np.float32)),
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 2])],
        [
            tensor("y", FLOAT, [1, 2]),
            tensor("c", FLOAT, [2]),
            tensor("w", FLOAT, [2, 2]),
            tensor("x", FLOAT, [1, 2]),
        ],
        [constant("w", [[1, 2], [3, 4]], np.float32)],
    )
    sliced = slice_model(model, at=["h"])
    assert sliced.outputs == ("y", "c", "w", "x")
    assert same_bits(sliced, random_inputs(sliced, 2), "none") == (2, 2)


def test_open_shapes_are_given_or_refused() -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ],
        [tensor("x", FLOAT, ["batch", "rows", 2])],
        [tensor("y", FLOAT, ["batch", "rows", 2])],
        [constant("w", [[1, 2], [3, 4]], np.float32)],
    )
    with pytest.raises(InputError, match="axis 1 of the input 'x' has no fixed size"):
        slice_model(model)
    sliced = slice_model(model, shapes={"x": [1, 5, 2]})
    assert sliced.slices[1].inputs[0].shape == (1, 5, 2)
    assert same_bits(sliced, random_inputs(sliced, 2), "none") == (2, 2)
    with pytest.raises(ConfigError, match="the size 3; it has 2"):
        slice_model(model, shapes={"x": [1, 5, 3]})
    for size in (-1, 0, 1 << 40, 1 << 70):
        with pytest.raises(ConfigError, match=f"the size {size}; it must be 1 or more, and"):
            slice_model(model, shapes={"x": [1, size, 2]})
    with pytest.raises(ConfigError, match="2 axes; it has 3"):
        slice_model(model, shapes={"x": [1, 5]})
    with pytest.raises(ConfigError, match="'z', which is no input"):
        slice_model(model, shapes={"z": [1]})


def test_a_shape_that_depends_on_data_cannot_be_cut_at() -> None:
    model = build(
        [
            helper.make_node("NonZero", ["x"], ["places"]),
            helper.make_node("Cast", ["places"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["real"], ["y"], keepdims=0),
        ],
        [tensor("x", FLOAT, [4])],
        [tensor("y", FLOAT, [])],
    )
    with pytest.raises(InputError, match="the shape of 'real'"):
        slice_model(model, at=["real"])


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["nowhere"], "the model makes no tensor of that name"),
        (["h0", "h0"], "nothing lies before the cut at 'h0' that is not already cut"),
        (["h1_relu", "h0"], "nothing lies before the cut at 'h0'"),
        (["y"], "nothing lies behind the cut at 'y'"),
    ],
)
def test_cuts_that_cannot_be_made_are_named(at: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        slice_model(dense([4, 3, 3, 2]), at=at)


def test_what_is_no_sound_model_is_refused() -> None:
    model = shipped("net")
    for broken in (b"", b"not a model", model[: len(model) // 2], model[:-1]):
        with pytest.raises(BundleFormatError) as raised:
            slice_model(broken)
        assert "bundle" not in raised.value.hint
    contradiction = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", FLOAT, [1, 3])],
        [tensor("y", FLOAT, [1, 2])],
        [constant("w", [[1, 2], [3, 4]], np.float32)],
    )
    with pytest.raises(BundleFormatError, match="contradict each other"):
        slice_model(contradiction)


def test_an_operator_that_does_not_exist_is_refused() -> None:
    model = build(
        [helper.make_node("Frobnicate", ["x"], ["y"])],
        [tensor("x", FLOAT, [1, 3])],
        [tensor("y", FLOAT, [1, 3])],
    )
    with pytest.raises(BundleFormatError, match="Frobnicate"):
        slice_model(model)


def test_a_model_with_functions_of_its_own_is_refused() -> None:
    function = helper.make_function(
        "ours",
        "twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    model = onnx.load_model_from_string(
        build(
            [helper.make_node("Identity", ["x"], ["y"])],
            [tensor("x", INT64, [2])],
            [tensor("y", INT64, [2])],
        )
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("ours", 1))
    with pytest.raises(ConfigError, match="functions of its own"):
        slice_model(model.SerializeToString())
