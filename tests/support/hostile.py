"""Hostile and malformed bundles, each built here, each with the refusal it must meet."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.bundles import as_model, plain_metadata, plain_model

from interlock.bundle.manifest import MANIFEST, METADATA, MODEL, manifest_of
from interlock.errors import BundleContractError, BundleError, BundleFormatError

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


def with_constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [node("Constant", [], ["W"], value=tensor), node("MatMul", ["x", "W"], ["y"])]
    return as_model(graph_of(nodes, []))


class Payload:
    """Would run a command if anyone unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


# What is not a model at all.


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


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


# Data from elsewhere.


@case(r"leaves the bundle by '\.\.'")
def parent_directory(outside: Path) -> Any:
    return with_weight(external("W", f"../{DECOY}", [4, 3]))


@case(r"leaves the bundle by '\.\.'")
def parent_directory_in_the_middle(outside: Path) -> Any:
    return with_weight(external("W", f"a/../../{DECOY}", [4, 3]))


@case(r"leaves the bundle by '\.\.'")
def parent_directory_with_backslashes(outside: Path) -> Any:
    return with_weight(external("W", f"a\\..\\..\\{DECOY}", [4, 3]))


@case("absolute path")
def absolute_path(outside: Path) -> Any:
    return with_weight(external("W", str(outside / DECOY), [4, 3]))


@case("absolute path")
def drive_letter(outside: Path) -> Any:
    return with_weight(external("W", f"C:\\{DECOY}", [4, 3]))


@case("not in the manifest")
def working_directory(outside: Path) -> Any:
    return with_weight(external("W", DECOY, [4, 3]))


@case("not in the manifest")
def file_address(outside: Path) -> Any:
    return with_weight(external("W", f"file://{outside / DECOY}", [4, 3]))


@case("not in the manifest")
def memory_address(outside: Path) -> Any:
    tensor = external("W", "*/_ORT_MEM_ADDR_/*", [4, 3], offset="4096", length="48")
    return with_weight(tensor)


@case("not in the manifest")
def its_own_manifest(outside: Path) -> Any:
    return with_weight(external("W", MANIFEST, [4, 3], length="48"))


@case("not in the manifest")
def its_own_model_file(outside: Path) -> Any:
    return with_weight(external("W", MODEL, [4, 3], length="48"))


@case("gives 'location' twice")
def two_locations(outside: Path) -> Any:
    tensor = external("W", "w.bin", [4, 3])
    tensor.external_data.add(key="location", value=f"../{DECOY}")
    return with_weight(tensor), {"w.bin": bytes(48)}


@case("has the key 'basepath'")
def unknown_key(outside: Path) -> Any:
    return with_weight(external("W", "w.bin", [4, 3], basepath="..")), {"w.bin": bytes(48)}


@case("ends at byte 52")
def beyond_the_file(outside: Path) -> Any:
    tensor = external("W", "w.bin", [4, 3], offset="4", length="48")
    return with_weight(tensor), {"w.bin": bytes(48)}


@case("the offset '-8'")
def negative_offset(outside: Path) -> Any:
    return with_weight(external("W", "w.bin", [4, 3], offset="-8")), {"w.bin": bytes(48)}


@case("the offset '1844")
def overflowing_offset(outside: Path) -> Any:
    tensor = external("W", "w.bin", [4, 3], offset=str(2**64 - 8), length="48")
    return with_weight(tensor), {"w.bin": bytes(48)}


@case("has 44 bytes; its shape needs 48")
def short_external(outside: Path) -> Any:
    return with_weight(external("W", "w.bin", [4, 3])), {"w.bin": bytes(44)}


@case("both external data and its own")
def external_and_own(outside: Path) -> Any:
    tensor = external("W", "w.bin", [4, 3])
    tensor.raw_data = bytes(48)
    return with_weight(tensor), {"w.bin": bytes(48)}


@case("only initializers of the main graph")
def external_without_saying_so(outside: Path) -> Any:
    tensor = external("W", DECOY, [4, 3])
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(48)
    return with_weight(tensor)


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto, dims: list[int]) -> Any:
    values.name = "W"
    tensor = onnx.SparseTensorProto(values=values, indices=indices, dims=dims)
    return as_model(graph_of(initializers=[], sparse_initializer=[tensor]))


INDICES = numpy_helper.from_array(np.arange(12, dtype=np.int64), "i")


@case("the values of .* sparse, are external")
def sparse_values(outside: Path) -> Any:
    return sparse(external("W", DECOY, [12]), INDICES, [4, 3])


