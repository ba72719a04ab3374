"""Checks of a model's graph, made on the parsed file before any session exists.

What passes is self-contained: every byte that the graph needs is in the model or in a listed file,
every shape is plausible, and every operator belongs to a known domain.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Set

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from interlock.bundle.limits import PROTOBUF_LIMIT, BundleLimits
from interlock.bundle.manifest import MODEL
from interlock.bundle.tensors import (
    External,
    check_sparse,
    check_tensor,
    check_text,
    dtype_name,
    elements,
    locate,
)
from interlock.bundle.wire import check_wire
from interlock.kernel.batch import Array
from interlock.kernel.errors import BundleFormatError

MAX_GRAPH_DEPTH = 16
MAX_CALL_DEPTH = 32

_FORBIDDEN = {
    ("com.microsoft", "EPContext"): "reads files of its own",
    ("com.microsoft", "PythonOp"): "runs Python code",
    ("com.microsoft", "PythonOpGrad"): "runs Python code",
    ("com.microsoft", "ATen"): "calls foreign code",
    ("com.microsoft.experimental", "DynamicQuantizeLSTM"): "is experimental",
}

Key = tuple[str, str, str]
Scope = tuple[Set[str], ...]
"""The names that a graph sees, outermost graph first."""


def parse_model(data: bytes, limits: BundleLimits) -> onnx.ModelProto:
    """Parse `model.onnx`.

    Raises BundleFormatError for anything else than one ONNX model, MemoryError where there is none
    left to parse it.
    """
    if len(data) > PROTOBUF_LIMIT:
        raise BundleFormatError(f"{MODEL} has {len(data)} bytes; protobuf carries {PROTOBUF_LIMIT}")
    if data[4:8] == b"ORTM":
        # ONNX Runtime would read these bytes as its own format, whatever protobuf makes of them.
        raise BundleFormatError(f"{MODEL} is marked as ONNX Runtime's own format")
    check_wire(data, limits)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError) as error:
        # Which protobuf says by these words alone.
        if "alloc failed" in str(error):
            raise MemoryError(f"{MODEL} cannot be parsed: no memory is left") from None
        raise BundleFormatError(f"{MODEL} is not an ONNX model: {error}") from None
    size = _size(model)
    model.DiscardUnknownFields()
    if _size(model) != size:
        # ONNX Runtime may know the fields that this parser does not, and act on them.
        raise BundleFormatError(f"{MODEL} has fields that this release does not know")
    if not model.HasField("graph") or not model.graph.output:
        raise BundleFormatError(f"{MODEL} has no graph with outputs")
    return model


def check_structure(
    model: onnx.ModelProto, files: Mapping[str, bytes], limits: BundleLimits
) -> list[External]:
    """Check the whole model; returns the external tensors of its main graph, not yet put in.

    `files` are the manifest's files that may hold external data. Raises BundleFormatError.
    """
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise BundleFormatError(f"ir_version is {model.ir_version}, not 3 to {onnx.IR_VERSION}")
    if len(model.training_info):
        raise BundleFormatError("the model has training_info")
    if any(entry.key == "ort_config" for entry in model.metadata_props):
        raise BundleFormatError("the model brings session options of its own: ort_config")
    functions = _functions(model)
    domains = _opsets("the model", model.opset_import, limits.domains | {k[0] for k in functions})
    walk = _Walk(limits, functions)
    for key, function in functions.items():
        walk.function(key, function, domains)
    external = walk.main(model.graph, domains, files)
    walk.calls()
    return external


def in_one_piece(model: onnx.ModelProto, external: list[External]) -> bool:
    """Whether protobuf can carry the model with its external tensors put in."""
    return _total(model, external) <= PROTOBUF_LIMIT - (1 << 16)


def _total(model: onnx.ModelProto, external: list[External]) -> int:
    return _size(model) + sum(place.length for place in external)


def _size(model: onnx.ModelProto) -> int:
    """Bytes of the model. Protobuf puts them together to count them."""
    try:
        return int(model.ByteSize())
    except EncodeError:
        # It was parsed from bytes that protobuf carries, so that is all that can be wrong.
        raise MemoryError(f"{MODEL} cannot be put together: no memory is left") from None


def beside(external: list[External], files: Mapping[str, bytes]) -> dict[str, Array]:
    """The external tensors by name, as arrays over the bytes of `files`; nothing is copied.

    Raises BundleFormatError for an element type that NumPy does not have.
    """
    found: dict[str, Array] = {}
    for place in external:
        tensor = place.tensor
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.kind not in "biufc":
            raise BundleFormatError(
                f"the initializer {tensor.name[:80]!r} is external data of the type "
                f"{dtype_name(tensor.data_type)}, in a model that is too large for one piece"
            )
        flat = np.frombuffer(
            files[place.file], dtype, count=math.prod(tensor.dims), offset=place.offset
        )
        found[tensor.name] = flat.reshape(tuple(tensor.dims))
    return found


def inline(model: onnx.ModelProto, external: list[External], files: Mapping[str, bytes]) -> bytes:
    """The model's bytes with every external tensor put in.

    Raises BundleFormatError above the 2 GB that protobuf can carry, MemoryError where there is none
    left for the bytes.
    """
    if not in_one_piece(model, external):
        total = _total(model, external)
        raise BundleFormatError(
            f"the model with its external tensors has {total} bytes; protobuf carries "
            f"{PROTOBUF_LIMIT}",
            hint="store the weights in a smaller type, or split the model",
        )
    for place in external:
        data = files[place.file]
        place.tensor.raw_data = data[place.offset : place.offset + place.length]
        place.tensor.ClearField("external_data")
        place.tensor.ClearField("data_location")
    try:
        return bytes(model.SerializeToString())
    except EncodeError:
        raise MemoryError(f"{MODEL} cannot be put together: no memory is left") from None


def _functions(model: onnx.ModelProto) -> dict[Key, onnx.FunctionProto]:
    found: dict[Key, onnx.FunctionProto] = {}
    for function in model.functions:
        check_text("a function", function.name, function.domain, function.overload)
        check_text("a function", *function.input, *function.output)
        key = (function.domain, function.name, function.overload)
        if not function.name or key in found:
            raise BundleFormatError(
                f"the function {function.name[:80]!r} is unnamed or given twice"
            )
        if function.domain in ("", "ai.onnx"):
            raise BundleFormatError(f"the function {function.name[:80]!r} is in ONNX's own domain")
        found[key] = function
    return found


def _opsets(
    what: str, imports: Collection[onnx.OperatorSetIdProto], allowed: Collection[str]
) -> frozenset[str]:
    """The domains that are imported, each once and in a version that exists."""
    domains: set[str] = set()
    for opset in imports:
        check_text(what, opset.domain)
        name = "" if opset.domain == "ai.onnx" else opset.domain
        if opset.domain not in allowed:
            raise BundleFormatError(f"{what} imports the unknown domain {opset.domain[:80]!r}")
        if name in domains:
            raise BundleFormatError(f"{what} imports the domain {name[:80]!r} twice")
        newest = onnx.defs.onnx_opset_version() if name == "" else 2**31 - 1
        if not 1 <= opset.version <= newest:
            raise BundleFormatError(f"{what} imports version {opset.version} of domain {name!r}")
        domains.add(name)
    return frozenset(domains)


class _Walk:
    """One pass over graphs, subgraphs and functions."""

    def __init__(self, limits: BundleLimits, functions: Mapping[Key, onnx.FunctionProto]) -> None:
        self._limits = limits
        self._functions = functions
        self._nodes = 0
        self._called: dict[Key, list[Key]] = {}
        self._sizes: dict[Key, int] = {}
        self._calls: list[Key] = []

    def main(
        self, graph: onnx.GraphProto, domains: frozenset[str], files: Mapping[str, bytes]
    ) -> list[External]:
        external = []
        for tensor in graph.initializer:
            what = f"the initializer {tensor.name[:80]!r}"
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                external.append(locate(what, tensor, files, self._limits))
            else:
                check_tensor(what, tensor, self._limits)
        self._calls = []
        self._graph(graph, domains, (), 0)
        return external

    def function(self, key: Key, function: onnx.FunctionProto, domains: frozenset[str]) -> None:
        what = f"the function {key[1][:80]!r}"
        allowed = self._limits.domains | {k[0] for k in self._functions}
        own = _opsets(what, function.opset_import, allowed) or domains
        before = self._nodes
        self._calls = []
        for attribute in function.attribute_proto:
            self._attribute(what, attribute, own, (), 0)
        produced = set(function.input)
        self._body(what, function.node, own, produced, 0)
        missing = [name for name in function.output if name not in produced]
        if missing:
            raise BundleFormatError(f"{what} lacks its output {missing[0][:80]!r}")
        self._called[key] = self._calls
        self._sizes[key] = self._nodes - before

    def calls(self) -> None:
        """Functions must not call themselves, nor grow beyond the limit when they are put in."""
        totals: dict[Key, int] = {}
        heights: dict[Key, int] = {}

        def visit(key: Key, depth: int) -> None:
            """Find the nodes of a function with all that it calls, and how deeply it calls."""
            called = self._called[key]
            if depth <= MAX_CALL_DEPTH:
                for other in called:
                    if other not in totals:
                        visit(other, depth + 1)
                heights[key] = 1 + max((heights[other] for other in called), default=0)
            if depth > MAX_CALL_DEPTH or heights[key] > MAX_CALL_DEPTH:
                raise BundleFormatError(f"the function {key[1][:80]!r} calls itself, or too deeply")
            totals[key] = self._sizes[key] + sum(totals[other] for other in called)

        for key in self._functions:
            if key not in totals:
                visit(key, 1)
        expanded = self._nodes + sum(totals[key] for key in self._calls)
        if expanded > self._limits.max_nodes:
            raise BundleFormatError(
                f"with its functions put in, the graph has {expanded} nodes; "
                f"the limit is {self._limits.max_nodes}"
            )

    def _graph(
        self, graph: onnx.GraphProto, domains: frozenset[str], outer: Scope, depth: int
    ) -> None:
        what = "the graph" if depth == 0 else f"the subgraph {graph.name[:80]!r}"
        if depth > MAX_GRAPH_DEPTH:
            raise BundleFormatError(f"subgraphs are nested deeper than {MAX_GRAPH_DEPTH}")
        names: set[str] = set()
        for value in graph.input:
            self._value(what, "input", value, typed=depth == 0)
            if value.name in names:
                raise BundleFormatError(f"{what} has two inputs named {value.name[:80]!r}")
            names.add(value.name)
        stored: set[str] = set()
        for name in _initializer_names(graph):
            check_text(what, name)
            if not name or name in stored:
                raise BundleFormatError(
                    f"{what} has an initializer unnamed or twice: {name[:80]!r}"
                )
            stored.add(name)
        names |= stored
        if depth > 0:
            for tensor in graph.initializer:
                self._own_tensor(f"the initializer {tensor.name[:80]!r} of {what}", tensor)
        for sparse in graph.sparse_initializer:
            check_sparse(f"the initializer {sparse.values.name[:80]!r}", sparse, self._limits)
        for value in graph.value_info:
            self._value(what, "value", value, typed=False)
        self._body(what, graph.node, domains, names, depth, outer)
        ends: set[str] = set()
        for value in graph.output:
            self._value(what, "output", value, typed=depth == 0)
            if value.name in ends:
                raise BundleFormatError(f"{what} declares the output {value.name[:80]!r} twice")
            if value.name not in names and not _known(value.name, outer):
                raise BundleFormatError(
                    f"{what} declares the output {value.name[:80]!r}, which nothing produces"
                )
            ends.add(value.name)

    def _body(
        self,
        what: str,
        nodes: Collection[onnx.NodeProto],
        domains: frozenset[str],
        names: set[str],
        depth: int,
        outer: Scope = (),
    ) -> None:
        """Check nodes in order; `names` grows by what they produce."""
        # Not copied for each subgraph: what a node's subgraphs see is what `names` holds by then.
        scope = (*outer, names)
        self._nodes += len(nodes)
        if self._nodes > self._limits.max_nodes:
            raise BundleFormatError(f"the graph has more than {self._limits.max_nodes} nodes")
        for node in nodes:
            check_text(f"a node of {what}", node.op_type, node.domain, node.overload)
            check_text(f"a node of {what}", *node.input, *node.output)
            self._operator(what, node, domains)
            for name in node.input:
                if name and not _known(name, scope):
                    raise BundleFormatError(
                        f"a {node.op_type[:40]} node of {what} takes {name[:80]!r}, "
                        "which nothing before it produces"
                    )
            for attribute in node.attribute:
                where = f"a {node.op_type[:40]} node of {what}"
                self._attribute(where, attribute, domains, scope, depth)
            for name in node.output:
                if name and name in names:
                    raise BundleFormatError(f"{what} produces {name[:80]!r} twice")
                if name:
                    names.add(name)

    def _operator(self, what: str, node: onnx.NodeProto, domains: frozenset[str]) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if not node.op_type:
            raise BundleFormatError(f"a node of {what} has no operator")
        if domain not in domains:
            raise BundleFormatError(
                f"a {node.op_type[:40]} node of {what} uses the domain {domain[:80]!r}, "
                "which the model does not import"
            )
        reason = _FORBIDDEN.get((domain, node.op_type))
        if reason:
            raise BundleFormatError(f"{what} uses the operator {node.op_type}, which {reason}")
        key = (node.domain, node.op_type, node.overload)
        if key in self._functions:
            self._calls.append(key)
        elif domain not in self._limits.domains:
            raise BundleFormatError(
                f"{what} uses the operator {node.op_type[:40]!r} of domain {domain[:80]!r}, "
                "which no function of the model defines"
            )

    def _attribute(
        self,
        what: str,
        attribute: onnx.AttributeProto,
        domains: frozenset[str],
        scope: Scope,
        depth: int,
    ) -> None:
        where = f"the attribute {attribute.name[:40]!r} of {what}"
        if attribute.HasField("t"):
            self._own_tensor(where, attribute.t)
        for tensor in attribute.tensors:
            self._own_tensor(where, tensor)
        if attribute.HasField("sparse_tensor"):
            check_sparse(where, attribute.sparse_tensor, self._limits)
        for sparse in attribute.sparse_tensors:
            check_sparse(where, sparse, self._limits)
        if attribute.HasField("g"):
            self._graph(attribute.g, domains, scope, depth + 1)
        for graph in attribute.graphs:
            self._graph(graph, domains, scope, depth + 1)

    def _own_tensor(self, what: str, tensor: onnx.TensorProto) -> None:
        check_tensor(what, tensor, self._limits)

    def _value(self, what: str, role: str, value: onnx.ValueInfoProto, *, typed: bool) -> None:
        """Check a declared type; the main graph's inputs and outputs must be dense tensors."""
        check_text(f"an {role} of {what}", value.name)
        check_text(
            f"an {role} of {what}", *(dim.dim_param for dim in value.type.tensor_type.shape.dim)
        )
        if not value.name:
            raise BundleFormatError(f"an {role} of {what} has no name")
        label = f"the {role} {value.name[:80]!r} of {what}"
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            if typed:
                raise BundleFormatError(f"{label} is not a tensor")
            return
        tensor = value.type.tensor_type
        if typed and dtype_name(tensor.elem_type) is None:
            raise BundleFormatError(f"{label} has the unsupported type {tensor.elem_type}")
        if typed and not tensor.HasField("shape"):
            raise BundleFormatError(f"{label} declares no shape")
        known = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        elements(label, known, self._limits.max_elements)


def _known(name: str, scope: Scope) -> bool:
    return any(name in names for names in scope)


def _initializer_names(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        yield tensor.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
