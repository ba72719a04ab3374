"""Strict decode as standard ONNX nodes at the end of a model whose outputs are P and Q."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from interlock.kernel.errors import ConfigError, InputError
from interlock.strict.config import InferenceConfig

OUTPUTS = ("decoded", "bottom_mask", "gap_mask")
"""The names and the order of the outputs of a stable graph."""

TAU_INFER, TAU_TRAIN = "tau_infer", "tau_train"
"""The names of the scalar initializers that hold the thresholds, in the dtype of Q."""

MINIMUM_OPSET = 17

_PREFIX = "interlock_decode_"
_DType = np.dtype[np.float32] | np.dtype[np.float64]
_DTYPES: dict[int, _DType] = {
    int(TensorProto.FLOAT): np.dtype(np.float32),
    int(TensorProto.DOUBLE): np.dtype(np.float64),
}

_Dims = list[int | str | None]


def append_decode(
    model: onnx.ModelProto,
    *,
    p: str,
    q: str,
    config: InferenceConfig,
    outputs: Sequence[str] = OUTPUTS,
) -> onnx.ModelProto:
    """A copy of `model` whose outputs are the strict decode of its tensors `p` and `q`.

    The copy has exactly the three `outputs`, decoded value, bottom mask and gap mask, by the rules
    of `interlock.strict.decode`: the same masks and the same bits as for NumPy arrays, for any
    batch size, 0 included. At most 12 nodes are added, of the default domain. The thresholds are
    the scalar initializers `tau_infer` and, where set, `tau_train`, in the dtype of Q. Tensors of
    the model that have one of these names are renamed.

    p, q    names of tensors, float32 or float64, both of one dtype; of known rank, by shape
            inference where the model does not state them. Their axes belong together as in
            `interlock.strict.shapes`; this is checked as far as the shapes are known, and an axis
            that is symbolic stays so.

    float16 is refused: runtimes compute it in float32 and may leave out the rounding in between,
    so an overflowing quotient would pass. Cast P and Q to float32 in the model.

    Raises InputError for a model that cannot take the decode, ConfigError for thresholds that
    its dtype cannot hold or outputs that are not three different names.
    """
    names = _checked_names(outputs)
    opset = _default_opset(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    p, q = _make_room(copy.graph, {*names, TAU_INFER, TAU_TRAIN}, p, q)
    dtype, p_dims, q_dims = _described(copy, p, q)
    thresholds = config.in_format(dtype.name)

    rowwise = len(q_dims) < len(p_dims)
    axes = list(range(len(q_dims), len(p_dims)))
    builder = _Builder(copy.graph)
    builder.constant(TAU_INFER, np.array(thresholds.infer, dtype))
    if thresholds.train is not None:
        builder.constant(TAU_TRAIN, np.array(thresholds.train, dtype))
    inf = builder.constant(_PREFIX + "inf", np.array(math.inf, dtype))
    nan = builder.constant(_PREFIX + "nan", np.array(math.nan, dtype))

    decoded, bottom, gap = names
    if rowwise:
        _rowwise(builder, p, q, axes, inf, opset)
    else:
        _elementwise(builder, p, q, inf)
    size, accepted = _PREFIX + "size", _PREFIX + "accepted"
    builder.node("Not", [accepted], bottom)
    if thresholds.train is None:
        never = builder.constant(_PREFIX + "never", np.array(False))
        builder.node("And", [accepted, never], gap)
    else:
        near = builder.node("Less", [size, TAU_TRAIN], _PREFIX + "near")
        builder.node("And", [accepted, near], gap)
    where = bottom
    if rowwise:
        where = builder.node("Unsqueeze", [bottom, _PREFIX + "axes"], _PREFIX + "row_bottom")
    # The quotient is the second branch: ONNX Runtime's Where loses the sign of a -0.0 that it
    # takes from its first one.
    builder.node("Where", [where, nan, _PREFIX + "quotient"], decoded)

    kind = helper.np_dtype_to_tensor_dtype(dtype)
    mask_dims = q_dims if rowwise else p_dims
    del copy.graph.output[:]
    copy.graph.output.extend(
        [
            helper.make_tensor_value_info(decoded, kind, p_dims),
            helper.make_tensor_value_info(bottom, TensorProto.BOOL, mask_dims),
            helper.make_tensor_value_info(gap, TensorProto.BOOL, mask_dims),
        ]
    )
    return copy


class _Builder:
    """Adds nodes and constants to the end of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph

    def constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = output if output.startswith(_PREFIX) else _PREFIX + output
        self.graph.node.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output


