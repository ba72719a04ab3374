"""What is not a model at all, and pickles in every guise."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support.bundles import plain_model
from support.hostile import (
    Payload,
    case,
    graph_of,
    node,
    varint,
)


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


@case("no graph")
def empty_file(outside: Path) -> Any:
    return b""


@case("not an ONNX model")
def noise(outside: Path) -> Any:
    return np.random.default_rng(3).bytes(4096)


@case("not an ONNX model")
def truncated(outside: Path) -> Any:
    return plain_model().SerializeToString()[:-20]


@case("no graph")
def no_graph(outside: Path) -> Any:
    return onnx.ModelProto(ir_version=10)


@case("model.onnx is a pickle")
def pickle_as_model(outside: Path) -> Any:
    return pickle.dumps(Payload(), protocol=4)


@case("zip archive")
def torch_archive_as_model(outside: Path) -> Any:
    return zipped("archive/data.pkl", pickle.dumps(Payload(), protocol=2))


@case("notes.txt is a pickle")
def text_pickle_beside(outside: Path) -> Any:
    return plain_model(), {"notes.txt": pickle.dumps(Payload(), protocol=0)}


@case("weights.bin is compressed")
def joblib_pickle_beside(outside: Path) -> Any:
    return plain_model(), {"weights.bin": zlib.compress(pickle.dumps(Payload()))}


@case("NumPy array file")
def object_array_beside(outside: Path) -> Any:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload()], dtype=object), allow_pickle=True)
    return plain_model(), {"weights.bin": buffer.getvalue()}


@case("extension '.pkl'")
def pickle_extension(outside: Path) -> Any:
    return plain_model(), {"weights.pkl": b"harmless"}


@case("ONNX Runtime's own format")
def two_formats_at_once(outside: Path) -> Any:
    model = plain_model()
    model.producer_name = "ORTM" + "x" * 20
    data = model.SerializeToString()
    assert data[4:8] == b"ORTM"
    return data


def nested(depth: int) -> bytes:
    """A model with an If inside an If, wrapped as bytes: the library cannot write so many."""
    graph = graph_of([node("Identity", ["W"], ["y"])]).SerializeToString()
    for _ in range(depth):
        attribute = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH)
        data = attribute.SerializeToString() + b"\x32" + varint(len(graph)) + graph
        branch = onnx.NodeProto(op_type="If", input=["c"], output=["y"]).SerializeToString()
        data = branch + b"\x2a" + varint(len(data)) + data
        outer = graph_of([], [numpy_helper.from_array(np.array(True), "c")]).SerializeToString()
        graph = outer + b"\x0a" + varint(len(data)) + data
    model = onnx.ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", 18)])
    head: bytes = model.SerializeToString()
    return head + b"\x3a" + varint(len(graph)) + bytes(graph)


@case("subgraphs are nested deeper")
def many_subgraphs(outside: Path) -> Any:
    return nested(25)


@case("not an ONNX model")
def more_subgraphs_than_protobuf_reads(outside: Path) -> Any:
    return nested(5000)


@case("too many fields")
def a_million_empty_nodes(outside: Path) -> Any:
    body = b"\x0a\x00" * (1 << 20)
    return plain_model().SerializeToString() + b"\x3a" + varint(len(body)) + body
