"""Hostile and malformed bundles, each built here, each with the refusal it must meet."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.bundles import as_model, plain_metadata, plain_model

from interlock.bundle.manifest import MANIFEST, METADATA, MODEL, manifest_of
from interlock.errors import BundleError, BundleFormatError

DECOY = "decoy.bin"
"""A file outside every bundle, of the length that the models ask for; nothing may open it."""

node = helper.make_node
value = helper.make_tensor_value_info
FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Hostile:
    """A model, files beside it, and what loading must say. `runs`: only running it shows."""

    name: str
    model: bytes
    reason: str
    error: type[BundleError] = BundleFormatError
    files: Mapping[str, bytes] = field(default_factory=dict)
    runs: bool = False


_CASES: list[tuple[Callable[[Path], Any], dict[str, Any]]] = []


def case(reason: str, **fields: Any) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Register a builder; it gets the directory that holds the decoy."""

    def register(build: Callable[[Path], Any]) -> Callable[[Path], Any]:
        _CASES.append((build, {"reason": reason} | fields))
        return build

    return register


def corpus(outside: Path) -> list[Hostile]:
    """Every case; `outside` is the directory of the decoy, named by some of them."""
    for module in ("files", "places", "graphs", "runs"):
        importlib.import_module(f"support.hostile_{module}")
    cases = []
    for build, fields in _CASES:
        built = build(outside)
        model, files = built if isinstance(built, tuple) else (built, {})
        data = model if isinstance(model, bytes) else model.SerializeToString()
        cases.append(Hostile(build.__name__, data, files=files, **fields))
    return cases


def write_bundle(directory: Path, model: bytes, files: Mapping[str, bytes] = {}) -> Path:
    """Write files with a fitting manifest and without any check, as an attacker would."""
    parts = {METADATA: plain_metadata(plain_model()).encode(), MODEL: model, **files}
    return write_files(directory, parts)


def write_files(directory: Path, parts: Mapping[str, bytes]) -> Path:
    """Write `parts` and their manifest, unchecked."""
    directory.mkdir(parents=True)
    for name, data in parts.items():
        (directory / name).write_bytes(data)
    (directory / MANIFEST).write_bytes(manifest_of(parts).encode())
    return directory


def graph_of(
    nodes: list[onnx.NodeProto] | None = None,
    initializers: list[onnx.TensorProto] | None = None,
    **fields: Any,
) -> onnx.GraphProto:
    """x (batch, 4) -> y (batch, 3) as in `plain_model`, with other insides."""
    weights = [numpy_helper.from_array(np.ones((4, 3), np.float32), "W")]
    return helper.make_graph(
        [node("MatMul", ["x", "W"], ["y"])] if nodes is None else nodes,
        "g",
        [value("x", FLOAT, ["batch", 4])],
        [value("y", FLOAT, ["batch", 3])],
        weights if initializers is None else initializers,
        **fields,
    )


def external(name: str, location: str, dims: list[int], **more: str) -> onnx.TensorProto:
    """A float tensor whose data lie elsewhere."""
    tensor = TensorProto(name=name, data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(dims)
    for key, text in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def with_weight(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return as_model(graph_of(initializers=[tensor]))


def weight(**fields: Any) -> onnx.TensorProto:
    tensor = TensorProto(name="W", data_type=FLOAT, raw_data=bytes(48))
    dims = fields.pop("dims", [4, 3])
    for key, item in fields.items():
        setattr(tensor, key, item)
    tensor.dims.extend(dims)
    return tensor


INDICES = numpy_helper.from_array(np.arange(12, dtype=np.int64), "i")


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto, dims: list[int]) -> Any:
    values.name = "W"
    tensor = onnx.SparseTensorProto(values=values, indices=indices, dims=dims)
    return as_model(graph_of(initializers=[], sparse_initializer=[tensor]))


def loop_body(extra: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["state", "V"], ["next"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", FLOAT, None),
        ],
        [value("on", TensorProto.BOOL, []), value("next", FLOAT, None)],
        [extra],
    )


def with_functions(*functions: onnx.FunctionProto, call: str) -> onnx.ModelProto:
    graph = graph_of([node(call, ["x"], ["y"], domain="own")], [])
    model = as_model(graph, [("", 18), ("own", 1)])
    model.functions.extend(functions)
    return model


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, imports)


class Payload:
    """Would run a command if anyone unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
