"""Decides before any setup how a slice is proved: whole, in pieces, or not at all, and why."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from interlock.kernel.errors import EngineUnavailableError
from interlock.verified.cost import Cost, predict
from interlock.verified.lowering import lower
from interlock.verified.prover import CircuitPlan, Limits
from interlock.verified.slices import Slice
from interlock.verified.tiling import WHOLE, Geometry, Layer, Piece, cuts, layer_of

# A slice in more pieces would take longer to hand out and check than to prove.
MOST_PIECES = 512

# A plan within this share of the fastest counts as equally fast; the one with fewer keys wins.
_AS_FAST = 1.1

_CIRCUIT_BYTES_A_ROW = 45
_CIRCUIT_BYTES = 8192


@dataclass(frozen=True)
class Tiling:
    """How a slice is cut: (channels, rows) of a piece, or None for one circuit."""

    size: tuple[int, int] | None
    geometry: Geometry
    pieces: tuple[Piece, ...]

    @property
    def circuits(self) -> tuple[Piece, ...]:
        """One piece for each distinct circuit: bands of the same channels share theirs."""
        first: dict[tuple[int, int], Piece] = {}
        for piece in self.pieces:
            first.setdefault(piece.channels, piece)
        return tuple(first.values())


@dataclass(frozen=True)
class Planned:
    """A plan, and how to carry it out; `tiling` is None for a fallback."""

    plan: CircuitPlan
    tiling: Tiling | None


def combined(one: Limits, other: Limits) -> Limits:
    """The stricter of two limits, field by field."""

    def lower_of(a: float | None, b: float | None) -> float | None:
        return b if a is None else a if b is None else min(a, b)

    def whole(a: int | None, b: int | None) -> int | None:
        least = lower_of(a, b)
        return None if least is None else int(least)

    return Limits(
        key_bytes=whole(one.key_bytes, other.key_bytes),
        memory_bytes=whole(one.memory_bytes, other.memory_bytes),
        seconds=lower_of(one.seconds, other.seconds),
        circuit_bytes=whole(one.circuit_bytes, other.circuit_bytes),
    )


def plan_slice(part: Slice, limits: Limits) -> Planned:
    """The cheapest way to prove the slice within the limits, predicted from its graph alone."""
    try:
        model = onnx.load_from_string(part.model)
        for spec in (*part.inputs, *part.outputs):
            if spec.dtype != "float32":
                raise EngineUnavailableError(f"the tensor '{spec.name}' is {spec.dtype}")
        whole = _tried(part, limits, Tiling(None, WHOLE, (Piece(),)), [predict(lower(model))])
    except EngineUnavailableError as error:
        return Planned(CircuitPlan(part.name, "fallback", error.message), None)
    if _excess(whole.plan, limits) is None:
        return whole
    layer = layer_of(model)
    if layer is None:
        return _fallback(whole, limits, "; it is no single layer that can be cut")
    tilings = [_tried(part, limits, *_priced(layer, size)) for size in _sizes(layer, limits)]
    fitting = [option for option in tilings if _excess(option.plan, limits) is None]
    if not fitting:
        closest = min(tilings, key=lambda option: option.plan.seconds, default=whole)
        return _fallback(closest, limits, ", however it is cut" if tilings else "")
    fastest = min(option.plan.seconds for option in fitting)
    good = [option for option in fitting if option.plan.seconds <= _AS_FAST * fastest]
    return min(good, key=lambda o: (o.plan.circuits, o.plan.pieces, o.plan.seconds))


def tiling_of(part: Slice, size: tuple[int, int] | None) -> tuple[Tiling, list[onnx.ModelProto]]:
    """The tiling of a size, and the lowered graph of each of its circuits, in order.

    Raises EngineUnavailableError where the slice cannot be cut so.
    """
    model = onnx.load_from_string(part.model)
    if size is None:
        return Tiling(None, WHOLE, (Piece(),)), [lower(model)]
    layer = layer_of(model)
    if layer is None:
        raise EngineUnavailableError("the slice is no single layer that can be cut")
    tiling = Tiling(size, layer.geometry, tuple(cuts(layer.geometry, *size)))
    return tiling, [layer.model(piece) for piece in tiling.circuits]


def _sizes(layer: Layer, limits: Limits) -> list[tuple[int, int]]:
    """Sizes worth a look: all of rows by channels that split evenly, none below what fits."""
    channels = layer.geometry.out_shape[1]
    height = layer.geometry.out_shape[2] if layer.geometry.kind == "conv" else 1
    groups = sorted({-(-channels // parts) for parts in range(1, channels + 1)}, reverse=True)
    bands = sorted({-(-height // parts) for parts in range(1, height + 1)}, reverse=True)
    return [
        (group, band)
        for group in groups
        for band in bands
        if -(-channels // group) * -(-height // band) <= MOST_PIECES
    ]


def _priced(layer: Layer, size: tuple[int, int]) -> tuple[Tiling, list[Cost]]:
    """The tiling and the cost of each piece; equal groups cost the same, whatever their weights."""
    tiling = Tiling(size, layer.geometry, tuple(cuts(layer.geometry, *size)))
    by_width: dict[int, Cost] = {}
    costs = []
    for piece in tiling.pieces:
        width = piece.channels[1] - piece.channels[0]
        if width not in by_width:
            by_width[width] = predict(layer.model(piece))
        costs.append(by_width[width])
    return tiling, costs


def _tried(part: Slice, limits: Limits, tiling: Tiling, costs: list[Cost]) -> Planned:
    largest = max(costs, key=lambda cost: cost.rows)
    circuits = len(tiling.circuits)
    plan = CircuitPlan(
        slice=part.name,
        decision="prove" if tiling.size is None else "tile",
        reason=(
            "fits as one circuit"
            if tiling.size is None
            else f"{len(tiling.pieces)} pieces of {tiling.pieces[0].name.replace('0-0', '0')}"
        ),
        pieces=len(tiling.pieces),
        circuits=circuits,
        rows=largest.rows,
        logrows=largest.logrows,
        key_bytes=largest.key_bytes,
        memory_bytes=largest.memory_bytes,
        seconds=sum(cost.prove_seconds for cost in costs),
        circuit_bytes=circuits * (_CIRCUIT_BYTES + _CIRCUIT_BYTES_A_ROW * largest.rows),
    )
    return Planned(plan, tiling)


def _excess(plan: CircuitPlan, limits: Limits) -> str | None:
    """The first limit that the plan exceeds, as a reason."""
    for name, needed, most, unit, shown in (
        ("proving key", plan.key_bytes, limits.key_bytes, "MB", 1e6),
        ("prover's memory", plan.memory_bytes, limits.memory_bytes, "MB", 1e6),
        ("proof's time", plan.seconds, limits.seconds, "s", 1),
        ("compiled circuits", plan.circuit_bytes, limits.circuit_bytes, "kB", 1e3),
    ):
        if most is not None and needed > most:
            return (
                f"{name}: {needed / shown:,.0f} {unit} predicted, "
                f"the limit is {most / shown:,.0f} {unit}"
            )
    return None


def _fallback(option: Planned, limits: Limits, more: str) -> Planned:
    plan = option.plan
    reason = f"{_excess(plan, limits)}{more}"
    return Planned(
        CircuitPlan(
            plan.slice,
            "fallback",
            reason,
            rows=plan.rows,
            logrows=plan.logrows,
            key_bytes=plan.key_bytes,
            memory_bytes=plan.memory_bytes,
            seconds=plan.seconds,
            circuit_bytes=plan.circuit_bytes,
        ),
        None,
    )
