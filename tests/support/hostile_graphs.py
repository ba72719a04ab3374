"""Sizes that lie, and graphs that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import helper
from support.bundles import as_model, plain_model
from support.hostile import (
    DECOY,
    FLOAT,
    case,
    function,
    graph_of,
    node,
    varint,
    weight,
    with_functions,
    with_weight,
)

from interlock.errors import BundleContractError


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
