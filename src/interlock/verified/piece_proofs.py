"""Proves the pieces of a slice in worker processes, as many at a time as memory holds."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.replace_file import replace_file
from interlock.verified.ezkl_backend import CircuitSettings, EzklBackend
from interlock.verified.field import dequantise
from interlock.verified.key_store import About
from interlock.verified.proof_system import (
    PROVING_KEY,
    SETTINGS,
    VERIFYING_KEY,
    Statement,
)
from interlock.verified.prover import PieceProof
from interlock.verified.srs import Srs
from interlock.verified.tiling import Piece

# An idle worker that holds more than this is ended: starting another costs a fraction of a second.
_IDLE_BYTES = 256 << 20


@dataclass(frozen=True)
class HeldCircuit:
    """A circuit with its keys on disk, kept from removal, and its SRS."""

    entry: Path
    about: About
    srs: Srs

    def statement(self, proof: bytes) -> Statement:
        """What a verifier gets to check a proof of this circuit."""
        return Statement(
            proof,
            (self.entry / SETTINGS).read_bytes(),
            (self.entry / VERIFYING_KEY).read_bytes(),
            self.srs.of_verifier(),
        )


@dataclass(frozen=True)
class Job:
    """One piece to prove: its circuit's digest, and its inputs as flat integers."""

    piece: Piece
    circuit: str
    inputs: list[Array]


class BackendPool:
    """Worker processes that are lent out and reused. Safe across threads.

    memory_limit  bytes of each; None for no limit
    """

    def __init__(self, settings: CircuitSettings, memory_limit: int | None) -> None:
        self._settings = settings
        self._memory_limit = memory_limit
        self._lock = threading.Lock()
        self._idle: list[EzklBackend] = []

    @contextmanager
    def lend(self, threads: int) -> Iterator[EzklBackend]:
        """A worker that may use so many threads; an idle one, or another."""
        backend = self._take(threads)
        try:
            yield backend
        finally:
            if backend.rss > _IDLE_BYTES:
                backend.close()
            else:
                with self._lock:
                    self._idle.append(backend)

    def close(self) -> None:
        """End the idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for backend in idle:
            backend.close()

    def _take(self, threads: int) -> EzklBackend:
        with self._lock:
            for place, backend in enumerate(self._idle):
                if backend.threads == threads:
                    return self._idle.pop(place)
        return EzklBackend(self._settings, memory_limit=self._memory_limit, threads=threads)


@dataclass(frozen=True)
class PieceProver:
    """Proves jobs with the workers of a pool.

    kept      directory of proofs that an interrupted call made; None keeps none
    on_piece  called after each piece, from any thread
    """

    pool: BackendPool
    scale: int
    kept: Path | None = None
    on_piece: Callable[[PieceProof], None] | None = None

    def prove(
        self,
        jobs: Sequence[Job],
        circuits: Mapping[str, HeldCircuit],
        *,
        workers: int,
        threads: int,
        deadline: Deadline,
    ) -> list[PieceProof]:
        """The proofs in the order of the jobs, with `workers` processes of `threads` each.

        Raises the first error of any; what still runs is killed then, and on Ctrl-C.
        """
        with ExitStack() as stack:
            backends = [stack.enter_context(self.pool.lend(threads)) for _ in range(workers)]
            free, turn = list(backends), threading.Lock()

            def run(job: Job) -> PieceProof:
                with turn:
                    backend = free.pop()
                try:
                    return self._one(backend, job, circuits[job.circuit], deadline)
                finally:
                    with turn:
                        free.append(backend)

            with ThreadPoolExecutor(workers) as executor:
                futures = [executor.submit(run, job) for job in jobs]
                try:
                    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    return [future.result() for future in futures]
                except BaseException:
                    for future in futures:
                        future.cancel()
                    for backend in backends:
                        backend.kill()
                    raise

    def _one(
        self, backend: EzklBackend, job: Job, circuit: HeldCircuit, deadline: Deadline
    ) -> PieceProof:
        deadline.check("proving")
        kept = self._kept_path(job)
        started = time.perf_counter()
        proof = kept.read_bytes() if kept is not None and kept.exists() else None
        if proof is None:
            values = [dequantise(value, self.scale) for value in job.inputs]
            proof = backend.prove(circuit.entry, circuit.srs.path, values, deadline=deadline)
            if kept is not None:
                replace_file(kept, proof, parents=True)
        done = PieceProof(
            piece=job.piece.name,
            circuit=job.circuit,
            proof=proof,
            seconds=time.perf_counter() - started,
            key_bytes=circuit.about.sizes[PROVING_KEY],
        )
        if self.on_piece is not None:
            self.on_piece(done)
        return done

    def _kept_path(self, job: Job) -> Path | None:
        """Where the proof of a piece is kept: named by all that it states."""
        if self.kept is None:
            return None
        digest = hashlib.sha256(job.circuit.encode())
        for value in job.inputs:
            digest.update(value.astype("<i8").tobytes())
        return self.kept / f"{digest.hexdigest()}.json"
