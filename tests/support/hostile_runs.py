"""Models whose harm only shows when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper
from support.bundles import as_model
from support.hostile import (
    case,
    graph_of,
    loop_body,
    node,
    weight,
    with_weight,
)

from interlock.errors import BundleContractError, BundleError

RUNS: dict[str, Any] = {"error": BundleContractError, "runs": True}


@case("ONNX Runtime refuses the model", runs=True)
def operator_that_does_not_exist(outside: Path) -> Any:
    return as_model(graph_of([node("NoSuchOperator", ["x"], ["y"])]))


@case("ONNX Runtime refuses the model", runs=True)
def types_that_do_not_fit(outside: Path) -> Any:
    nodes = [node("Cast", ["W"], ["V"], to=TensorProto.INT64), node("MatMul", ["x", "V"], ["y"])]
    return as_model(graph_of(nodes))


@case("fails when it runs", **RUNS)
def gather_out_of_bounds(outside: Path) -> Any:
    nodes = [
        node("Mul", ["x", "tiny"], ["z"]),
        node("ReduceMax", ["z"], ["m"], keepdims=0),
        node("Cast", ["m"], ["row"], to=TensorProto.INT64),
        node("Sub", ["far", "row"], ["shifted"]),
        node("Gather", ["W", "shifted"], ["U"]),
        node("Add", ["W", "U"], ["V"]),
        node("MatMul", ["x", "V"], ["y"]),
    ]
    far = numpy_helper.from_array(np.array([2**40]), "far")
    tiny = numpy_helper.from_array(np.array(1e-9, np.float32), "tiny")
    return as_model(graph_of(nodes, [weight(), far, tiny]))


@case("is not reproduced", **RUNS)
def wrong_weights(outside: Path) -> Any:
    return with_weight(weight())


@case("smoke.*shape", **RUNS)
def another_shape_than_declared(outside: Path) -> Any:
    nodes = [
        node("MatMul", ["x", "W"], ["z"]),
        node("Shape", ["x"], ["s"]),
        node("ReduceSum", ["s"], ["n"], keepdims=1),
        node("Cast", ["n"], ["k"], to=TensorProto.INT64),
        node("ReduceMean", ["z"], ["m"], keepdims=1),
        node("Concat", ["k", "three"], ["t"], axis=0),
        node("Expand", ["m", "t"], ["y"]),
    ]
    return as_model(graph_of(nodes, [weight(), numpy_helper.from_array(np.array([3]), "three")]))


@case("did not end within", **RUNS)
def loop_for_ever(outside: Path) -> Any:
    body = loop_body(weight(name="V"))
    nodes = [node("Loop", ["", "c", "W"], ["U"], body=body), node("MatMul", ["x", "U"], ["y"])]
    return as_model(graph_of(nodes, [weight(), numpy_helper.from_array(np.array(True), "c")]))


@case("did not end within", **RUNS)
def giant_multiplication(outside: Path) -> Any:
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Expand", ["m", "square"], ["A"]),
        node("MatMul", ["A", "A"], ["B"]),
        node("ReduceMax", ["B"], ["b"], keepdims=0),
        node("Mul", ["W", "b"], ["V"]),
        node("MatMul", ["x", "V"], ["y"]),
    ]
    size = numpy_helper.from_array(np.array([7000, 7000]), "square")
    return as_model(graph_of(nodes, [weight(), size]))


@case("needed more memory|fails when it runs: .*alloc", **RUNS)
def memory_bomb(outside: Path) -> Any:
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Expand", ["m", "size"], ["A"]),
        node("ReduceMax", ["A"], ["b"], keepdims=0),
        node("Mul", ["W", "b"], ["V"]),
        node("MatMul", ["x", "V"], ["y"]),
    ]
    size = numpy_helper.from_array(np.array([2**33]), "size")
    return as_model(graph_of(nodes, [weight(), size]))


@case(
    "needed more memory|refuses the model|fails when it runs: .*alloc|crashed",
    runs=True,
    error=BundleError,
)
def constant_folding_bomb(outside: Path) -> Any:
    nodes = [
        node("ConstantOfShape", ["size"], ["A"]),
        node("ReduceMax", ["A"], ["b"], keepdims=0),
        node("Mul", ["W", "b"], ["V"]),
        node("MatMul", ["x", "V"], ["y"]),
    ]
    size = numpy_helper.from_array(np.array([2**20, 2**14]), "size")
    return as_model(graph_of(nodes, [weight(), size]))
