"""Proves slices with circuits: hands pieces to worker processes, joins and checks their proofs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnx
import platformdirs

from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    ConfigError,
    EngineError,
    EngineUnavailableError,
    InputError,
    MissingExtraError,
)
from interlock.verified import cost
from interlock.verified.circuit_records import CircuitRecords, Record, circuit_digest
from interlock.verified.circuit_setup import CircuitSetup
from interlock.verified.ezkl_backend import CircuitSettings, EzklBackend
from interlock.verified.field import dequantise, quantise
from interlock.verified.key_store import DEFAULT_SIZE, KeyStore
from interlock.verified.piece_proofs import BackendPool, HeldCircuit, Job, PieceProver
from interlock.verified.planner import Planned, Tiling, combined, plan_slice
from interlock.verified.proof_file import ProofFile, read_proof
from interlock.verified.proof_system import COMPILED, PROVING_KEY
from interlock.verified.prover import (
    NO_LIMITS,
    CircuitPlan,
    Limits,
    PieceProof,
    SliceProof,
)
from interlock.verified.slices import Slice, sizes
from interlock.verified.srs import DEVELOPMENT_WARNING, Srs, SrsSource
from interlock.verified.tiling import Piece, assemble, input_cut

CACHE_VARIABLE = "INTERLOCK_VERIFIED_CACHE"

CEILING = Limits(key_bytes=300_000_000, memory_bytes=1_500_000_000)
"""What a prover keeps to where its caller limits nothing."""


def default_cache() -> Path:
    """$INTERLOCK_VERIFIED_CACHE, or `interlock/verified` in the user's cache directory."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("interlock") / "verified"


