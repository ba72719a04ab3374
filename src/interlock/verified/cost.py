"""What a circuit costs, predicted from its graph: rows, key bytes, memory and seconds.

The counts of assignments follow how ezkl 23 lays operators out with base 256, 4 legs and 2 inner
columns; the sizes and times are fitted to measurements (`bench/circuit_cost.py` repeats them, and
docs/explanation/verified.md gives their errors). Rows that ezkl then counts decide, not these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx

from interlock.kernel.errors import EngineUnavailableError
from interlock.verified.lowering import shapes_of

COLUMNS = 2

BLINDING = 12
"""Rows of a circuit that hold no assignment; with less room ezkl adds a block of columns."""

MARGIN = 1.04
"""The rows of a convolution's piece were up to 3.1% more than predicted, of others none."""

LEAST_LOGROWS = 9
"""The table of a base of 256 needs more than 2^8 rows."""

# Assignments for each output element, beside the products of a dot product. They make the sign
# and the legs of numbers that are compared or divided.
_REBASED, _RELU, _BIAS = 65, 22, 1

_KEY_BYTES_A_ROW = 4228
_MEMORY_BYTES, _MEMORY_BYTES_A_ROW = 80 << 20, 9800


@dataclass(frozen=True)
class Cost:
    """What one circuit takes.

    rows, logrows  of the circuit; it has 2^logrows rows of columns
    key_bytes      of the proving key
    memory_bytes   resident at the peak of setup or proof
    prove_seconds  of one core, for one proof with the key on disk
    """

    rows: int
    logrows: int
    key_bytes: int
    memory_bytes: int
    prove_seconds: float


def predict(model: onnx.ModelProto) -> Cost:
    """The cost of a circuit for a lowered graph, with room for `MARGIN`."""
    rows = rows_of(model)
    return replace(cost_of(math.ceil(MARGIN * rows), instances_of(model)), rows=rows)


def cost_of(rows: int, instances: int = 0, constants: int = 0) -> Cost:
    """The cost of a circuit with so many rows, public values and distinct constants."""
    needed = max(rows, instances, constants) + BLINDING
    logrows = max(LEAST_LOGROWS, math.ceil(math.log2(needed)))
    return Cost(
        rows=rows,
        logrows=logrows,
        key_bytes=_KEY_BYTES_A_ROW << logrows,
        memory_bytes=_MEMORY_BYTES + (_MEMORY_BYTES_A_ROW << logrows),
        prove_seconds=prove_seconds(logrows),
    )


def prove_seconds(logrows: int) -> float:
    """Seconds of one core for a proof of 2^logrows rows."""
    return 0.25 + 2.7e-4 * (1 << logrows)


def instances_of(model: onnx.ModelProto) -> int:
    """Public values: elements of all inputs and outputs."""
    shapes = shapes_of(model)
    return sum(math.prod(shapes[value.name]) for value in (*model.graph.input, *model.graph.output))


def rows_of(model: onnx.ModelProto) -> int:
    """Rows of the circuit, before they are rounded up to a power of two."""
    shapes = shapes_of(model)
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input}
    return math.ceil(
        sum(_assignments(node, shapes, constant, inputs) for node in model.graph.node) / COLUMNS
    )


def _assignments(
    node: onnx.NodeProto,
    shapes: dict[str, tuple[int, ...]],
    constant: set[str],
    inputs: set[str],
) -> int:
    made = math.prod(shapes[node.output[0]])
    bias = _BIAS if len(node.input) > 2 else 0
    match node.op_type:
        case "Conv":
            taps = math.prod(shapes[node.input[1]][1:])
            each = _even(taps) + _REBASED + bias + 1
            return made * each + 2 * math.prod(shapes[node.input[0]])
        case "Gemm" | "MatMul":
            if node.input[1] not in constant:
                raise EngineUnavailableError("no circuit is made for a product of two activations")
            shared = _even(shapes[node.input[0]][-1])
            outer = math.prod(shapes[node.input[0]]) // max(1, shapes[node.input[0]][-1])
            return made * (shared + _REBASED + bias) + outer * shared
        case "Relu":
            return made * (_RELU + (2 if node.input[0] in inputs else 0))
        case "Add" | "Sub":
            return 3 * made
    return 0


def _even(products: int) -> int:
    return -(-products // COLUMNS) * COLUMNS
