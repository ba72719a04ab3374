"""Makes circuits and their keys: lays a graph out, holds it to the limits, compiles, sets up."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx
from filelock import FileLock

from interlock.kernel.errors import EngineUnavailableError, StorageError
from interlock.verified import cost
from interlock.verified.circuit_records import Record, circuit_digest
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.key_store import KeyStore, sync
from interlock.verified.planner import Planned, tiling_of
from interlock.verified.proof_system import COMPILED, GRAPH, SETTINGS, Backend, CircuitFacts
from interlock.verified.prover import Limits
from interlock.verified.slices import Slice
from interlock.verified.srs import Srs, SrsSource


class Lend(Protocol):
    """Lends a backend for the time of a `with`."""

    def __call__(self) -> AbstractContextManager[Backend]:
        """A worker that may use all cores."""
        ...


@dataclass(frozen=True)
class CircuitSetup:
    """Makes circuits with a backend that it borrows, and puts their keys into a store."""

    lend: Lend
    keys: KeyStore
    srs: SrsSource
    settings: CircuitSettings

    def make(self, part: Slice, planned: Planned, limits: Limits) -> Record:
        """Make the keys that a plan needs and that are missing.

        Raises EngineUnavailableError where the rows that ezkl counts break a limit that the
        predicted rows kept to, before any key is made; StorageError.
        """
        assert planned.tiling is not None
        tiling, graphs = tiling_of(part, planned.tiling.size)
        with ExitStack() as stack:
            backend = stack.enter_context(self.lend())
            measured = []
            for graph in graphs:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                facts = _measure(backend, graph, directory)
                self._check(part, planned, facts, graph, limits)
                measured.append((graph, facts, directory))
            digests = [self._make(backend, *one) for one in measured]
        return Record(part.sha256, tiling.size, tuple(digests))

    def compile(self, part: Slice, final: Path) -> None:
        """Put the slice's circuit in one piece, without keys, at `final`, whole or not at all.

        Raises EngineUnavailableError for a slice that no circuit can be made of; StorageError.
        """
        _, graphs = tiling_of(part, None)
        staging = final.with_name(f".{final.name}.partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(final.with_name(f".{final.name}.making")):
                if (final / COMPILED).exists():
                    return
                # Whatever is there was left by a process that died.
                for left in (staging, final):
                    shutil.rmtree(left, ignore_errors=True)
                staging.mkdir()
                try:
                    with self.lend() as backend:
                        facts = _measure(backend, graphs[0], staging)
                        self._require_scale(part, facts)
                        backend.compile(staging, _logrows(graphs[0], facts))
                    for file in (*staging.iterdir(), staging):
                        sync(file)
                    staging.rename(final)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"cannot write {final}: {error.strerror or error}") from None

    def rebuild(self, graph: onnx.ModelProto, logrows: int, srs: Srs, directory: Path) -> None:
        """Make the circuit of a lowered graph again in `directory`, keys included."""
        with self.lend() as backend:
            _measure(backend, graph, directory)
            backend.compile(directory, logrows)
            backend.setup(directory, srs.path)

    def _check(
        self,
        part: Slice,
        planned: Planned,
        facts: CircuitFacts,
        graph: onnx.ModelProto,
        limits: Limits,
    ) -> None:
        """Raise where the circuit that ezkl laid out is not the one that was planned for."""
        self._require_scale(part, facts)
        found = cost.cost_of(facts.rows, cost.instances_of(graph), facts.constants)
        for name, needed, most in (
            ("key", found.key_bytes, limits.key_bytes),
            ("memory", found.memory_bytes, limits.memory_bytes),
        ):
            if most is not None and needed > most:
                raise EngineUnavailableError(
                    f"{part.name}: {planned.plan.rows} rows were predicted, ezkl counts "
                    f"{facts.rows}: a {name} of {needed} bytes is above the limit of {most}"
                )

    def _require_scale(self, part: Slice, facts: CircuitFacts) -> None:
        scale = self.settings.scale
        if set(facts.output_scales) != {scale}:
            raise EngineUnavailableError(
                f"{part.name}: its circuit's outputs have the scale {facts.output_scales[0]}, not "
                f"{scale}, so the next slice cannot take them"
            )

    def _make(
        self, backend: Backend, graph: onnx.ModelProto, facts: CircuitFacts, measured: Path
    ) -> str:
        """The digest of the circuit, whose keys are made where they are missing."""
        logrows = _logrows(graph, facts)
        srs = self.srs.provide(logrows, backend)
        graph_sha256 = hashlib.sha256((measured / GRAPH).read_bytes()).hexdigest()
        digest = circuit_digest(backend.name(), self.settings, logrows, graph_sha256, srs.sha256)

        def build(directory: Path) -> tuple[int, int, str]:
            for name in (GRAPH, SETTINGS):
                shutil.copyfile(measured / name, directory / name)
            backend.compile(directory, logrows)
            backend.setup(directory, srs.path)
            return facts.rows, logrows, srs.sha256

        self.keys.make(digest, build)
        return digest


def _measure(backend: Backend, graph: onnx.ModelProto, directory: Path) -> CircuitFacts:
    (directory / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))
    return backend.measure(directory)


def _logrows(graph: onnx.ModelProto, facts: CircuitFacts) -> int:
    return cost.cost_of(facts.rows, cost.instances_of(graph), facts.constants).logrows