class CircuitProver:
    """A `Prover` on ezkl. Safe across threads.

    cache          directory of keys, development SRS and plans; see `default_cache`
    settings       of all circuits
    ceiling        that planning and setup keep to, whatever a caller allows
    srs            an SRS file, or a directory of `kzg<logrows>.srs`; None for development SRS
    srs_sha256     that the SRS file must have
    keys_size      bytes of keys that the cache may keep
    workers        processes that prove pieces at the same time; None for one a core
    memory_budget  bytes of all provers together; None for half of what the machine has
    resume         directory where proofs of pieces are kept, so that a proof of many pieces that
                   was interrupted goes on; None keeps none
    on_piece       called after each piece that was proved, from any thread
    """

    def __init__(
        self,
        cache: Path | None = None,
        *,
        settings: CircuitSettings | None = None,
        ceiling: Limits = CEILING,
        srs: Path | None = None,
        srs_sha256: str | None = None,
        keys_size: int = DEFAULT_SIZE,
        workers: int | None = None,
        memory_budget: int | None = None,
        resume: Path | None = None,
        on_piece: Callable[[PieceProof], None] | None = None,
    ) -> None:
        self.cache = cache if cache is not None else default_cache()
        self.settings = settings if settings is not None else CircuitSettings()
        self.ceiling = ceiling
        self.srs = SrsSource(self.cache / "srs", files=srs, sha256=srs_sha256)
        self.keys = KeyStore(self.cache / "keys", size=keys_size)
        self._cores = usable_cores()
        self._workers = workers if workers is not None else self._cores
        self._budget = memory_budget if memory_budget is not None else _memory() // 2
        self._pool = BackendPool(self.settings, ceiling.memory_bytes)
        self._pieces = PieceProver(self._pool, self.settings.scale, resume, on_piece)
        self._records = CircuitRecords(self.cache, self.settings, self.srs.origin)
        self._setup = CircuitSetup(self._backend, self.keys, self.srs, self.settings)
        self._name: str | None = None

    def plan(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """See `Prover.plan`."""
        return self._planned(part, limits).plan

    def setup(self, part: Slice, limits: Limits = NO_LIMITS) -> CircuitPlan:
        """See `Prover.setup`.

        Raises EngineUnavailableError also where the rows that ezkl counts break a limit that the
        predicted rows kept to; no key is made then.
        """
        allowed = combined(limits, self.ceiling)
        planned = self._planned(part, limits)
        if planned.tiling is None:
            raise EngineUnavailableError(f"{part.name}: {planned.plan.reason}")
        record = self._records.read(part)
        if (
            record is None
            or record.size != planned.tiling.size
            or self._missing(part, record) is not None
        ):
            record = self._setup.make(part, planned, allowed)
            self._records.write(part, record)
        return self._carried_out(planned, record)

    def compile(self, part: Slice) -> int:
        """Compile the slice as one circuit, without keys, for `witness`; returns its bytes.

        Raises EngineUnavailableError for a slice that ezkl cannot make a circuit of.
        """
        return (self._compiled(part) / COMPILED).stat().st_size

    def unavailable(self, part: Slice) -> str | None:
        """See `Prover.unavailable`."""
        try:
            self.backend_name()
        except MissingExtraError as error:
            return f"no circuit: {error.message} ({error.hint})"
        record = self._records.read(part)
        if record is None:
            return (
                "no key: the circuit is compiled, but has no keys"
                if self.circuit_bytes(part) is not None
                else "no circuit: the slice is not set up"
            )
        return self._missing(part, record)

    def circuit_bytes(self, part: Slice) -> int | None:
        """See `Prover.circuit_bytes`."""
        record = self._records.read(part)
        if record is not None:
            abouts = [self.keys.about(digest) for digest in record.circuits]
            known = [about.sizes[COMPILED] for about in abouts if about is not None]
            if len(known) == len(abouts):
                return sum(known)
        try:
            return (self._records.compiled(part) / COMPILED).stat().st_size
        except OSError:
            return None

    def predicted_seconds(self, part: Slice) -> float | None:
        """See `Prover.predicted_seconds`: what the last proof took, else the cost model's."""
        record = self._records.read(part)
        if record is None:
            return None
        known = self._records.seconds(part)
        if known is not None:
            return known
        tiling = self._records.graphs(part, record.size)[0]
        seconds, largest = 0.0, 0
        of_circuit = {
            piece.channels: self.keys.about(digest)
            for piece, digest in zip(tiling.circuits, record.circuits, strict=True)
        }
        for piece in tiling.pieces:
            about = of_circuit[piece.channels]
            if about is None:
                return None
            largest = max(largest, about.logrows)
            seconds += cost.prove_seconds(about.logrows)
        return seconds / self._parallel(len(tiling.pieces), largest)

    def witness(self, part: Slice, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Prover.witness`."""
        integers = self._integers(part, inputs)
        values = [dequantise(value, self.settings.scale) for value in integers]
        directory = self._compiled(part)
        with self._backend() as backend:
            found = backend.witness(directory, values)
        return self._outputs(part, found)

    def prove(
        self, part: Slice, inputs: Mapping[str, Array], *, deadline: Deadline = NO_DEADLINE
    ) -> SliceProof:
        """See `Prover.prove`."""
        why = self.unavailable(part)
        record = self._records.read(part)
        if why is not None or record is None:
            raise EngineUnavailableError(f"{part.name}: {why}")
        tiling = self._records.graphs(part, record.size)[0]
        integers = self._integers(part, inputs)
        circuits = dict(zip((p.channels for p in tiling.circuits), record.circuits, strict=True))
        started = time.perf_counter()
        with ExitStack() as stack:
            held = {
                digest: self._held(part, digest, stack) for digest in dict.fromkeys(record.circuits)
            }
            jobs = [
                Job(
                    piece,
                    circuits[piece.channels],
                    [input_cut(tiling.geometry, piece, value) for value in integers],
                )
                for piece in tiling.pieces
            ]
            largest = max(circuit.about.logrows for circuit in held.values())
            workers = self._parallel(len(jobs), largest)
            proofs = self._pieces.prove(
                jobs,
                held,
                workers=workers,
                threads=max(1, self._cores // workers),
                deadline=deadline,
            )
            seconds = time.perf_counter() - started
            statements = [held[one.circuit].statement(one.proof) for one in proofs]
            with self._backend() as backend:
                reasons = backend.verify(statements, deadline=deadline)
        outputs = self._join(part, tiling, jobs, proofs)
        self._records.write_seconds(part, seconds)
        return SliceProof(
            outputs=outputs,
            pieces=tuple(proofs),
            seconds=seconds,
            verified=all(reason is None for reason in reasons),
            detail={
                "backend": self.backend_name(),
                "scale": self.settings.scale,
                "logrows": largest,
                "srs": self.srs.origin,
                "srs_warning": DEVELOPMENT_WARNING if self.srs.origin == "development" else None,
            },
        )

    def circuits_of(self, part: Slice) -> tuple[Tiling, tuple[str, ...]]:
        """How the slice is cut and the digest of each of its circuits, as it was set up.

        Raises EngineUnavailableError where it was not.
        """
        record = self._records.read(part)
        if record is None:
            raise EngineUnavailableError(f"{part.name}: no circuit: the slice is not set up")
        return self._records.graphs(part, record.size)[0], record.circuits

    def rebuild(self, graph: onnx.ModelProto, logrows: int, srs: Srs, directory: Path) -> None:
        """Make the circuit of a lowered graph again in `directory`, keys included."""
        self._setup.rebuild(graph, logrows, srs, directory)

    def close(self) -> None:
        """End all worker processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _planned(self, part: Slice, limits: Limits) -> Planned:
        try:
            self.backend_name()
        except MissingExtraError as error:
            return Planned(
                CircuitPlan(part.name, "fallback", f"{error.message} ({error.hint})"), None
            )
        return plan_slice(part, combined(limits, self.ceiling))

    def backend_name(self) -> str:
        """Name and version of the proof system; raises MissingExtraError where it is absent."""
        if self._name is None:  # looking it up takes as long as a small slice
            self._name = EzklBackend.name()
        return self._name

    def _missing(self, part: Slice, record: Record) -> str | None:
        """Why the circuits of a record cannot be used for the slice; None where they can."""
        try:
            _, graphs = self._records.graphs(part, record.size)
        except EngineUnavailableError as error:
            return f"no circuit: {error.message}"
        if len(graphs) != len(record.circuits):
            return "no key: the keys are of other circuits than the slice's"
        for digest, graph in zip(record.circuits, graphs, strict=True):
            about = self.keys.about(digest)
            if about is None:
                return "no key: the keys are not in the cache"
            try:
                srs = self.srs.find(about.logrows)
            except ConfigError as error:
                return f"no key: {error.message}"
            if srs is None or srs.sha256 != about.srs_sha256:
                return "no key: the keys were made under another SRS"
            named = (self.backend_name(), self.settings, about.logrows, graph, srs.sha256)
            if circuit_digest(*named) != digest:
                return "no key: the keys are of another circuit, or of another release of ezkl"
        return None

    def _carried_out(self, planned: Planned, record: Record) -> CircuitPlan:
        """The plan with the figures of what was made."""
        abouts = [about for d in record.circuits if (about := self.keys.about(d)) is not None]
        largest = max(abouts, key=lambda about: about.rows)
        return replace(
            planned.plan,
            rows=largest.rows,
            logrows=largest.logrows,
            key_bytes=max(about.sizes[PROVING_KEY] for about in abouts),
            circuit_bytes=sum(about.sizes[COMPILED] for about in abouts),
        )

    def _integers(self, part: Slice, inputs: Mapping[str, Array]) -> list[Array]:
        integers = []
        for spec in part.inputs:
            value = inputs.get(spec.name)
            if value is None:
                raise InputError(f"input '{spec.name}' is missing")
            if value.shape != sizes(spec) or value.dtype != np.float32:
                raise InputError(
                    f"input '{spec.name}' is {value.dtype} {value.shape}; "
                    f"the slice takes float32 {sizes(spec)}"
                )
            integers.append(quantise(value, self.settings.scale, spec.name))
        return integers

    def _held(self, part: Slice, digest: str, stack: ExitStack) -> HeldCircuit:
        """The circuit's keys, kept from removal as long as the stack."""
        entry, about = stack.enter_context(self.keys.use(digest)), self.keys.about(digest)
        srs = None if about is None else self.srs.find(about.logrows)
        if entry is None or about is None or srs is None:
            raise EngineUnavailableError(f"{part.name}: the keys are not in the cache")
        return HeldCircuit(entry, about, srs)

    def _parallel(self, pieces: int, logrows: int) -> int:
        """Provers that run at the same time: one a piece and core, as many as memory holds."""
        each = cost.cost_of((1 << logrows) - cost.BLINDING).memory_bytes
        return max(1, min(self._workers, pieces, self._budget // each))

    def _join(
        self, part: Slice, tiling: Tiling, jobs: list[Job], proofs: list[PieceProof]
    ) -> dict[str, Array]:
        """The slice's outputs from the instances of its pieces' proofs."""
        found: list[tuple[Piece, ProofFile]] = []
        for job, one in zip(jobs, proofs, strict=True):
            try:
                proof = read_proof(one.proof)
            except InputError as error:
                # What ezkl wrote, not what the caller gave.
                raise EngineError(f"{part.name}: {error.message}") from None
            given = np.concatenate(job.inputs)
            if len(proof.instances) <= len(given) or not np.array_equal(
                proof.instances[: len(given)], given
            ):
                raise EngineError(f"{part.name}: the proof of {one.piece} is of another input")
            found.append((job.piece, proof))
        if tiling.geometry.kind != "whole":
            taken = len(jobs[0].inputs[0])
            parts = [(piece, proof.instances[taken:]) for piece, proof in found]
            try:
                return self._outputs(part, [assemble(tiling.geometry, parts)])
            except ValueError as error:
                raise EngineError(f"{part.name}: {error}") from None
        rest = found[0][1].instances[sum(map(len, jobs[0].inputs)) :]
        outputs, at = [], 0
        for spec in part.outputs:
            count = math.prod(sizes(spec))
            outputs.append(rest[at : at + count])
            at += count
        return self._outputs(part, outputs)

    def _outputs(self, part: Slice, integers: Sequence[Array]) -> dict[str, Array]:
        if len(integers) != len(part.outputs):
            raise EngineError(f"{part.name}: its circuit gave {len(integers)} outputs")
        return {
            spec.name: dequantise(value, self.settings.scale).reshape(sizes(spec))
            for spec, value in zip(part.outputs, integers, strict=True)
        }

    def _compiled(self, part: Slice) -> Path:
        """The directory of the slice's circuit in one piece, without keys."""
        final = self._records.compiled(part)
        if not (final / COMPILED).exists():
            self._setup.compile(part, final)
        return final

    def _backend(self) -> AbstractContextManager[EzklBackend]:
        """A worker that may use all cores."""
        return self._pool.lend(self._cores)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 4 << 30
