"""Layers cut into pieces: the pieces' parts make up the whole, in floats and in shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from interlock.engines.onnx import OnnxSession
from interlock.kernel.batch import Array
from interlock.verified.explicit import spell_out
from interlock.verified.lowering import lower
from interlock.verified.tiling import (
    WHOLE,
    Geometry,
    Piece,
    assemble,
    cuts,
    input_cut,
    input_size,
    layer_of,
    output_cut,
    problem_of,
)


def integral(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Small integers as floats, on which sums are exact whatever their order."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], shape: list[int], weights: dict[str, Array]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    }
    for node in inferred.graph.node:
        spell_out(node, shapes | {name: value.shape for name, value in weights.items()})
    return inferred


def test_a_layer_over_several_rows_is_no_layer_that_can_be_cut() -> None:
    """The pieces have a batch of one."""
    kernel = np.ones((2, 1, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    assert layer_of(model_of([node], [1, 1, 5, 5], {"w": kernel})) is not None
    assert layer_of(model_of([node], [2, 1, 5, 5], {"w": kernel})) is None


def test_a_dense_layer_that_a_bias_spreads_is_no_layer_that_can_be_cut() -> None:
    """A column added to a row makes a matrix."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    bias = np.arange(4, dtype=np.float32)
    weights = {"w": np.ones((2, 4), np.float32), "b": bias}
    assert layer_of(model_of(nodes, [1, 2], weights)) is not None
    assert layer_of(model_of(nodes, [1, 2], {**weights, "b": bias[:, None]})) is None


@dataclass(frozen=True)
class Case:
    model: onnx.ModelProto
    image: Array