def _elementwise(builder: _Builder, p: str, q: str, inf: str) -> None:
    """Eight nodes, up to `size`, `quotient` and `accepted`."""
    quotient = builder.node("Div", [p, q], _PREFIX + "quotient")
    size = builder.node("Abs", [q], _PREFIX + "size")
    quotient_size = builder.node("Abs", [quotient], _PREFIX + "quotient_size")
    # NaN fails every comparison, so nothing here has to look for it.
    enough = builder.node("GreaterOrEqual", [size, TAU_INFER], _PREFIX + "enough")
    q_finite = builder.node("Less", [size, inf], _PREFIX + "q_finite")
    finite = builder.node("Less", [quotient_size, inf], _PREFIX + "finite")
    usable = builder.node("And", [enough, q_finite], _PREFIX + "usable")
    builder.node("And", [finite, usable], _PREFIX + "accepted")


def _rowwise(builder: _Builder, p: str, q: str, axes: list[int], inf: str, opset: int) -> None:
    """Seven nodes, up to `size`, `quotient` and `accepted`; `size` is NaN in a faulty row.

    inf / quotient is infinite for a finite quotient and NaN for any other; the sum of magnitudes
    over a row keeps that, where a maximum may lose the NaN. The remainder of |Q| by infinity is
    |Q| itself, that of an infinite |Q| or by NaN is NaN.
    """
    columns = builder.constant(_PREFIX + "axes", np.array(axes, np.int64))
    q_column = builder.node("Unsqueeze", [q, columns], _PREFIX + "q_column")
    quotient = builder.node("Div", [p, q_column], _PREFIX + "quotient")
    limits = builder.node("Div", [inf, quotient], _PREFIX + "limits")
    if opset < 18:
        limit = builder.node("ReduceL1", [limits], _PREFIX + "limit", axes=axes, keepdims=0)
    else:
        limit = builder.node("ReduceL1", [limits, columns], _PREFIX + "limit", keepdims=0)
    q_size = builder.node("Abs", [q], _PREFIX + "q_size")
    size = builder.node("Mod", [q_size, limit], _PREFIX + "size", fmod=1)
    builder.node("GreaterOrEqual", [size, TAU_INFER], _PREFIX + "accepted")


def _checked_names(outputs: Sequence[str]) -> tuple[str, str, str]:
    names = tuple(outputs)
    taken = {TAU_INFER, TAU_TRAIN}
    if (
        isinstance(outputs, str)
        or len(names) != 3
        or len(set(names)) < 3
        or not all(isinstance(name, str) and name for name in names)
        or any(name in taken or name.startswith(_PREFIX) for name in names)
    ):
        raise ConfigError(
            f"outputs is {outputs!r}; it must be three different names, none of them "
            f"{TAU_INFER} or {TAU_TRAIN} or beginning with {_PREFIX}"
        )
    return names[0], names[1], names[2]


