"""Small networks as ONNX, and random ones: chains, residual blocks, and any graph."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper
from support.models import FLOAT, build, constant, tensor

MODELS = Path(__file__).parents[2] / "models"


def shipped(name: str) -> bytes:
    """The bytes of a model that ships."""
    return (MODELS / name / "model.onnx").read_bytes()


def examples(name: str, count: int) -> list[np.ndarray]:
    """The first held-out inputs of a model that ships, each with a batch axis."""
    with np.load(MODELS / name / "examples.npz") as arrays:
        return [row[None] for row in arrays["input"][:count]]


def dense(widths: list[int], seed: int = 0) -> bytes:
    """x (1, widths[0]) through Gemm and Relu to y (1, widths[-1]), the last without Relu."""
    rng = np.random.default_rng(seed)
    nodes, weights, taken = [], [], "x"
    last = len(widths) - 2
    for k, (size, after) in enumerate(itertools.pairwise(widths)):
        weights += [
            constant(f"w{k}", rng.normal(size=(size, after)) / size**0.5, np.float32),
            constant(f"b{k}", rng.normal(size=after), np.float32),
        ]
        made = "y" if k == last else f"h{k}"
        nodes.append(helper.make_node("Gemm", [taken, f"w{k}", f"b{k}"], [made]))
        if k < last:
            nodes.append(helper.make_node("Relu", [made], [f"{made}_relu"]))
        taken = f"{made}_relu"
    return build(
        nodes,
        [tensor("x", FLOAT, [1, widths[0]])],
        [tensor("y", FLOAT, [1, widths[-1]])],
        weights,
    )


def residual(seed: int = 0) -> bytes:
    """x (1, 3, 8, 8): Conv, then a block of two with a shortcut around it, then Conv and Gemm."""
    rng = np.random.default_rng(seed)

    def conv(number: int, source: str, channels: int, after: int) -> onnx.NodeProto:
        shape = (after, channels, 3, 3)
        weights.append(constant(f"w{number}", 0.2 * rng.normal(size=shape), np.float32))
        return helper.make_node(
            "Conv", [source, f"w{number}"], [f"c{number}"], auto_pad="SAME_UPPER"
        )

    weights: list[onnx.TensorProto] = []
    nodes = [
        conv(1, "x", 3, 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        conv(2, "r1", 4, 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        conv(3, "r2", 4, 4),
        helper.make_node("Add", ["c3", "r1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r3"]),
        conv(4, "r3", 4, 2),
        helper.make_node("Flatten", ["c4"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w"], ["y"]),
    ]
    weights.append(constant("w", 0.1 * rng.normal(size=(128, 5)), np.float32))
    return build(nodes, [tensor("x", FLOAT, [1, 3, 8, 8])], [tensor("y", FLOAT, [1, 5])], weights)


def logarithm() -> bytes:
    """x (1, 2) through a layer, a logarithm, and a Relu that hides its NaN, and a layer."""
    identity = constant("w", np.eye(2), np.float32)
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Log", ["h"], ["log"]),
            helper.make_node("Relu", ["log"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2])],
        [identity],
    )


def scaled_convolution() -> bytes:
    """x (1, 3, 6, 6) through a Conv and a Mul, which ONNX Runtime folds into its weights."""
    rng = np.random.default_rng(3)
    return build(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
            helper.make_node("Mul", ["c", "s"], ["m"]),
            helper.make_node("Flatten", ["m"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "v"], ["y"]),
        ],
        [tensor("x", FLOAT, [1, 3, 6, 6])],
        [tensor("y", FLOAT, [1, 2])],
        [
            constant("w", rng.normal(size=(4, 3, 3, 3)), np.float32),
            constant("s", rng.normal(size=(4, 1, 1)), np.float32),
            constant("v", rng.normal(size=(64, 2)), np.float32),
        ],
    )


@st.composite
def graphs(draw: st.DrawFn) -> bytes:
    """Any graph of layers and elementwise operators on (1, 6): shared tensors, several outputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = ["x0"]
    inputs = [tensor("x0", FLOAT, [1, 6])]
    if draw(st.booleans()):
        made.append("x1")
        inputs.append(tensor("x1", FLOAT, [1, 6]))
    nodes, weights = [], []
    unused = set(made)
    for k in range(draw(st.integers(2, 9))):
        kind = draw(st.sampled_from(["Gemm", "MatMul", "Relu", "Tanh", "Add", "Mul", "Sub"]))
        sources = [draw(st.sampled_from(made))]
        if kind in ("Add", "Mul", "Sub"):
            sources.append(draw(st.sampled_from(made)))
        taken = list(sources)
        if kind in ("Gemm", "MatMul"):
            weights.append(constant(f"w{k}", 0.5 * rng.normal(size=(6, 6)), np.float32))
            taken.append(f"w{k}")
        nodes.append(helper.make_node(kind, taken, [f"t{k}"]))
        unused -= set(sources)
        unused.add(f"t{k}")
        made.append(f"t{k}")
    ends = sorted(name for name in unused if name.startswith("t"))
    used = {name for node in nodes for name in node.input}
    return build(
        nodes,
        [value for value in inputs if value.name in used],
        [tensor(name, FLOAT, [1, 6]) for name in ends],
        weights,
    )
