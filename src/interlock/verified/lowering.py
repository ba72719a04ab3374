"""A slice's graph in the form that makes the smallest circuit, with the same integers as result.

A maximum over a window costs shuffle columns in ezkl, which double the proving key. Here it is a
tree of `b + relu(a - b)` over strided slices, which is exact on integers. A ReLU in front of a
pooling moves behind it, where there are fewer elements: the two commute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from interlock.kernel.errors import EngineUnavailableError

SUPPORTED = frozenset(
    {"Add", "Concat", "Conv", "Flatten", "Gemm", "Identity", "MatMul", "MaxPool", "Relu"}
    | {"Reshape", "Slice", "Sub", "Transpose"}
)
"""Operators that a circuit is made for; others have no cost model or need lookup tables."""


def lower(model: onnx.ModelProto) -> onnx.ModelProto:
    """The slice in circuit form, every tensor with its shape.

    Raises EngineUnavailableError, naming the operator or weight, for what cannot become a circuit.
    """
    nodes = list(model.graph.node)
    for node in nodes:
        if node.op_type not in SUPPORTED or node.domain not in ("", "ai.onnx"):
            raise EngineUnavailableError(f"no circuit is made for the operator {node.op_type}")
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype.kind == "f" and not np.isfinite(weight).all():  # ezkl takes NaN for zero
            raise EngineUnavailableError(f"the weight '{tensor.name}' is not finite")
    shapes = shapes_of(model)
    taken = shapes.keys() | {name for node in nodes for name in node.output}
    nodes = _relu_last(nodes, {value.name for value in model.graph.output}, taken)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.graph.node[:]
    del lowered.graph.value_info[:]
    for node in nodes:
        if node.op_type == "MaxPool":
            made, constants = _maximum(node, shapes, taken)
            lowered.graph.node.extend(made)
            lowered.graph.initializer.extend(constants)
        elif node.op_type != "Identity" or node.output[0] in shapes:
            lowered.graph.node.append(node)
    return onnx.shape_inference.infer_shapes(lowered, strict_mode=True, data_prop=True)


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, weights included."""
    graph = model.graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes by name, as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _free(name: str, taken: set[str]) -> str:
    """`name`, or one like it, under which no tensor is, nor with a slash behind it; taken now."""
    while name in taken or any(other.startswith(f"{name}/") for other in taken):
        name += "_"
    taken.add(name)
    return name


def _relu_last(
    nodes: list[onnx.NodeProto], outputs: set[str], taken: set[str]
) -> list[onnx.NodeProto]:
    """Each ReLU whose only use is a pooling, moved behind that pooling."""
    result: list[onnx.NodeProto] = []
    renamed: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        users = [other for other in nodes if node.output[0] in other.input]
        if (
            node.op_type == "Relu"
            and node.output[0] not in outputs
            and len(users) == 1
            and users[0].op_type == "MaxPool"
        ):
            renamed[node.output[0]] = node
        elif node.op_type == "MaxPool" and node.input[0] in renamed:
            relu = renamed[node.input[0]]
            pool = onnx.NodeProto()
            pool.CopyFrom(node)
            pool.input[0] = relu.input[0]
            pool.output[0] = _free(f"{node.output[0]}/before_relu", taken)
            result += [pool, helper.make_node("Relu", [pool.output[0]], [node.output[0]])]
        else:
            result.append(node)
    return result


def _maximum(
    node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], taken: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A pooling as a tree of maxima over strided slices, and the constants of the slices.

    Their names begin with that of its output, or with another where the model has such names.
    """
    given = attributes(node)
    size = shapes[node.input[0]]
    kernel = list(_ints(given["kernel_shape"]))
    strides = list(_ints(given.get("strides", [1] * len(kernel))))
    plain = (
        len(kernel) == 2
        and not any(_ints(given.get("pads", [])))
        and not given.get("ceil_mode", 0)
        and all(step == 1 for step in _ints(given.get("dilations", [])))
        and len(node.output) == 1
    )
    if not plain:
        raise EngineUnavailableError(
            "no circuit is made for a MaxPool with pads, dilations or ceil_mode, or not over 2 axes"
        )
    prefix = _free(node.output[0], taken - {node.output[0]})
    taken.add(f"{prefix}/")
    steps = f"{prefix}/steps"
    nodes: list[onnx.NodeProto] = []
    constants = [
        numpy_helper.from_array(np.array([2, 3]), f"{prefix}/axes"),
        numpy_helper.from_array(np.array(strides), steps),
    ]
    places = [
        (length - width) // step + 1
        for length, width, step in zip(size[2:], kernel, strides, strict=True)
    ]
    waiting = []
    for index in range(math.prod(kernel)):
        start = divmod(index, kernel[1])
        stop = [
            first + (count - 1) * step + 1
            for first, count, step in zip(start, places, strides, strict=True)
        ]
        name = f"{prefix}/{index}"
        constants += [
            numpy_helper.from_array(np.array(start), f"{name}/start"),
            numpy_helper.from_array(np.array(stop), f"{name}/stop"),
        ]
        nodes.append(
            helper.make_node(
                "Slice",
                [node.input[0], f"{name}/start", f"{name}/stop", f"{prefix}/axes", steps],
                [name],
            )
        )
        waiting.append(name)
    if len(waiting) == 1:
        nodes[-1].output[0] = node.output[0]
    while len(waiting) > 1:
        a, b, *waiting = waiting
        inner = f"{prefix}/max{len(waiting)}" if waiting else prefix
        name = inner if waiting else node.output[0]
        nodes += [
            helper.make_node("Sub", [a, b], [f"{inner}/over"]),
            helper.make_node("Relu", [f"{inner}/over"], [f"{inner}/above"]),
            helper.make_node("Add", [b, f"{inner}/above"], [name]),
        ]
        waiting.append(name)
    return nodes, constants


def _ints(value: object) -> Iterator[int]:
    if isinstance(value, list | tuple):
        yield from (int(item) for item in value)
