"""Cuts one layer into pieces that are proved one by one, and says which part each piece covers.

A piece computes some output channels over some output rows. Its weights are fixed in its circuit,
so the bands of rows of the same channels share one circuit and one key. Rows that a convolution
pads are cut from the padded input, so that all bands have the same graph. Where the rows do not
divide evenly the last band starts earlier and overlaps the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from interlock.kernel.batch import Array
from interlock.verified.lowering import attributes, lower, shapes_of

Kind = Literal["whole", "dense", "conv"]


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a slice's pieces lie in its input and output.

    kind       "whole": one piece takes all inputs and gives all outputs; "dense": pieces are
               ranges of outputs; "conv": ranges of channels and of rows
    in_shape   of the input, batch axis first; empty for "whole"
    out_shape  of the output before it is flattened
    pad_top, pad_bottom  rows of zeros around the input
    step       input rows that one output row moves on
    span       input rows that one output row sees
    """

    kind: Kind
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    pad_top: int = 0
    pad_bottom: int = 0
    step: int = 1
    span: int = 1


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One proof's part of a slice: output channels and, for a convolution, output rows.

    Both are half-open ranges; (0, 0) for a whole slice, and for the rows of a dense layer.
    """

    channels: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """As people read it."""
        if self.channels == (0, 0):
            return "whole"
        channels = f"channels {self.channels[0]}-{self.channels[1] - 1}"
        return channels + (
            f", rows {self.rows[0]}-{self.rows[1] - 1}" if self.rows != (0, 0) else ""
        )


WHOLE = Geometry("whole")


def input_cut(geometry: Geometry, piece: Piece, value: Array) -> Array:
    """The part of the input (integers, any shape of the right size) that the piece takes, flat."""
    if geometry.kind != "conv":
        return value.reshape(-1)
    image = value.reshape(geometry.in_shape)
    start, stop = _seen_rows(geometry, piece)
    height = geometry.in_shape[2]
    above = max(0, min(-start, stop - start))
    below = max(0, min(stop - height, stop - start))
    rows = image[:, :, max(0, start) : max(0, stop)]
    return np.pad(rows, ((0, 0), (0, 0), (above, below), (0, 0))).reshape(-1)


def input_size(geometry: Geometry, piece: Piece) -> int:
    """Elements of `input_cut` for a layer's piece."""
    if geometry.kind != "conv":
        return math.prod(geometry.in_shape)
    start, stop = _seen_rows(geometry, piece)
    batch, channels, _, width = geometry.in_shape
    return batch * channels * (stop - start) * width


def _seen_rows(geometry: Geometry, piece: Piece) -> tuple[int, int]:
    """The input rows that a piece sees; rows of padding lie below 0 and beyond the height."""
    first, last = piece.rows
    start = first * geometry.step - geometry.pad_top
    return start, start + (last - 1 - first) * geometry.step + geometry.span


def output_cut(geometry: Geometry, piece: Piece, value: Array) -> Array:
    """The part of the output that the piece gives, flat."""
    if geometry.kind == "whole":
        return value.reshape(-1)
    output = value.reshape(geometry.out_shape)[:, slice(*piece.channels)]
    return (output[:, :, slice(*piece.rows)] if geometry.kind == "conv" else output).reshape(-1)


def assemble(geometry: Geometry, parts: list[tuple[Piece, Array]]) -> Array:
    """The output (flat integers) from the pieces' outputs.

    Raises ValueError where they leave a gap or overlap with other values.
    """
    if geometry.kind == "whole":
        return parts[0][1]
    output = np.zeros(geometry.out_shape, dtype=np.int64)
    known = np.zeros(geometry.out_shape, dtype=bool)
    for piece, values in parts:
        place: tuple[slice, ...] = (slice(None), slice(*piece.channels))
        if geometry.kind == "conv":
            place += (slice(*piece.rows),)
        values = values.reshape(output[place].shape)
        if (known[place] & (output[place] != values)).any():
            raise ValueError(f"{piece.name} contradicts another piece")
        output[place], known[place] = values, True
    if not known.all():
        raise ValueError("the pieces leave a part of the output out")
    return output.reshape(-1)