@case("the indices of .* sparse, are external")
def sparse_indices(outside: Path) -> Any:
    indices = external("i", DECOY, [12])
    indices.data_type = TensorProto.INT64
    return sparse(weight(dims=[12]), indices, [4, 3])


@case("has 4611686018427387904 elements")
def sparse_bomb(outside: Path) -> Any:
    return sparse(weight(dims=[12]), INDICES, [2**31, 2**31])


@case("only initializers of the main graph")
def if_body(outside: Path) -> Any:
    body = helper.make_graph(
        [node("Identity", ["V"], ["z"])],
        "body",
        [],
        [value("z", FLOAT, None)],
        [external("V", DECOY, [4, 3])],
    )
    nodes = [
        node("If", ["c"], ["W"], then_branch=body, else_branch=body),
        node("MatMul", ["x", "W"], ["y"]),
    ]
    return as_model(graph_of(nodes, [numpy_helper.from_array(np.array(True), "c")]))


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


@case("only initializers of the main graph")
def loop_initializer(outside: Path) -> Any:
    body = loop_body(external("V", DECOY, [4, 3]))
    nodes = [node("Loop", ["n", "c", "W"], ["U"], body=body), node("MatMul", ["x", "U"], ["y"])]
    counts = [
        numpy_helper.from_array(np.array(2), "n"),
        numpy_helper.from_array(np.array(True), "c"),
    ]
    return as_model(graph_of(nodes, [weight(), *counts]))


@case("only initializers of the main graph")
def scan_initializer(outside: Path) -> Any:
    body = helper.make_graph(
        [node("Add", ["row", "V"], ["out"])],
        "body",
        [value("row", FLOAT, [4])],
        [value("out", FLOAT, [4])],
        [external("V", DECOY, [12])],
    )
    nodes = [
        node("Scan", ["x"], ["z"], body=body, num_scan_inputs=1),
        node("MatMul", ["z", "W"], ["y"]),
    ]
    return as_model(graph_of(nodes, [weight()]))


@case("the attribute 'value' .* external data")
def constant_node(outside: Path) -> Any:
    return with_constant(external("t", DECOY, [4, 3]))


@case("the attribute 'list' .* external data")
def list_of_tensors(outside: Path) -> Any:
    model = plain_model()
    attribute = model.graph.node[0].attribute.add(name="list", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(external("t", DECOY, [4, 3]))
    return model


@case("sparse, are external data")
def sparse_attribute(outside: Path) -> Any:
    values = external("t", DECOY, [12])
    tensor = onnx.SparseTensorProto(values=values, indices=INDICES, dims=[4, 3])
    constant = node("Constant", [], ["W"])
    constant.attribute.add(
        name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=tensor
    )
    return as_model(graph_of([constant, node("MatMul", ["x", "W"], ["y"])], []))


def with_functions(*functions: onnx.FunctionProto, call: str) -> onnx.ModelProto:
    graph = graph_of([node(call, ["x"], ["y"], domain="own")], [])
    model = as_model(graph, [("", 18), ("own", 1)])
    model.functions.extend(functions)
    return model


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, imports)


@case("the attribute 'value' .* external data")
def function_constant(outside: Path) -> Any:
    constant = node("Constant", [], ["t"], value=external("t", DECOY, [4, 3]))
    return with_functions(function("F", [constant, node("MatMul", ["a", "t"], ["b"])]), call="F")


@case("training_info")
def training_information(outside: Path) -> Any:
    model = plain_model()
    model.training_info.add().initialization.CopyFrom(
        graph_of(initializers=[external("W", DECOY, [4, 3])])
    )
    return model


@case("fields that this release does not know")
def unknown_field_in_a_tensor(outside: Path) -> Any:
    data = weight().SerializeToString() + b"\xfa\x3e\x04evil"
    tensor = TensorProto.FromString(data)
    assert tensor.SerializeToString() == data
    return with_weight(tensor)


@case("session options of its own")
def options_in_the_model(outside: Path) -> Any:
    model = plain_model()
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')
    return model


# Sizes that lie.


@case("negative dimension")
def negative_dimension(outside: Path) -> Any:
    return with_weight(weight(dims=[4, -3]))


@case("overflow")
def overflowing_dimensions(outside: Path) -> Any:
    return with_weight(weight(dims=[2**32, 2**32]))


@case("overflow")
def zero_hides_an_overflow(outside: Path) -> Any:
    return with_weight(weight(dims=[2**40, 2**40, 0]))


@case("the limit is 2147483647")
def too_many_elements(outside: Path) -> Any:
    return with_weight(weight(dims=[2**33]))


