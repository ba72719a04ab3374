"""Models whose data lie somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.bundles import as_model, plain_model
from support.hostile import (
    DECOY,
    FLOAT,
    INDICES,
    case,
    external,
    function,
    graph_of,
    loop_body,
    node,
    sparse,
    value,
    weight,
    with_functions,
    with_weight,
)

from interlock.bundle.manifest import MANIFEST, MODEL


def with_constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [node("Constant", [], ["W"], value=tensor), node("MatMul", ["x", "W"], ["y"])]
    return as_model(graph_of(nodes, []))


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


@case("a name that is not UTF-8")
def location_that_is_no_text(outside: Path) -> Any:
    data = with_weight(external("W", "../XXXXX.bin", [4, 3])).SerializeToString()
    return data.replace(b"XXXXX", b"\xff\xfe\xfd\xfc\xfb")


@case("a name that is not UTF-8")
def names_that_are_no_text(outside: Path) -> Any:
    nodes = [node("Identity", ["W"], ["XXXXX"]), node("MatMul", ["x", "XXXXX"], ["y"])]
    data = as_model(graph_of(nodes)).SerializeToString()
    return data.replace(b"XXXXX", b"\xff\xfe\xfd\xfc\xfb")


@case("session options of its own")
def options_in_the_model(outside: Path) -> Any:
    model = plain_model()
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')
    return model
