"""Small models and bundles, built node by node, for tests that need a sound one to start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.bundle import (
    Bundle,
    Metadata,
    SmokeVector,
    StrictContract,
    pack,
    signature_of,
)

TAU_INFER, TAU_TRAIN = 1e-3, 1e-1


def strict_model(
    dtype: str = "float32",
    *,
    batch: int | str = "batch",
    tau_infer: float = TAU_INFER,
    tau_train: float = TAU_TRAIN,
) -> onnx.ModelProto:
    """x (batch, 4) -> P = x W (batch, 2), Q = x V (batch, 1), then a strict decode of P/Q."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rng = np.random.default_rng(7)
    constants = {
        "W": rng.normal(size=(4, 2)),
        "V": rng.normal(size=(4, 1)),
        "tau_infer": np.array(tau_infer),
        "tau_train": np.array(tau_train),
        "nan": np.array(np.nan),
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "W"], ["P"]),
        node("MatMul", ["x", "V"], ["Q"]),
        node("Div", ["P", "Q"], ["quotient"]),
        node("Sub", ["Q", "Q"], ["q_minus_q"]),
        node("Sub", ["quotient", "quotient"], ["zero_or_nan"]),
        node("Add", ["zero_or_nan", "q_minus_q"], ["fault_sum"]),
        node("IsNaN", ["fault_sum"], ["fault"]),
        node("Abs", ["Q"], ["size"]),
        node("Less", ["size", "tau_infer"], ["small"]),
        node("Or", ["fault", "small"], ["bottom_mask"]),
        node("Less", ["size", "tau_train"], ["near"]),
        node("Not", ["bottom_mask"], ["usable"]),
        node("And", ["near", "usable"], ["gap_mask"]),
        node("Where", ["bottom_mask", "nan", "quotient"], ["decoded"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "strict",
        [value("x", kind, [batch, 4])],
        [
            value("decoded", kind, [batch, 2]),
            value("bottom_mask", TensorProto.BOOL, [batch, 2]),
            value("gap_mask", TensorProto.BOOL, [batch, 2]),
        ],
        [numpy_helper.from_array(a.astype(dtype), name) for name, a in constants.items()],
    )
    return as_model(graph)


def plain_model(weight: np.ndarray[Any, Any] | None = None) -> onnx.ModelProto:
    """x (batch, 4) -> y = x W (batch, 3), float32."""
    array = np.arange(12, dtype=np.float32).reshape(4, 3) if weight is None else weight
    value = helper.make_tensor_value_info
    return as_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "W"], ["y"])],
            "plain",
            [value("x", TensorProto.FLOAT, ["batch", array.shape[0]])],
            [value("y", TensorProto.FLOAT, ["batch", array.shape[1]])],
            [numpy_helper.from_array(array, "W")],
        )
    )


def as_model(
    graph: onnx.GraphProto, opsets: Sequence[tuple[str, int]] = (("", 18),)
) -> onnx.ModelProto:
    """A model of `graph` in versions that every supported runtime reads."""
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return model


def strict_metadata(model: onnx.ModelProto, **changes: Any) -> Metadata:
    """Metadata of a `strict_model`, with one smoke vector computed here in NumPy."""
    inputs, outputs = signature_of(model)
    dtype = outputs[0].dtype
    taus = {
        t.name: float(numpy_helper.to_array(t))
        for t in model.graph.initializer
        if t.name in ("tau_infer", "tau_train")
    }
    fields: dict[str, Any] = {
        "name": "strict-test",
        "kind": "strict",
        "inputs": inputs,
        "outputs": outputs,
        "strict": StrictContract(p="P", q="Q", dtype=dtype, **taus),  # type: ignore[arg-type]
        "provenance": {"test": True},
    }
    if "smoke" not in changes:
        fields["smoke"] = (_strict_smoke(model, dtype),)
    return Metadata(**fields | changes)


def plain_metadata(model: onnx.ModelProto, **changes: Any) -> Metadata:
    """Metadata of a `plain_model`, with one smoke vector."""
    inputs, outputs = signature_of(model)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    weight = next(t for t in model.graph.initializer if t.name == "W")
    smoke: tuple[SmokeVector, ...] = ()
    if weight.data_location != TensorProto.EXTERNAL:
        smoke = (SmokeVector({"x": x}, {"y": x @ numpy_helper.to_array(weight)}),)
    fields: dict[str, Any] = {
        "name": "plain-test",
        "kind": "model",
        "inputs": inputs,
        "outputs": outputs,
        "smoke": smoke,
    }
    return Metadata(**fields | changes)


def strict_bundle(directory: Path, **changes: Any) -> Bundle:
    """A sound strict bundle in `directory`, not probed."""
    model = strict_model()
    return pack(directory, model, strict_metadata(model, **changes), probe=False)


def _strict_smoke(model: onnx.ModelProto, dtype: str) -> SmokeVector:
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    rows = dim.dim_value if dim.HasField("dim_value") else 3
    x = np.arange(1, 1 + rows * 4).reshape(rows, 4).astype(dtype)
    x[rows - 1] = 0
    p, q = x @ arrays["W"], x @ arrays["V"]
    with np.errstate(all="ignore"):
        quotient = p / q
        bottom = ~np.isfinite(quotient) | (np.abs(q) < arrays["tau_infer"])
    gap = (np.abs(q) < arrays["tau_train"]) & ~bottom
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    return SmokeVector(
        {"x": x},
        {
            "decoded": np.where(bottom, quotient.dtype.type(np.nan), quotient),
            "bottom_mask": bottom,
            "gap_mask": gap,
        },
        rtol=tolerance,
        atol=tolerance,
    )