def _default_opset(model: onnx.ModelProto) -> int:
    versions = [int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if not versions or max(versions) < MINIMUM_OPSET:
        raise InputError(
            f"the model's opset is {max(versions, default=0)}; it must be {MINIMUM_OPSET} or later",
            hint="convert it with onnx.version_converter",
        )
    return max(versions)


def _described(model: onnx.ModelProto, p: str, q: str) -> tuple[_DType, _Dims, _Dims]:
    """The common dtype of P and Q and the dimensions of each."""
    found = {name: _value_info(model.graph, name) for name in (p, q)}
    if any(info is None for info in found.values()):
        try:
            inferred = onnx.shape_inference.infer_shapes(model).graph
        except (onnx.shape_inference.InferenceError, ValueError) as error:
            raise InputError(f"shape inference failed on the model: {error}") from None
        found = {name: info or _value_info(inferred, name) for name, info in found.items()}
    kinds, dims = [], []
    for role, name in (("p", p), ("q", q)):
        info = found[name]
        if info is None:
            raise InputError(
                f"{role} is {name!r}; the model has no such tensor, or its type and rank are "
                "not known",
                hint="make it an output of the model, with its shape",
            )
        if info.elem_type not in _DTYPES:
            kind = helper.tensor_dtype_to_string(info.elem_type).removeprefix("TensorProto.")
            raise InputError(
                f"{role} ({name!r}) has element type {kind}; it must be FLOAT or DOUBLE",
                hint="cast it in the model",
            )
        kinds.append(_DTYPES[info.elem_type])
        dims.append([_dim(axis) for axis in info.shape.dim])
    if kinds[0] != kinds[1]:
        raise InputError(f"p is {kinds[0]} and q is {kinds[1]}; the graph needs one dtype")
    _check_dims(dims[0], dims[1])
    return kinds[0], dims[0], dims[1]


def _value_info(graph: onnx.GraphProto, name: str) -> onnx.TypeProto.Tensor | None:
    for info in (*graph.output, *graph.value_info, *graph.input):
        tensor: onnx.TypeProto.Tensor = info.type.tensor_type
        if info.name == name and tensor.HasField("shape"):
            return tensor
    return None


def _dim(axis: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if axis.HasField("dim_value"):
        return int(axis.dim_value)
    return str(axis.dim_param) or None


def _check_dims(p: _Dims, q: _Dims) -> None:
    """The rules of `interlock.strict.shapes`, as far as the dimensions are known."""

    def same(one: _Dims, other: _Dims) -> bool:
        return all(
            a == b or not (isinstance(a, int) and isinstance(b, int))
            for a, b in zip(one, other, strict=True)
        )

    if len(q) == len(p):
        column = len(q) > 1 and q[-1] == 1 and same(p[:-1], q[:-1])
        if same(p, q) or column:
            return
    elif 0 < len(q) < len(p) and same(p[: len(q)], q):
        return
    raise InputError(
        f"p has dimensions {p} and q has {q}, which do not belong together",
        hint="q has p's dimensions, or 1 as its last axis (element masks), or p's leading axes "
        "only (row masks)",
    )


def _make_room(graph: onnx.GraphProto, names: set[str], p: str, q: str) -> tuple[str, str]:
    """Rename the model's tensors that bear our names; return what P and Q are called after."""
    used = set(_names(graph))
    inputs = {item.name for item in graph.input} - {item.name for item in graph.initializer}
    taken = {name for name in used if name in names or name.startswith(_PREFIX)}
    if taken & inputs:
        raise InputError(
            f"the model's input {sorted(taken & inputs)[0]!r} has a name that the decode needs",
            hint="rename the model's input",
        )
    renamed = {}
    for name in sorted(taken):
        fresh = f"model_{name}"
        while fresh in used:
            fresh = f"model_{fresh}"
        used.add(fresh)
        renamed[name] = fresh
    if renamed:
        _rename(graph, renamed)
    return renamed.get(p, p), renamed.get(q, q)


def _subgraphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _named(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto | onnx.TensorProto]:
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    yield from (sparse.values for sparse in graph.sparse_initializer)


def _names(graph: onnx.GraphProto) -> Iterable[str]:
    yield from (item.name for item in _named(graph))
    for node in graph.node:
        yield from (*node.input, *node.output)
    for inner in _subgraphs(graph):
        yield from _names(inner)


def _rename(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    for item in _named(graph):
        item.name = renamed.get(item.name, item.name)
    for note in graph.quantization_annotation:
        note.tensor_name = renamed.get(note.tensor_name, note.tensor_name)
        for entry in note.quant_parameter_tensor_names:
            entry.value = renamed.get(entry.value, entry.value)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for inner in _subgraphs(graph):
        _rename(inner, renamed)
