"""Small ONNX models made on the spot, good and hostile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
# What the runtime at our floor reads; onnx itself may write newer ones.
_OPSET, _IR = 20, 10


def build(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    initializers: Sequence[Any] = (),
    sparse: Sequence[Any] = (),
) -> bytes:
    """A serialized model of one graph."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        list(inputs),
        list(outputs),
        list(initializers),
        sparse_initializer=list(sparse),
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR)
    return bytes(model.SerializeToString())


def tensor(name: str, kind: int, shape: Sequence[Any]) -> Any:
    """A declared input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def constant(name: str, value: Any, dtype: Any = np.int64) -> Any:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def affine() -> bytes:
    """y = 2 x + 1 for x (N, 3) float32, and total (N,) = the sum of y over each row."""
    return build(
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "one"], ["y"]),
            helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=0),
        ],
        [tensor("x", FLOAT, ["N", 3])],
        [tensor("y", FLOAT, ["N", 3]), tensor("total", FLOAT, ["N"])],
        [
            constant("two", 2, np.float32),
            constant("one", 1, np.float32),
            constant("axis", [1]),
        ],
    )


def layers(width: int, depth: int, rows: Any = "N") -> bytes:
    """`depth` matrix products of (rows, width) by (width, width), one node each."""
    weights = np.eye(width, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", [f"h{k}" if k else "x", "w"], [f"h{k + 1}"])
        for k in range(depth)
    ]
    return build(
        nodes,
        [tensor("x", FLOAT, [rows, width])],
        [tensor(f"h{depth}", FLOAT, [rows, width])],
        [constant("w", weights, np.float32)],
    )


def gather() -> bytes:
    """y = row `i` of a table of 4; an index outside it is an error while running."""
    return build(
        [helper.make_node("Gather", ["table", "i"], ["y"], name="look up")],
        [tensor("i", INT64, ["N"])],
        [tensor("y", FLOAT, ["N"])],
        [constant("table", range(4), np.float32)],
    )


def is_yes() -> bytes:
    """same (N,) = whether a text equals "yes"."""
    return build(
        [helper.make_node("Equal", ["text", "yes"], ["same"])],
        [tensor("text", TensorProto.STRING, ["N"])],
        [tensor("same", TensorProto.BOOL, ["N"])],
        [numpy_helper.from_array(np.array(["yes"], dtype=object), "yes")],
    )


def endless_loop(name: str = "x", shape: Sequence[int] = (1,)) -> bytes:
    """A Loop of 2^62 turns over an input of that name, to y of the same shape."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["v", "v"], ["v_next"]),
        ],
        "body",
        [
            tensor("turn", INT64, []),
            tensor("go", TensorProto.BOOL, []),
            tensor("v", FLOAT, shape),
        ],
        [tensor("go_on", TensorProto.BOOL, []), tensor("v_next", FLOAT, shape)],
    )
    return build(
        [helper.make_node("Loop", ["turns", "true", name], ["y"], body=body)],
        [tensor(name, FLOAT, shape)],
        [tensor("y", FLOAT, shape)],
        [constant("turns", 1 << 62), constant("true", True, np.bool_)],
    )


def giant_product(size: int = 7000, *, folded: bool = False) -> bytes:
    """One MatMul of (size, size) by (size, size), blown up from x (1,): a file of 300 bytes.

    `folded` blows it up from a constant, so that the optimizer runs it while loading.
    """
    return build(
        [
            helper.make_node("Expand", ["one" if folded else "x", "shape"], ["a"]),
            helper.make_node("MatMul", ["a", "a"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["largest"], keepdims=0),
            helper.make_node("Add", ["x", "largest"], ["y"]),
        ],
        [tensor("x", FLOAT, [1])],
        [tensor("y", FLOAT, [1])],
        [constant("shape", [size, size]), constant("one", [1], np.float32)],
    )


def memory_bomb(elements: int = 1 << 34) -> bytes:
    """x (1,) expanded to `elements` floats: 64 GB by default."""
    return build(
        [
            helper.make_node("Expand", ["x", "shape"], ["large"]),
            helper.make_node("ReduceSum", ["large"], ["y"], keepdims=0),
        ],
        [tensor("x", FLOAT, [1])],
        [tensor("y", FLOAT, [])],
        [constant("shape", [elements])],
    )


def memory_staircase(steps: int = 40, elements: int = 1 << 24) -> bytes:
    """`steps` arrays of `elements` floats, each kept until the end: 64 MB a step by default."""
    nodes = [helper.make_node("Expand", ["x", "shape"], ["a0"])]
    nodes += [helper.make_node("Sin", [f"a{k}"], [f"a{k + 1}"]) for k in range(steps)]
    nodes += [
        helper.make_node("Sum", [f"a{k}" for k in range(steps + 1)], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["y"], keepdims=0),
    ]
    return build(
        nodes, [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [])], [constant("shape", [elements])]
    )


