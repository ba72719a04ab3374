"""The graph against its metadata: signatures, thresholds, and where the strict decode begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from interlock.bundle.metadata import Metadata, StrictContract, TensorSpec
from interlock.bundle.tensors import dtype_name
from interlock.kernel.errors import BundleContractError, BundleFormatError

TAU_INFER = "tau_infer"
TAU_TRAIN = "tau_train"

_NOT_A_DECODE = frozenset(
    [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "Dropout",
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
    ]
)


def signature_of(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The graph's inputs and outputs as metadata describes them.

    Initializers are not inputs. A dimension that the graph leaves open without a name is called
    `<tensor>_<axis>`. Raises BundleFormatError for types that a bundle cannot describe.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in stored)
    return inputs, tuple(_spec(value) for value in model.graph.output)


def check_contract(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Raise BundleContractError where the graph and the metadata disagree."""
    inputs, outputs = signature_of(model)
    _compare("input", inputs, metadata.inputs, model.graph.input)
    _compare("output", outputs, metadata.outputs, model.graph.output)
    if metadata.strict is not None:
        nodes = decode_nodes(model.graph, metadata.strict)
        _check_thresholds(model.graph, metadata.strict, nodes)


def decode_nodes(graph: onnx.GraphProto, strict: StrictContract) -> list[onnx.NodeProto]:
    """The nodes between P, Q and the three outputs, in the graph's order.

    Raises BundleContractError where P or Q is not in the graph, and where an output depends on
    anything else than P, Q and constants.
    """
    stored = {tensor.name for tensor in graph.initializer}
    declared = {value.name for value in graph.input}
    given = declared - stored
    producer = {name: node for node in graph.node for name in node.output if name}
    for role, name in (("P", strict.p), ("Q", strict.q)):
        if name in stored or (name not in producer and name not in given):
            raise BundleContractError(f"the graph computes no tensor {name!r}, which is {role}")
    needed: set[int] = set()
    seen: set[str] = set()
    reached: set[str] = set()
    queue: list[str] = list(strict.output_order)
    while queue:
        name = queue.pop()
        if name in (strict.p, strict.q):
            reached.add(name)
            continue
        if not name or name in seen:
            continue
        seen.add(name)
        if name in stored and name in declared:
            raise BundleContractError(
                f"{name} is an input as well, so callers could override it in the decode"
            )
        if name in stored:
            continue
        if name in given:
            raise BundleContractError(
                f"the decode depends on the input {name!r}; only P, Q and constants are allowed"
            )
        node = producer.get(name)
        if node is None:
            raise BundleContractError(f"nothing produces the decode's tensor {name!r}")
        if node.op_type in _NOT_A_DECODE or node.domain not in ("", "ai.onnx"):
            raise BundleContractError(f"the decode uses the operator {node.op_type}")
        needed.add(id(node))
        queue.extend(node.input)
    for role, name in (("P", strict.p), ("Q", strict.q)):
        if name not in reached:
            raise BundleContractError(f"the outputs do not depend on {name!r}, which is {role}")
    return [node for node in graph.node if id(node) in needed]


def thresholds(strict: StrictContract) -> dict[str, np.floating[Any]]:
    """The thresholds as the graph must hold them: scalars of P's and Q's dtype."""
    kind = np.dtype(strict.dtype).type
    found = {TAU_INFER: kind(strict.tau_infer)}
    if strict.tau_train is not None:
        found[TAU_TRAIN] = kind(strict.tau_train)
    return found


def _check_thresholds(
    graph: onnx.GraphProto, strict: StrictContract, decode: Sequence[onnx.NodeProto]
) -> None:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    used = {name for node in decode for name in node.input}
    expected = thresholds(strict)
    for name in (TAU_INFER, TAU_TRAIN):
        wanted = expected.get(name)
        tensor = stored.get(name)
        if wanted is None:
            if tensor is not None:
                raise BundleContractError(f"the graph has {name}, the metadata has none")
            continue
        if tensor is None:
            raise BundleContractError(f"the graph has no initializer {name!r}")
        if name not in used:
            raise BundleContractError(f"no node of the decode uses {name}")
        if dtype_name(tensor.data_type) != strict.dtype or list(tensor.dims) not in ([], [1]):
            raise BundleContractError(
                f"{name} must be a scalar of dtype {strict.dtype} in the graph; "
                f"it is {dtype_name(tensor.data_type)} of shape {list(tensor.dims)}"
            )
        actual = numpy_helper.to_array(tensor).reshape(())
        if actual.tobytes() != wanted.tobytes():
            raise BundleContractError(
                f"{name} is {actual.item()!r} in the graph and {wanted.item()!r} in the metadata"
            )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    try:
        return TensorSpec(value.name, dtype_name(tensor.elem_type) or "", shape)
    except ValueError as error:
        raise BundleFormatError(f"the graph's signature: {error}") from None


def _compare(
    role: str,
    graph: Sequence[TensorSpec],
    metadata: Sequence[TensorSpec],
    declared: Sequence[onnx.ValueInfoProto],
) -> None:
    """Names, order, dtypes, ranks and dimensions; an open dimension takes any name."""
    graph_names = [spec.name for spec in graph]
    names = [spec.name for spec in metadata]
    for name in names:
        if name not in graph_names:
            raise BundleContractError(f"the metadata declares the {role} {name!r}, not the graph")
    for name in graph_names:
        if name not in names:
            raise BundleContractError(f"the graph has the {role} {name!r}, not the metadata")
    if names != graph_names:
        raise BundleContractError(f"the {role}s have another order in the graph: {graph_names}")
    types = {value.name: value.type.tensor_type for value in declared}
    for actual, said in zip(graph, metadata, strict=True):
        if actual.dtype != said.dtype:
            raise BundleContractError(
                f"the {role} {said.name!r} is {actual.dtype} in the graph and {said.dtype} in the "
                "metadata"
            )
        if len(actual.shape) != len(said.shape):
            raise BundleContractError(
                f"the {role} {said.name!r} has rank {len(actual.shape)} in the graph and "
                f"{len(said.shape)} in the metadata"
            )
        dims = types[said.name].shape.dim
        for axis, (one, other) in enumerate(zip(actual.shape, said.shape, strict=True)):
            unnamed = not dims[axis].HasField("dim_value") and not dims[axis].dim_param
            if one != other and not (unnamed and isinstance(other, str)):
                raise BundleContractError(
                    f"axis {axis} of the {role} {said.name!r} is {one!r} in the graph and "
                    f"{other!r} in the metadata"
                )
