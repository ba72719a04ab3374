"""Cuts a model into slices, each an ONNX model of its own, that give its answer one after another.

Nodes keep their order, and a slice takes a stretch of them, so the slices of any graph form a
chain. What crosses a cut is what was made before it and is used after it; a shortcut around a
layer crosses too. Cuts are placed where one tensor crosses, or, if asked, where several do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from interlock.bundle.limits import DEFAULT_LIMITS
from interlock.bundle.structure import check_structure, parse_model
from interlock.engines.onnx import TensorSpec
from interlock.kernel.errors import BundleFormatError, ConfigError, InputError
from interlock.verified.explicit import Shape, spell_out
from interlock.verified.slices import Slice, SlicedModel

# Operators whose weights make a layer. Those that only scale, shift or normalise stay with the
# layer before them.
_LAYERS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
    "LSTM": 1,
    "GRU": 1,
    "RNN": 1,
}


def slice_model(
    model: bytes,
    *,
    at: Sequence[str | Sequence[str]] | None = None,
    crossing: int | None = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> SlicedModel:
    """A self-contained ONNX model with its slices.

    at        names of tensors to cut at, in order: a slice ends where its tensor, or all tensors
              of a group, are made. None cuts before each node with weights.
    crossing  most tensors that may cross a cut that is chosen here; None for any number. A layer
              before which more would cross stays in the slice of the layer before it.
    shapes    sizes of inputs whose shapes the model leaves open; an open first axis is 1

    Raises BundleFormatError for what is no sound model, ConfigError for a tensor that does not
    exist or cuts that contradict each other, and InputError where a shape stays open.
    """
    graph = _Graph(_static(model, shapes or {}))
    if at is None:
        cuts = graph.layers(crossing)
    else:
        graph, cuts = graph.reordered(at)
    edges = [0, *cuts, len(graph.nodes)]
    slices = tuple(
        graph.part(index, start, stop)
        for index, (start, stop) in enumerate(itertools.pairwise(edges))
    )
    return SlicedModel(model, graph.inputs, graph.outputs, slices)


def parse(model: bytes) -> onnx.ModelProto:
    """The parsed model; raises BundleFormatError for a file that is truncated or no sound model."""
    try:
        parsed = parse_model(model, DEFAULT_LIMITS)
    except BundleFormatError as error:
        if error.hint != error.default_hint:
            raise
        # The usual hint is about bundles.
        raise BundleFormatError(error.message, hint="export the model as ONNX again") from None
    except (DecodeError, ValueError) as error:
        raise BundleFormatError(f"not an ONNX model: {error}") from None
    if check_structure(parsed, {}, DEFAULT_LIMITS):
        raise BundleFormatError("the model keeps weights in other files")
    return parsed


def _static(model: bytes, given: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The model with static shapes everywhere and constants as initializers."""
    parsed = parse(model)
    graph = parsed.graph
    if graph.sparse_initializer or parsed.functions:
        raise ConfigError(
            "a model with sparse weights or functions of its own cannot be sliced",
            hint="export it with dense weights and functions inlined",
        )
    version = next((o.version for o in parsed.opset_import if o.domain in ("", "ai.onnx")), 1)
    nodes = []
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(
            node.op_type, max_inclusive_version=version
        ):
            raise BundleFormatError(
                f"the operator {node.op_type[:40]!r} does not exist in ONNX's opset {version}"
            )
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    # Before version 4 an initializer has to be an input too, and may be replaced by a caller.
    parsed.ir_version = max(parsed.ir_version, 4)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)
    for name in given:
        if name not in {value.name for value in graph.input}:
            raise ConfigError(f"shapes names '{name}', which is no input of the model")
    for value in graph.input:
        _fix(value, given.get(value.name))
    made = {name for node in graph.node for name in node.output}
    for value in graph.output:
        # What no node makes, a weight or an input, has its shape from nowhere else.
        if value.name in made:
            value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(
            parsed, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        first = str(error).splitlines()[0][:200]
        raise BundleFormatError(f"the shapes in the model contradict each other: {first}") from None


def _fix(value: onnx.ValueInfoProto, given: Sequence[int] | None) -> None:
    """Give an input the shape `given`, or 1 for an open first axis."""
    dims = value.type.tensor_type.shape.dim
    if given is not None and len(given) != len(dims):
        raise ConfigError(f"shapes gives '{value.name}' {len(given)} axes; it has {len(dims)}")
    for axis, dim in enumerate(dims):
        fixed = dim.dim_value if dim.HasField("dim_value") else None
        size = given[axis] if given is not None else fixed
        if size is None and axis == 0:
            size = 1
        if size is None:
            raise InputError(
                f"axis {axis} of the input '{value.name}' has no fixed size",
                hint="give the input's shape",
            )
        if fixed is None and not 1 <= size <= DEFAULT_LIMITS.max_elements:
            raise ConfigError(
                f"shapes gives axis {axis} of '{value.name}' the size {size}; it must be 1 or "
                f"more, and at most {DEFAULT_LIMITS.max_elements}"
            )
        if fixed is not None and size != fixed:
            raise ConfigError(
                f"shapes gives axis {axis} of '{value.name}' the size {size}; it has {fixed}"
            )
        dim.dim_value = size


class _Graph:
    """A model's nodes with what they use and make."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        graph = model.graph
        self.nodes = list(graph.node)
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(_spec(value) for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)
        self._specs: dict[str, onnx.ValueInfoProto] = {
            value.name: value for value in (*graph.input, *graph.output, *graph.value_info)
        }
        self._uses = [set(_used(node)) - {""} for node in self.nodes]
        # Where each tensor is made: an input before the first node.
        self._made = dict.fromkeys((spec.name for spec in self.inputs), -1)
        for index, node in enumerate(self.nodes):
            for name in node.output:
                if name:
                    self._made[name] = index
        # The last node that uses it; an output of the model is used after all of them.
        self._last: dict[str, int] = {}
        for index, used in enumerate(self._uses):
            self._last.update(dict.fromkeys(used & self._made.keys(), index))
        self._last.update(dict.fromkeys(self.outputs, len(self.nodes)))

    def crossing(self, at: int) -> list[str]:
        """The tensors made before node `at` and used by it or later, in the order they are made."""
        return [name for name, made in self._made.items() if made < at <= self._last.get(name, -1)]

    def layers(self, most: int | None) -> list[int]:
        """Cuts before each layer but the first, or at the nearest place ahead that allows one."""
        places = [index for index, node in enumerate(self.nodes) if self._is_layer(node)]
        cuts: list[int] = []
        for before, place in itertools.pairwise(places):
            for at in range(place, before, -1):
                few = most is None or len(self.crossing(at)) <= most
                if few and self._gives(cuts[-1] if cuts else 0, at):
                    cuts.append(at)
                    break
        # A layer at the end whose output nothing takes goes with what is before it.
        while cuts and not self._gives(cuts[-1], len(self.nodes)):
            cuts.pop()
        return cuts

    def _gives(self, start: int, stop: int) -> bool:
        """Whether nodes `start` to `stop` make what is used behind them."""
        made = (name for node in self.nodes[start:stop] for name in node.output)
        return any(self._last.get(name, -1) >= stop for name in made)

    def reordered(self, at: Sequence[str | Sequence[str]]) -> tuple[_Graph, list[int]]:
        """The graph with what each cut needs in front of it, as far as the cuts, and the cuts."""
        groups = [[entry] if isinstance(entry, str) else list(entry) for entry in at]
        order: list[int] = []
        cuts = []
        for group in groups:
            needed = set().union(*(self._ancestors(name) for name in group))
            fresh = sorted(needed.difference(order))
            if not fresh:
                raise ConfigError(
                    f"nothing lies before the cut at '{', '.join(group)}' that is not already cut",
                    hint="name tensors in the order in which they are made",
                )
            order += fresh
            cuts.append(len(order))
        rest = [index for index in range(len(self.nodes)) if index not in set(order)]
        if groups and not rest:
            raise ConfigError(f"nothing lies behind the cut at '{', '.join(groups[-1])}'")
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes[index] for index in order + rest)
        return _Graph(model), cuts

    def part(self, index: int, start: int, stop: int) -> Slice:
        """Nodes `start` to `stop` as a slice."""
        nodes = self.nodes[start:stop]
        used = set().union(*self._uses[start:stop])
        made = [name for node in nodes for name in node.output if name]
        inside = set(made)
        entering = [name for name in self._made if name in used and name not in inside]
        leaving = [name for name in made if self._last.get(name, -1) >= stop]
        if stop == len(self.nodes):
            # In the model's own order. An output may also be an input, or made by an earlier slice.
            last = inside | self._weights.keys()
            leaving = [name for name in self.outputs if name in last]
        if not leaving:
            raise ConfigError(f"slice_{index} would give nothing that is used after it")
        known = [self._specs.get(name) for name in (*entering, *made)]
        graph = onnx.GraphProto(name=f"slice_{index}")
        graph.node.extend(nodes)
        sizes = {value.name: _shape(value) for value in known if value is not None}
        sizes |= {name: tuple(tensor.dims) for name, tensor in self._weights.items()}
        for node in graph.node:
            spell_out(node, {k: v for k, v in sizes.items() if v is not None})
        kept = used.union(leaving)
        graph.initializer.extend(t for name, t in self._weights.items() if name in kept)
        inputs = [self._required(name) for name in entering]
        outputs = [self._required(name) for name in leaving]
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        ends = {*entering, *leaving}
        graph.value_info.extend(v for v in known if v is not None and v.name not in ends)
        model = onnx.ModelProto(ir_version=self._model.ir_version, graph=graph)
        model.opset_import.extend(self._model.opset_import)
        return Slice(
            index=index,
            model=bytes(model.SerializeToString(deterministic=True)),
            inputs=tuple(_spec(value) for value in inputs),
            outputs=tuple(_spec(value) for value in outputs),
            parameterised=tuple(node.op_type for node in nodes if self._is_layer(node)),
        )

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        place = _LAYERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        # A product may have its weights on either side.
        sides = (0, 1) if node.op_type in ("MatMul", "Gemm") else (place,)
        return place is not None and any(
            side is not None and side < len(node.input) and node.input[side] in self._weights
            for side in sides
        )

    def _ancestors(self, name: str) -> set[int]:
        """The nodes that the tensor needs, its own among them."""
        if name not in self._made:
            raise ConfigError(f"cannot cut at '{name}': the model makes no tensor of that name")
        found: set[int] = set()
        waiting = [self._made[name]]
        while waiting:
            index = waiting.pop()
            if index >= 0 and index not in found:
                found.add(index)
                waiting += [self._made[used] for used in self._uses[index] if used in self._made]
        return found

    def _required(self, name: str) -> onnx.ValueInfoProto:
        """What is known of a tensor at a slice's edge; InputError where its shape is open."""
        value = self._specs.get(name)
        if value is None or _shape(value) is None:
            raise InputError(
                f"the shape of '{name}', where the model is to be cut, is not fixed",
                hint="cut elsewhere, or give the shapes of the model's inputs",
            )
        return value


def _used(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node uses, those inside its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        graphs: Iterable[onnx.GraphProto] = (
            [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs
        )
        for graph in graphs:
            for inner in graph.node:
                yield from _used(inner)
            yield from (value.name for value in graph.output)


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    shape = _shape(value)
    assert shape is not None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    return TensorSpec(value.name, dtype, shape)
