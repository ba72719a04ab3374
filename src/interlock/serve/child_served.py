"""Routes and verified models behind HTTP: the whole of them runs in killable processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from interlock.bundle.metadata import TensorSpec
from interlock.engines.process_pool import ProcessPool
from interlock.kernel.batch import Array, BatchOutcome
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    BundleIntegrityError,
    EngineCrashError,
    EngineError,
    InputError,
    InterlockError,
)
from interlock.kernel.outcome import Outcome
from interlock.serve.child import failed
from interlock.serve.served import Answer, Workers, check_inputs, workers_of
from interlock.serve.settings import ModelSettings

_TARGETS = {
    "route": "interlock.serve.child:load_route",
    "verified": "interlock.serve.child:load_verified",
}


class _Description(msgspec.Struct, frozen=True):
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass
class ChildServed:
    """A route over rows, or a verified model whose request is one item. See `Served`.

    What it takes and gives is known once `start` has asked its process.
    """

    name: str
    kind: Literal["route", "verified"]
    pool: ProcessPool
    mergeable: bool
    call_seconds: float
    expected_digest: str | None = None
    version: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    diagnostics: frozenset[str] = frozenset()
    example: Mapping[str, Array] | None = None

    @property
    def platform(self) -> str:
        """As the Open Inference Protocol shows it."""
        return f"interlock_{self.kind}"

    @property
    def by_rows(self) -> bool:
        """Whether the first axis counts rows."""
        return self.kind == "route"

    def start(self, deadline: Deadline) -> None:
        """See `Served.start`."""
        self.pool.start(deadline, 1)
        told = self.pool.call({"do": "describe"}, deadline=deadline)
        try:
            found = _Description(
                version=told["version"],
                inputs=tuple(TensorSpec(n, d, tuple(s)) for n, d, s in told["inputs"]),
                outputs=tuple(TensorSpec(n, d, tuple(s)) for n, d, s in told["outputs"]),
            )
            self.example = told["example"]
        except (KeyError, TypeError, ValueError):
            raise EngineCrashError(f"{self.name}: its process sent no valid description") from None
        if self.expected_digest not in (None, found.version):
            raise BundleIntegrityError(
                f"{self.name}: its digest is {found.version}, expected {self.expected_digest}"
            )
        self.version, self.inputs, self.outputs = found.version, found.inputs, found.outputs
        # Every other process, and each replacement, reads the files again; they may be others then.
        self.pool.amend(expected_digest=found.version)
        self.pool.start(deadline)
        if self.example is None:
            self.example = {spec.name: _ones(spec) for spec in self.inputs}
        self.canary(deadline=deadline)

    def check(self, inputs: Mapping[str, Array]) -> int:
        """See `Served.check`; a verified model takes finite values only."""
        rows = check_inputs(self.inputs, inputs, self.by_rows)
        if self.kind == "verified":
            for name, array in inputs.items():
                _check_finite(name, array)
        return rows

    def infer(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> Answer:
        """See `Served.infer`; where the process gave no outcome, one is made that says why."""
        try:
            return self._ask(inputs, deadline, keep=True)
        except InterlockError as error:
            return Answer(failed(self.name, error), {})

    def canary(self, *, deadline: Deadline) -> None:
        """See `Served.canary`: the model's example, or ones. An answer must come, accepted or not.

        A guard may refuse such inputs, rightly; that some engine answered is what is looked at.
        """
        assert self.example is not None
        answer = self._ask(self.example, deadline)
        if answer.lost:
            raise EngineError(f"{self.name}: {'; '.join(answer.summary.reasons)}")

    def workers(self) -> Workers:
        """See `Served.workers`."""
        return workers_of(self.pool)

    def close(self) -> None:
        """See `Served.close`."""
        self.pool.close()

    def _ask(
        self, inputs: Mapping[str, Array], deadline: Deadline, *, keep: bool = False
    ) -> Answer:
        """The process's answer; `keep` asks a verified model to keep what it proves of it."""
        due = deadline.earlier(self.call_seconds)
        call = {"do": "infer", "inputs": dict(inputs), "seconds": due.remaining(), "keep": keep}
        told = self.pool.call(call, deadline=due)
        if not isinstance(told, bytes):
            raise EngineCrashError(f"{self.name}: its process sent no outcome")
        try:
            if self.by_rows:
                batch = BatchOutcome.from_json(told)
                if len(batch) != next(iter(inputs.values())).shape[0]:
                    raise InputError("not the rows that were asked")
                return Answer(batch, {self.outputs[0].name: batch.value})
            single = Outcome.from_json(told)
            return Answer(single, self._tensors(single))
        except InputError as error:
            raise EngineCrashError(
                f"{self.name}: its process sent no valid outcome: {error.message}"
            ) from None

    def _tensors(self, single: Outcome[Any]) -> dict[str, Array]:
        if not single.status.usable:
            return {}
        value = single.value
        names = {spec.name for spec in self.outputs}
        if (
            not isinstance(value, dict)
            or set(value) != names
            or not all(isinstance(array, np.ndarray) for array in value.values())
        ):
            raise InputError("its value lacks an output")
        return value


def child_served(
    name: str, kind: Literal["route", "verified"], settings: ModelSettings, source: str, base: Path
) -> ChildServed:
    """The route or the verified model at `source`; it is read when it starts."""
    pool = ProcessPool(
        _TARGETS[kind],
        options={
            "source": source,
            "base": str(base),
            "mode": settings.mode,
            "proofs": None if settings.proofs is None else str((base / settings.proofs).resolve()),
        },
        size=settings.workers,
        memory_limit=settings.memory_limit,
        call_seconds=settings.call_seconds,
        name=name,
    )
    return ChildServed(
        name=name,
        kind=kind,
        pool=pool,
        mergeable=kind == "route" and bool(settings.merge),
        call_seconds=settings.call_seconds,
        expected_digest=settings.expected_digest,
    )


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(array)))
        raise InputError(f"input '{name}' is {array[place]} at {place}; it must be finite")


def _ones(spec: TensorSpec) -> Array:
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    return np.ones(shape, dtype=spec.dtype)
