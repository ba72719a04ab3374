"""Small ONNX models with the outputs P and Q, for exporting them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.bundles import as_model

Array = npt.NDArray[Any]


def columns_model(
    dtype: str = "float32",
    *,
    rows: bool = False,
    batch: int | str = "batch",
    names: tuple[str, str] = ("P", "Q"),
    q_dtype: str | None = None,
) -> onnx.ModelProto:
    """x (batch, 3) -> P = x[:, :2], Q = x[:, 2:], so that an input chooses P and Q bit by bit.

    With `rows`, Q is x[:, 2] of shape (batch,), which gives row masks.
    """
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    q_kind = helper.np_dtype_to_tensor_dtype(np.dtype(q_dtype or dtype))
    p, q = names
    node = helper.make_node
    nodes = [
        node("Slice", ["x", "zero", "two", "one"], [p]),
        node("Gather", ["x", "third"], ["q"], axis=1)
        if rows
        else node("Slice", ["x", "two", "three", "one"], ["q"]),
        node("Cast", ["q"], [q], to=q_kind) if q_kind != kind else node("Identity", ["q"], [q]),
    ]
    constants = {
        **{word: np.array([value]) for value, word in enumerate(("zero", "one", "two", "three"))},
        "third": np.array(2),
    }
    value = helper.make_tensor_value_info
    used = {name for item in nodes for name in item.input}
    graph = helper.make_graph(
        nodes,
        "columns",
        [value("x", kind, [batch, 3])],
        [value(p, kind, [batch, 2]), value(q, q_kind, [batch] if rows else [batch, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    return as_model(graph)


def two_input_model() -> onnx.ModelProto:
    """a (batch, 2), b (batch, 1), float32 -> P = a + b, Q = b."""
    value = helper.make_tensor_value_info
    return as_model(
        helper.make_graph(
            [
                helper.make_node("Add", ["a", "b"], ["P"]),
                helper.make_node("Identity", ["b"], ["Q"]),
            ],
            "two_inputs",
            [
                value("a", TensorProto.FLOAT, ["batch", 2]),
                value("b", TensorProto.FLOAT, ["batch", 1]),
            ],
            [
                value("P", TensorProto.FLOAT, ["batch", 2]),
                value("Q", TensorProto.FLOAT, ["batch", 1]),
            ],
        )
    )


def fixed_inside_model(batch: int) -> onnx.ModelProto:
    """Calls its batch axis open, but reshapes to `batch` rows: x (n, 3) -> P (n, 2), Q (n, 1)."""
    model = columns_model()
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([batch, 3]), "shape"))
    graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["fixed"]))
    for node in list(graph.node)[1:]:
        node.input[:] = ["fixed" if name == "x" else name for name in node.input]
    return model


def random_model() -> onnx.ModelProto:
    """Like `columns_model`, but P is another one at every run."""
    model = columns_model()
    nodes = model.graph.node
    nodes[0].output[0] = "p"
    nodes.append(helper.make_node("RandomNormalLike", ["p"], ["noise"]))
    nodes.append(helper.make_node("Add", ["p", "noise"], ["P"]))
    return model


def pairs(n: int, seed: int, dtype: str = "float32") -> Array:
    """(n, 3) inputs of `columns_model`: P normal, |Q| log-uniform in 1e-8 … 1, both signs."""
    rng = np.random.default_rng(seed)
    q = 10.0 ** rng.uniform(-8, 0, n) * rng.choice([-1.0, 1.0], n)
    return np.column_stack([rng.normal(size=(n, 2)), q]).astype(dtype)
