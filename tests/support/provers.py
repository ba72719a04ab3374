"""A prover for tests of what stands around one: fixed-point numbers, no cryptography.

Its proof is a digest, which proves nothing. Circuits, keys, sizes, forecasts and failures are as
the test says, so that every branch of a chain can be walked without a proof system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from interlock.engines.onnx import OnnxSession
from interlock.errors import EngineError, EngineUnavailableError, InputError
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.verified.prover import (
    NO_LIMITS,
    CircuitPlan,
    Limits,
    PieceProof,
    SliceProof,
)
from interlock.verified.slices import Slice


@dataclass
class FixedPointProver:
    """Rounds what ONNX gives to multiples of 2^-scale.

    keys        slices that have a circuit and a key; None for all
    compiled    slices that have a circuit but no key
    sizes       bytes of a slice's circuits; 1000 where not given
    seconds     forecast for a slice; 0.001 where not given, None for unknown
    fails       slices whose proof fails; `lies` those whose proof does not verify
    reach       largest magnitude that enters a circuit
    warning     what stands against its proofs
    asked       every slice that was proved or whose witness was computed, in order
    """

    scale: int = 12
    keys: set[str] | None = None
    compiled: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    fails: set[str] = field(default_factory=set)
    lies: set[str] = field(default_factory=set)
    reach: float = 1e6
    warning: str | None = None
    asked: list[str] = field(default_factory=list)

    def plan(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """One circuit a slice, within any limit but that of its bytes."""
        size = self.sizes.get(part.name, 1000)
        if limits.circuit_bytes is not None and size > limits.circuit_bytes:
            return CircuitPlan(part.name, "fallback", "above circuit_bytes")
        return CircuitPlan(part.name, "prove", "fits", 1, 1, 100, 7, 4096, 8192, 0.001, size)

    def setup(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """From now on the slice has a key."""
        self.keys = (self.keys or set()) | {part.name}
        return self.plan(part, limits)

    def compile(self, part: Slice) -> int:
        """From now on the slice has a circuit."""
        self.compiled.add(part.name)
        return self.sizes.get(part.name, 1000)

    def unavailable(self, part: Slice) -> str | None:
        """No circuit, no key, or None."""
        if self.keys is None or part.name in self.keys:
            return None
        return "no key" if part.name in self.compiled else "no circuit"

    def circuit_bytes(self, part: Slice) -> int | None:
        """As `sizes` says where there is a circuit."""
        there = self.keys is None or part.name in self.keys | self.compiled
        return self.sizes.get(part.name, 1000) if there else None

    def predicted_seconds(self, part: Slice) -> float | None:
        """As `seconds` says."""
        return self.seconds.get(part.name, 0.001)

    def witness(self, part: Slice, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Rounded inputs through ONNX, and the outputs rounded."""
        self.asked.append(part.name)
        for name, array in inputs.items():
            if np.abs(array).max() > self.reach:
                raise InputError(f"'{name}' leaves the circuit's range")
        given = {name: self._round(array) for name, array in inputs.items()}
        found = OnnxSession(part.model).run(given)
        return {name: self._round(array) for name, array in found.items()}

    def prove(
        self, part: Slice, inputs: Mapping[str, Array], *, deadline: Deadline = NO_DEADLINE
    ) -> SliceProof:
        """The witness with a digest for a proof."""
        if self.unavailable(part) is not None:
            raise EngineUnavailableError("no key")
        deadline.check("prover")
        outputs = self.witness(part, inputs)
        if part.name in self.fails:
            raise EngineError("the constraints are not satisfied")
        digest = hashlib.sha256(b"".join(array.tobytes() for array in outputs.values()))
        piece = PieceProof("whole", part.sha256, digest.digest(), 0.001, 4096)
        detail = {"logrows": 7, "srs_warning": self.warning}
        return SliceProof(outputs, (piece,), 0.001, part.name not in self.lies, detail)

    def close(self) -> None:
        """There is nothing to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def _round(self, array: Array) -> Array:
        scale = np.float32(2**self.scale)
        return np.round(array * scale) / scale