@st.composite
def layers(draw: st.DrawFn) -> Case:
    """Convolutions with any strides, pads and dilations, ReLU and pooling in either order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    height, width = draw(st.integers(7, 11)), draw(st.integers(7, 9))
    names = ["x", "w"] + (["b"] if draw(st.booleans()) else [])
    nodes = [
        helper.make_node(
            "Conv",
            names,
            ["c"],
            kernel_shape=kernel,
            strides=[draw(st.integers(1, 2)), draw(st.integers(1, 2))],
            pads=[draw(st.integers(0, 2)) for _ in range(4)],
            dilations=[draw(st.integers(1, 2)), 1],
        )
    ]
    for kind in draw(st.sampled_from([[], ["Relu"], ["MaxPool"], ["Relu", "MaxPool"]])):
        given: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [draw(st.integers(1, 2)), 2]}
        nodes.append(
            helper.make_node(
                kind, [nodes[-1].output[0]], [kind], **(given if kind == "MaxPool" else {})
            )
        )
    if draw(st.booleans()):
        nodes.append(helper.make_node("Flatten", [nodes[-1].output[0]], ["flat"]))
    nodes[-1].output[0] = "y"
    weights = {"w": integral(rng, (outputs, channels, *kernel)), "b": integral(rng, (outputs,))}
    used = {name: value for name, value in weights.items() if name in names}
    model = model_of(nodes, [1, channels, height, width], used)
    return Case(model, integral(rng, (1, channels, height, width)))


def run(model: onnx.ModelProto, value: Array) -> Array:
    (name,) = (spec.name for spec in model.graph.input)
    return next(iter(OnnxSession(model.SerializeToString()).run({name: value}).values()))


@settings(max_examples=60, deadline=None)
@given(layers(), st.data())
def test_the_pieces_of_a_convolution_make_up_its_output(case: Case, data: st.DataObject) -> None:
    layer = layer_of(case.model)
    assert layer is not None
    geometry = layer.geometry
    size = (
        data.draw(st.integers(1, geometry.out_shape[1])),
        data.draw(st.integers(1, geometry.out_shape[2])),
    )
    pieces = list(cuts(geometry, *size))
    assert problem_of(geometry, pieces) is None
    expected = run(case.model, case.image)
    parts = []
    for piece in pieces:
        graph = layer.model(piece)
        shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
        value = input_cut(geometry, piece, case.image)
        assert len(value) == input_size(geometry, piece)
        value = value.reshape(shape)
        found = run(graph, value).reshape(-1)
        assert np.array_equal(found, output_cut(geometry, piece, expected))
        parts.append((piece, found.astype(np.int64)))
    assert np.array_equal(assemble(geometry, parts), expected.reshape(-1))


@settings(max_examples=30, deadline=None)
@given(layers())
def test_the_lowered_graph_gives_the_same_integers(case: Case) -> None:
    assert np.array_equal(run(lower(case.model), case.image), run(case.model, case.image))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("relu", [False, True])
def test_the_pieces_of_a_dense_layer_make_up_its_output(transposed: int, relu: bool) -> None:
    rng = np.random.default_rng(0)
    weight = integral(rng, (7, 5) if transposed else (5, 7))
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=transposed)]
    if relu:
        nodes.append(helper.make_node("Relu", ["h"], ["y"]))
    nodes[-1].output[0] = "y"
    model = model_of(nodes, [1, 5], {"w": weight, "b": integral(rng, (7,))})
    layer = layer_of(model)
    assert layer is not None
    value = integral(rng, (1, 5))
    expected = run(model, value)
    pieces = list(cuts(layer.geometry, 3, 1))
    assert [piece.channels for piece in pieces] == [(0, 3), (3, 6), (6, 7)]
    parts = [(piece, run(layer.model(piece), value).reshape(-1)) for piece in pieces]
    assert np.array_equal(
        assemble(layer.geometry, [(p, v.astype(np.int64)) for p, v in parts]), expected.reshape(-1)
    )


def test_bands_of_the_same_channels_have_the_same_graph() -> None:
    rng = np.random.default_rng(0)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    model = model_of([node], [1, 2, 9, 5], {"w": integral(rng, (3, 2, 3, 3))})
    layer = layer_of(model)
    assert layer is not None
    pieces = list(cuts(layer.geometry, 3, 2))
    assert [piece.rows for piece in pieces] == [(0, 2), (2, 4), (4, 6), (6, 8), (7, 9)]
    graphs = {layer.model(piece).SerializeToString(deterministic=True) for piece in pieces}
    assert len(graphs) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Conv", ["x", "w"], ["y"], group=2)],
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "c"], ["y"])],
    ],
    ids=["groups", "a tail that is none"],
)
def test_what_cannot_be_cut_is_told(nodes: list[onnx.NodeProto]) -> None:
    shape = (2, 1 if len(nodes) == 1 else 2, 3, 3)
    model = model_of(nodes, [1, 2, 6, 6], {"w": np.ones(shape, np.float32)})
    assert layer_of(model) is None


CONV = Geometry("conv", (1, 1, 6, 4), (1, 2, 3, 2), 1, 1, 2, 4)


@pytest.mark.parametrize(
    ("geometry", "pieces", "problem"),
    [
        (WHOLE, [Piece()], None),
        (WHOLE, [], "one piece"),
        (CONV, [Piece((0, 2), (0, 3))], None),
        (CONV, [Piece((0, 2), (0, 2))], "leave a part"),
        (CONV, [Piece((0, 1), (0, 3))], "leave a part"),
        (CONV, [Piece((0, 3), (0, 3))], "outside"),
        (CONV, [Piece((0, 2), (0, 0))], "outside"),
        (CONV, [Piece((0, 2), (0, 3)), Piece((1, 0), (0, 3))], "outside"),
        (Geometry("conv", (1, 1, 6, 4), (1, 2, 9, 2), 1, 1, 2, 4), [], "beyond its input"),
        (Geometry("conv", (1, 1, 6), (1, 2, 3)), [], "no layer has"),
        (Geometry("conv", (1, 1, 6, 4), (1, 2, 3, 2), -1), [], "no layer has"),
        (Geometry("conv", (1, 1, 1 << 40, 4), (1, 2, 3, 2)), [], "no layer has"),
        (Geometry("dense", (1, 4), (1, 3)), [Piece((0, 3))], None),
        (Geometry("dense", (1, 4), (1, 3)), [Piece((0, 3), (0, 1))], "outside"),
    ],
)
def test_pieces_that_do_not_cover_a_slice_are_told(
    geometry: Geometry, pieces: list[Piece], problem: str | None
) -> None:
    found = problem_of(geometry, pieces)
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_pieces_that_contradict_each_other_are_told() -> None:
    geometry = Geometry("dense", (1, 4), (1, 3))
    one, two = (Piece((0, 2)), np.array([1, 2])), (Piece((1, 3)), np.array([9, 3]))
    with pytest.raises(ValueError, match="contradicts another"):
        assemble(geometry, [one, two])
    with pytest.raises(ValueError, match="leave a part"):
        assemble(geometry, [one])


def test_a_piece_is_cut_without_padding_the_whole_image() -> None:
    """A hostile bundle may name pads that would take 256 GB."""
    geometry = Geometry("conv", (1, 1 << 20, 1, 1), (1, 1, 1, 1), 1 << 14, 1 << 14)
    piece = Piece((0, 1), (0, 1))
    found = input_cut(geometry, piece, np.ones(1 << 20, np.int64))
    assert len(found) == input_size(geometry, piece) == 1 << 20
    assert not found.any()
