"""What a proof system does for the circuits of this package: the interface a backend implements.

A circuit lives in a directory of its own, whose file names are below. Nothing here knows how a
proof works; `interlock.verified.ezkl_backend` is the one backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline

GRAPH = "circuit.onnx"
SETTINGS = "settings.json"
COMPILED = "circuit.compiled"
VERIFYING_KEY = "vk.key"
PROVING_KEY = "pk.key"


@dataclass(frozen=True)
class CircuitFacts:
    """What a backend found when it laid a circuit out.

    rows           that it takes, before they are rounded up
    constants      distinct constants
    output_scales  of its outputs
    """

    rows: int
    constants: int
    output_scales: tuple[int, ...]


@dataclass(frozen=True)
class Statement:
    """A proof to check: the bytes as the backend wrote them, and what it is checked against.

    settings, verifying_key  of the circuit
    srs                      the verifier's part of the structured reference string
    """

    proof: bytes
    settings: bytes
    verifying_key: bytes
    srs: bytes


class Backend(Protocol):
    """A proof system. Pause before changing this: others implement it.

    Every call may raise DeadlineError, MemoryLimitError and EngineCrashError: what it runs is
    foreign code in a process of its own. Arrays are float32 in the graph's order of inputs.
    """

    def name(self) -> str:
        """Name and version, as recorded in bundles. Raises MissingExtraError where absent."""
        ...

    def measure(self, directory: Path, *, deadline: Deadline = NO_DEADLINE) -> CircuitFacts:
        """Write the settings of the graph in `directory` and say what the circuit takes.

        Raises EngineUnavailableError for a graph that it cannot make a circuit of.
        """
        ...

    def compile(self, directory: Path, logrows: int, *, deadline: Deadline = NO_DEADLINE) -> None:
        """Fix the size in the settings and write the compiled circuit."""
        ...

    def setup(self, directory: Path, srs: Path, *, deadline: Deadline = NO_DEADLINE) -> None:
        """Write the verifying and the proving key of the compiled circuit."""
        ...

    def witness(
        self, directory: Path, inputs: Sequence[Array], *, deadline: Deadline = NO_DEADLINE
    ) -> list[Array]:
        """The circuit's outputs as integers (n,), one array an output.

        Raises InputError for an activation outside the circuit's range.
        """
        ...

    def prove(
        self,
        directory: Path,
        srs: Path,
        inputs: Sequence[Array],
        *,
        deadline: Deadline = NO_DEADLINE,
    ) -> bytes:
        """A proof, its instances inside. Raises as `witness` does."""
        ...

    def verify(
        self, statements: Sequence[Statement], *, deadline: Deadline = NO_DEADLINE
    ) -> list[str | None]:
        """For each statement None where its proof holds, else why not."""
        ...

    def make_srs(self, path: Path, logrows: int, *, deadline: Deadline = NO_DEADLINE) -> None:
        """Write a structured reference string whose secret this process knew."""
        ...