def problem_of(geometry: Geometry, pieces: list[Piece]) -> str | None:
    """Why these pieces do not cover a slice of this geometry; None where they do."""
    shapes = (geometry.in_shape, geometry.out_shape)
    if geometry.kind == "whole":
        return None if pieces == [Piece()] else "a whole slice has one piece"
    rank = 4 if geometry.kind == "conv" else 2
    for shape in shapes:
        if len(shape) == rank and shape[0] == 1 and min(shape) > 0 and math.prod(shape) <= 1 << 28:
            continue
        return "the geometry has shapes that no layer has"
    if geometry.kind == "conv":
        height = geometry.in_shape[2] + geometry.pad_top + geometry.pad_bottom
        wrong = min(geometry.pad_top, geometry.pad_bottom) < 0 or min(geometry.step, 1) < 1
        if wrong or geometry.span < 1 or max(geometry.pad_top, geometry.pad_bottom) > 1 << 14:
            return "the geometry has pads, a step or a span that no layer has"
        if (geometry.out_shape[2] - 1) * geometry.step + geometry.span > height:
            return "the geometry's output rows see rows beyond its input"
    known = np.zeros(geometry.out_shape[1:3], dtype=bool)
    limits = (geometry.out_shape[1], geometry.out_shape[2] if rank == 4 else 0)
    for piece in pieces:
        for (start, stop), limit in zip((piece.channels, piece.rows), limits, strict=True):
            if not (0 <= start < stop <= limit or (limit == 0 and (start, stop) == (0, 0))):
                return f"the piece '{piece.name}' lies outside the output"
        place = (slice(*piece.channels),) + ((slice(*piece.rows),) if rank == 4 else ())
        known[place] = True
    return None if known.all() else "the pieces leave a part of the output out"


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer with what follows it, ready to be cut.

    `weight` is (outputs, …) and `bias` (outputs,); `tail` holds "relu" and, for a convolution,
    the node of a pooling, in order.
    """

    geometry: Geometry
    weight: Array
    bias: Array | None
    convolution: onnx.NodeProto | None
    pool: onnx.NodeProto | None
    relu: bool

    def model(self, piece: Piece) -> onnx.ModelProto:
        """The lowered graph of a piece."""
        if self.convolution is None:
            return self._dense(piece)
        return self._convolution(piece)

    def _dense(self, piece: Piece) -> onnx.ModelProto:
        part = slice(*piece.channels)
        names = ["x", "w"] + (["b"] if self.bias is not None else [])
        nodes = [helper.make_node("Gemm", names, ["h" if self.relu else "y"], transB=1)]
        if self.relu:
            nodes.append(helper.make_node("Relu", ["h"], ["y"]))
        inputs = (1, self.geometry.in_shape[1])
        return self._model(nodes, part, inputs, (1, piece.channels[1] - piece.channels[0]))

    def _convolution(self, piece: Piece) -> onnx.ModelProto:
        assert self.convolution is not None
        part = slice(*piece.channels)
        given = attributes(self.convolution)
        left, right = (given["pads"][1], given["pads"][3])
        first = helper.make_node(
            "Conv",
            ["x", "w"] + (["b"] if self.bias is not None else []),
            ["h"],
            kernel_shape=given["kernel_shape"],
            strides=given["strides"],
            dilations=given["dilations"],
            group=1,
            pads=[0, left, 0, right],
        )
        nodes = [first]
        if self.pool is not None:
            pool = onnx.NodeProto()
            pool.CopyFrom(self.pool)
            pool.input[0], pool.output[0] = nodes[-1].output[0], "p"
            nodes.append(pool)
        if self.relu:
            nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], ["r"]))
        nodes[-1].output[0] = "y"
        rows = piece.rows[1] - piece.rows[0]
        height = (rows - 1) * self.geometry.step + self.geometry.span
        _, channels, _, width = self.geometry.in_shape
        out = (1, piece.channels[1] - piece.channels[0], rows, self.geometry.out_shape[3])
        return self._model(nodes, part, (1, channels, height, width), out)

    def _model(
        self,
        nodes: list[onnx.NodeProto],
        part: slice,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
    ) -> onnx.ModelProto:
        weights = [numpy_helper.from_array(np.ascontiguousarray(self.weight[part]), "w")]
        if self.bias is not None:
            weights.append(numpy_helper.from_array(np.ascontiguousarray(self.bias[part]), "b"))
        graph = helper.make_graph(
            nodes,
            "piece",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, inputs)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, outputs)],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return lower(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def layer_of(model: onnx.ModelProto) -> Layer | None:
    """The layer that a slice consists of; None where it is no single layer that can be cut."""
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1 or not _is_chain(model):
        return None
    shapes = shapes_of(model)
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = [n for n in graph.node if n.op_type not in ("Identity", "Flatten", "Reshape")]
    kept = [n.op_type for n in graph.node]
    if not nodes or nodes[0].op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    first, *tail = nodes
    if first.op_type == "Conv":
        # What comes before a convolution must not reshape, nor what lies between it and its tail.
        inner = kept[: len(kept) - _trailing(kept)]
        if len(inner) != len([k for k in inner if k in ("Conv", "Relu", "MaxPool")]):
            return None
        return _conv_layer(first, tail, shapes, weights)
    found = _dense_layer(first, tail, shapes, weights)
    # A bias may spread a row over more values than the layer has outputs.
    given = math.prod(shapes[graph.output[0].name])
    return found if found is None or given == math.prod(found.geometry.out_shape) else None


def _trailing(kinds: list[str]) -> int:
    count = 0
    while count < len(kinds) and kinds[-1 - count] in ("Identity", "Flatten", "Reshape"):
        count += 1
    return count


def _is_chain(model: onnx.ModelProto) -> bool:
    """Whether each node takes what the one before it gives, beside weights."""
    before = model.graph.input[0].name
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.input[0] != before or len(node.output) != 1:
            return False
        if any(name not in constant for name in node.input[1:]):
            return False
        before = node.output[0]
    return bool(before == model.graph.output[0].name)


def _conv_layer(
    first: onnx.NodeProto,
    tail: list[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    weights: dict[str, Array],
) -> Layer | None:
    given = attributes(first)
    kinds = [node.op_type for node in tail]
    if kinds not in ([], ["Relu"], ["MaxPool"], ["Relu", "MaxPool"], ["MaxPool", "Relu"]):
        return None
    if (
        given.get("group", 1) != 1
        or len(shapes[first.input[0]]) != 4
        or shapes[first.input[0]][0] != 1
        or first.input[1] not in weights
    ):
        return None
    pads, strides = list(given["pads"]), list(given["strides"])
    kernel, dilations = list(given["kernel_shape"]), list(given["dilations"])
    step, span = strides[0], (kernel[0] - 1) * dilations[0] + 1
    pool = next((node for node in tail if node.op_type == "MaxPool"), None)
    if pool is not None:
        about = attributes(pool)
        if any(about.get("pads") or []) or about.get("ceil_mode", 0):
            return None
        span += (about["kernel_shape"][0] - 1) * step
        step *= about["strides"][0]
    last = tail[-1] if tail else first
    geometry = Geometry(
        "conv",
        in_shape=shapes[first.input[0]],
        out_shape=shapes[last.output[0]],
        pad_top=pads[0],
        pad_bottom=pads[2],
        step=step,
        span=span,
    )
    bias = weights[first.input[2]] if len(first.input) > 2 else None
    return Layer(geometry, weights[first.input[1]], bias, first, pool, "Relu" in kinds)


def _dense_layer(
    first: onnx.NodeProto,
    tail: list[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    weights: dict[str, Array],
) -> Layer | None:
    given = attributes(first)
    plain = given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0
    if not plain or given.get("transA", 0) or first.input[1] not in weights:
        return None
    weight = weights[first.input[1]]
    weight = weight if given.get("transB", 0) else weight.T
    shape = shapes[first.input[0]]
    bias = weights[first.input[2]].reshape(-1) if len(first.input) > 2 else None
    if bias is not None and bias.size != weight.shape[0]:
        bias = np.broadcast_to(bias, (weight.shape[0],))
    kinds = [node.op_type for node in tail]
    if kinds[:1] == ["Add"] and bias is None:
        added = weights.get(tail[0].input[1])
        if added is None or added.size != weight.shape[0]:
            return None
        bias, kinds = added.reshape(-1), kinds[1:]
    if kinds not in ([], ["Relu"]) or len(shape) != 2 or shape[0] != 1 or weight.ndim != 2:
        return None
    geometry = Geometry("dense", in_shape=shape, out_shape=(1, weight.shape[0]))
    return Layer(geometry, weight, bias, None, None, kinds == ["Relu"])


def cuts(geometry: Geometry, channels: int, rows: int) -> Iterator[Piece]:
    """The pieces of so many channels and rows each; the last group of channels may be smaller."""
    total = geometry.out_shape[1]
    height = geometry.out_shape[2] if geometry.kind == "conv" else 0
    for start in range(0, total, channels):
        group = (start, min(total, start + channels))
        if geometry.kind == "dense":
            yield Piece(group)
            continue
        for band in range(0, height, rows):
            stop = min(height, band + rows)
            yield Piece(group, (stop - rows, stop))