def with_external_data(location: str, kind: str) -> bytes:
    """y = x + w (4,) whose w lies in a file; `kind` is "dense", "sparse" or "constant"."""
    outside = TensorProto(name="w", data_type=FLOAT, dims=[4])
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        outside.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    dense, sparse = [outside], []
    if kind == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=outside))
        dense = []
    elif kind == "sparse":
        indices = constant("indices", range(4))
        sparse = [onnx.SparseTensorProto(values=outside, indices=indices, dims=[4])]
        dense = []
    return build(nodes, [tensor("x", FLOAT, [4])], [tensor("y", FLOAT, [4])], dense, sparse)


def steered() -> bytes:
    """y = 2 x for x (N, 3), after a Loop of max(x[:, 0]) turns and a vector of max(x[:, 1]) floats.

    So an input alone decides whether the model hangs or takes all memory.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["v", "v"], ["v_next"]),
        ],
        "body",
        [tensor("turn", INT64, []), tensor("go", TensorProto.BOOL, []), tensor("v", FLOAT, [1])],
        [tensor("go_on", TensorProto.BOOL, []), tensor("v_next", FLOAT, [1])],
    )
    return build(
        [
            helper.make_node("ReduceMax", ["x", "rows"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["orders"], to=INT64),
            helper.make_node("Gather", ["orders", "first"], ["turns"]),
            helper.make_node("Gather", ["orders", "second"], ["size"]),
            helper.make_node("Loop", ["turns", "true", "one"], ["spun"], body=body),
            helper.make_node("Add", ["size", "least"], ["length"]),
            helper.make_node("Expand", ["one", "length"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["peak"], keepdims=0),
            helper.make_node("Add", ["spun", "peak"], ["both"]),
            helper.make_node("Mul", ["both", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "x"], ["doubled"]),
            helper.make_node("Add", ["doubled", "nothing"], ["y"]),
        ],
        [tensor("x", FLOAT, ["N", 3])],
        [tensor("y", FLOAT, ["N", 3])],
        [
            constant("rows", [0]),
            constant("first", 0),
            constant("second", [1]),
            constant("least", [1]),
            constant("true", True, np.bool_),
            constant("one", [1], np.float32),
            constant("zero", 0, np.float32),
        ],
    )


def stub() -> bytes:
    """y = 1 for any x (N, 3): no model at all."""
    return build(
        [helper.make_node("Add", ["one", "one"], ["y"])],
        [tensor("x", FLOAT, ["N", 3])],
        [tensor("y", FLOAT, [1])],
        [constant("one", [0.5], np.float32)],
    )


def labelled() -> bytes:
    """y (N, 2) = log x, NaN below zero, and label (N,) int64 = the larger one's place."""
    return build(
        [
            helper.make_node("Log", ["x"], ["y"]),
            helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
        ],
        [tensor("x", FLOAT, ["N", 2])],
        [tensor("y", FLOAT, ["N", 2]), tensor("label", INT64, ["N"])],
    )


def centred() -> bytes:
    """y (N, 3) = x minus the mean over its rows, so that no row stands for itself."""
    return build(
        [
            helper.make_node("ReduceMean", ["x", "rows"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [tensor("x", FLOAT, ["N", 3])],
        [tensor("y", FLOAT, ["N", 3])],
        [constant("rows", [0])],
    )


def shifted(by: float, rows: str = "N") -> bytes:
    """y = 2 x + `by` for x (N, 3): one version of many that a client can tell apart.

    rows  what y calls its first dimension
    """
    return build(
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "by"], ["y"]),
        ],
        [tensor("x", FLOAT, ["N", 3])],
        [tensor("y", FLOAT, [rows, 3])],
        [constant("two", 2, np.float32), constant("by", by, np.float32)],
    )
