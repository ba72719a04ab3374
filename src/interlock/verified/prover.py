"""What proves a slice: the interface between the runner and a proof system.

The runner knows no proof system. A backend plans circuits, makes keys, proves and verifies; where
none is installed, `NoProver` says so for every slice and everything but proving works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import ConfigError, EngineUnavailableError
from interlock.verified.slices import Slice

Decision = Literal["prove", "tile", "fallback"]


@dataclass(frozen=True)
class Limits:
    """What proving one slice may take; None where nothing is limited.

    key_bytes      of the proving key of any one circuit
    memory_bytes   of any one process that makes keys or proves
    seconds        to prove the whole slice, all its pieces, warm
    circuit_bytes  of all compiled circuits of the slice together

    Raises ConfigError for a limit below 0 or NaN, which would be no limit.
    """

    key_bytes: int | None = None
    memory_bytes: int | None = None
    seconds: float | None = None
    circuit_bytes: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{entry.name} is {value}; it must be 0 or more, or None")


NO_LIMITS = Limits()


@dataclass(frozen=True)
class CircuitPlan:
    """What is predicted for a slice before any setup, and what follows from it.

    slice          name of the slice
    decision       "prove" as one circuit, "tile" into several, or "fallback" to ONNX
    reason         why; for a fallback the limit or the operator that stands against a proof
    pieces         proofs that make up the slice's proof; 0 for a fallback
    circuits       distinct circuits, each with its own key; pieces may share one
    rows, logrows  of the largest circuit
    key_bytes      of the largest proving key
    memory_bytes   peak of the largest prover
    seconds        to prove all pieces one after another with keys in place
    circuit_bytes  of all compiled circuits together
    """

    slice: str
    decision: Decision
    reason: str
    pieces: int = 0
    circuits: int = 0
    rows: int = 0
    logrows: int = 0
    key_bytes: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    circuit_bytes: int = 0


@dataclass(frozen=True)
class PieceProof:
    """The proof of one piece of a slice.

    piece      which piece of the plan, such as "channel 3, rows 0-7"; "whole" for a slice in one
    circuit    digest under which the circuit's verifying key and settings are kept
    proof      the proof as the backend serialises it, instances included
    seconds    that proving took
    key_bytes  of its proving key
    """

    piece: str
    circuit: str
    proof: bytes = field(repr=False)
    seconds: float = 0.0
    key_bytes: int = 0


@dataclass(frozen=True)
class SliceProof:
    """A slice that was proved.

    outputs   name -> float32, dequantised from the field elements of the proofs' instances; the
              next slice takes exactly these
    pieces    the proofs, in the order of the plan
    seconds   that proving took, verification left out
    verified  whether the prover's own verification of every piece passed
    detail    plain values for the record, such as scales and logrows
    """

    outputs: Mapping[str, Array]
    pieces: tuple[PieceProof, ...]
    seconds: float
    verified: bool
    detail: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


class Prover(Protocol):
    """A proof system at work on slices. Inputs and outputs are float32 arrays by tensor name."""

    def plan(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """What proving the slice would take; makes no key and runs no setup."""
        ...

    def setup(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """Compile circuits and make the keys that are missing; returns the plan carried out.

        Keys already in the cache are kept. Raises EngineUnavailableError where the plan says
        fallback, and StorageError where there is no space for the keys.
        """
        ...

    def compile(self, part: Slice) -> int:
        """Compile the slice's circuit without keys, for `witness`; returns its bytes.

        Raises EngineUnavailableError for a slice that cannot be made a circuit of.
        """
        ...

    def unavailable(self, part: Slice) -> str | None:
        """Why the slice cannot be proved now: no extra, no circuit, no key; None where it can."""
        ...

    def circuit_bytes(self, part: Slice) -> int | None:
        """Bytes of the slice's compiled circuits together; None where it has none."""
        ...

    def predicted_seconds(self, part: Slice) -> float | None:
        """Seconds that `prove` is expected to take; None where nothing is known."""
        ...

    def witness(self, part: Slice, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The circuit's outputs, computed without a proof. Counts as unverified.

        Raises InputError for an activation outside the circuit's range.
        """
        ...

    def prove(
        self, part: Slice, inputs: Mapping[str, Array], *, deadline: Deadline = NO_DEADLINE
    ) -> SliceProof:
        """Prove the slice on `inputs` and verify the proof.

        Raises EngineUnavailableError where `unavailable` has a reason, InputError for an
        activation outside the circuit's range, DeadlineError, and EngineError where the proof
        fails.
        """
        ...


class NoProver:
    """Stands where no proof system can be used, and says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def plan(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """A fallback, because of the reason."""
        return CircuitPlan(part.name, "fallback", self.reason)

    def setup(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """Raise EngineUnavailableError."""
        raise self._error()

    def compile(self, part: Slice) -> int:
        """Raise EngineUnavailableError."""
        raise self._error()

    def unavailable(self, part: Slice) -> str | None:
        """The reason."""
        return self.reason

    def circuit_bytes(self, part: Slice) -> int | None:
        """None: there is no circuit."""
        return None

    def predicted_seconds(self, part: Slice) -> float | None:
        """None: nothing is known."""
        return None

    def witness(self, part: Slice, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Raise EngineUnavailableError."""
        raise self._error()

    def prove(
        self, part: Slice, inputs: Mapping[str, Array], *, deadline: Deadline = NO_DEADLINE
    ) -> SliceProof:
        """Raise EngineUnavailableError."""
        raise self._error()

    def _error(self) -> EngineUnavailableError:
        return EngineUnavailableError(self.reason)