@case("48 bytes of data; its shape needs 64")
def too_little_data(outside: Path) -> Any:
    return with_weight(weight(dims=[4, 4]))


@case("48 bytes of data; its shape needs 24")
def too_much_data(outside: Path) -> Any:
    return with_weight(weight(dims=[2, 3]))


@case("data in several fields")
def data_twice(outside: Path) -> Any:
    tensor = weight()
    tensor.float_data.extend([1.0] * 12)
    return with_weight(tensor)


@case("its data in int32_data, not in float_data")
def data_in_another_field(outside: Path) -> Any:
    tensor = weight()
    tensor.ClearField("raw_data")
    tensor.int32_data.extend([1] * 12)
    return with_weight(tensor)


@case("unsupported element type 99")
def unknown_element_type(outside: Path) -> Any:
    return with_weight(weight(data_type=99))


@case("stored in segments")
def segments(outside: Path) -> Any:
    tensor = weight()
    tensor.segment.begin, tensor.segment.end = 0, 1 << 40
    return with_weight(tensor)


@case("9223372036854775807 elements")
def output_of_any_size(outside: Path) -> Any:
    model = plain_model()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2**63 - 1
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


@case("negative dimension")
def negative_input(outside: Path) -> Any:
    model = plain_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -4
    return model


# Graphs that are none.


@case("declares the output 'y', which nothing produces")
def missing_output(outside: Path) -> Any:
    return as_model(graph_of([node("MatMul", ["x", "W"], ["z"])]))


@case("produces 'y' twice")
def produced_twice(outside: Path) -> Any:
    return as_model(graph_of([node("MatMul", ["x", "W"], ["y"])] * 2))


@case("which nothing before it produces")
def cycle(outside: Path) -> Any:
    nodes = [node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"])]
    return as_model(graph_of([*nodes, node("MatMul", ["x", "W"], ["y"])]))


@case("initializer unnamed or twice")
def two_initializers(outside: Path) -> Any:
    return as_model(graph_of(initializers=[weight(), weight()]))


@case("unknown domain 'evil.ops'")
def foreign_domain(outside: Path) -> Any:
    nodes = [node("Shell", ["x"], ["y"], domain="evil.ops")]
    return as_model(graph_of(nodes), [("", 18), ("evil.ops", 1)])


@case("which the model does not import")
def undeclared_domain(outside: Path) -> Any:
    return as_model(graph_of([node("FusedMatMul", ["x", "W"], ["y"], domain="com.microsoft")]))


@case("EPContext, which reads files")
def compiled_elsewhere(outside: Path) -> Any:
    context = node(
        "EPContext",
        ["x"],
        ["y"],
        domain="com.microsoft",
        embed_mode=0,
        ep_cache_context=f"../{DECOY}",
    )
    return as_model(graph_of([context]), [("", 18), ("com.microsoft", 1)])


@case("calls itself")
def function_of_itself(outside: Path) -> Any:
    return with_functions(function("F", [node("F", ["a"], ["b"], domain="own")]), call="F")


@case("with its functions put in")
def functions_that_multiply(outside: Path) -> Any:
    functions = [function("F0", [node("Identity", ["a"], ["b"])])]
    for level in range(1, 20):
        calls = [node(f"F{level - 1}", ["a"], [f"t{i}"], domain="own") for i in range(9)]
        calls.append(node("Identity", ["t0"], ["b"]))
        functions.append(function(f"F{level}", calls))
    return with_functions(*functions, call="F19")


@case("imports version 999")
def operators_of_the_future(outside: Path) -> Any:
    return as_model(graph_of(), [("", 999)])


@case("ir_version is 4294967296")
def format_of_the_future(outside: Path) -> Any:
    model = plain_model()
    model.ir_version = 2**32
    return model


@case("not a tensor")
def sequence_input(outside: Path) -> Any:
    model = plain_model()
    item = helper.make_tensor_type_proto(FLOAT, ["batch", 4])
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(item))
    return model


@case("bytes beside its tensors' data")
def megabytes_of_comment(outside: Path) -> Any:
    model = plain_model()
    model.doc_string = "a" * (2 << 20)
    return model


@case("too many fields")
def a_million_empty_attributes(outside: Path) -> Any:
    body = b"\x2a\x00" * (1 << 20)
    body = b"\x0a" + varint(len(body)) + body
    return plain_model().SerializeToString() + b"\x3a" + varint(len(body)) + body


@case("not the graph", error=BundleContractError)
def another_signature(outside: Path) -> Any:
    model = plain_model()
    model.graph.input[0].name = model.graph.node[0].input[0] = "other"
    return model


# What only shows when it runs.

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
