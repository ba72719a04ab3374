"""What the server serves: something that names its tensors, answers them, and can be checked."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from interlock.bundle.metadata import TensorSpec
from interlock.engines.process_pool import ProcessPool
from interlock.kernel.batch import RESULT_CODE, Array, BatchOutcome
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError, InputError
from interlock.kernel.outcome import Outcome, Status, Step, StepResult

_BROKEN = (RESULT_CODE[StepResult.ERROR], RESULT_CODE[StepResult.OVER_TIME])


@dataclass(frozen=True)
class Detection:
    """What a detector saw in one text.

    score               None where nothing judged it
    by_rules, by_model  whether rules and model saw an attack
    document            all that it says, as JSON without any part of the text
    timings             stage -> milliseconds
    """

    score: float | None
    by_rules: bool
    by_model: bool
    document: bytes
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """An outcome and the tensors that go with it.

    outcome  of all rows, or of the request as one item
    outputs  name -> array; of a batch, the first axis counts its rows. Floats are NaN in rows
             without an answer, unless the output is one of `Served.diagnostics`. Empty where the
             outcome is of one item that was not answered
    detections
             of a detector, one a row; empty where no process answered
    """

    outcome: BatchOutcome | Outcome[Any]
    outputs: Mapping[str, Array]
    detections: tuple[Detection, ...] = ()

    @functools.cached_property
    def summary(self) -> Outcome[Any]:
        """The outcome as one, of a batch its summary."""
        outcome = self.outcome
        return outcome.summary() if isinstance(outcome, BatchOutcome) else outcome

    @property
    def lost(self) -> bool:
        """Whether no engine answered any of it."""
        if isinstance(self.outcome, BatchOutcome):
            return not self.outcome.status.any()
        return self.outcome.status is Status.FAILED

    @property
    def broken(self) -> bool:
        """Whether a row got no answer and a step broke on the rows that it was asked about.

        Which of them did it nobody knows; alone, the others may get one.
        """
        if not isinstance(self.outcome, BatchOutcome):
            return False
        results = self.outcome.results[:, ~self.outcome.answered]
        return any(bool(np.equal(results, code).any()) for code in _BROKEN)

    def part(self, start: int, stop: int) -> Answer:
        """Rows `start` to `stop - 1`; raises EngineError for an answer that is not by rows."""
        if not isinstance(self.outcome, BatchOutcome):
            raise EngineError("an answer to one item has no rows")
        outputs = {name: array[start:stop] for name, array in self.outputs.items()}
        return Answer(self.outcome.part(start, stop), outputs, self.detections[start:stop])


class Served(Protocol):
    """A model behind HTTP. Its methods are called from several threads at once.

    name, version, platform
                 as the Open Inference Protocol shows them; `version` is the digest of what runs
    inputs       what it takes
    outputs      what it gives
    diagnostics  names of outputs that explain a refusal, and so may be read where there is no
                 answer, such as masks
    by_rows      whether the first axis of every tensor counts rows that are judged one by one
    mergeable    whether rows of several requests may be answered together
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def diagnostics(self) -> frozenset[str]: ...
    @property
    def by_rows(self) -> bool: ...
    @property
    def mergeable(self) -> bool: ...

    def start(self, deadline: Deadline) -> None:
        """Load everything and run the self-test; raises the error that keeps it from serving."""
        ...

    def check(self, inputs: Mapping[str, Array]) -> int:
        """The number of rows, 1 for a request that is one item; raises InputError naming a tensor.

        Runs before the request is queued, so it must be quick and must not run the model.
        """
        ...

    def infer(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> Answer:
        """The answer to checked inputs. Does not raise for what an engine does."""
        ...

    def canary(self, *, deadline: Deadline) -> None:
        """One real inference whose answer is known; raises where it does not come, or differs."""
        ...

    def workers(self) -> Workers:
        """The processes that run it, as they are now."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...


@dataclass(frozen=True)
class Workers:
    """Processes of a model: their ids and resident bytes together; CPU seconds of all that there
    ever were, and how many were replaced.

    largest  resident bytes of the largest of them
    fault    why one cannot be replaced, such as files that are no longer those of the start
    waiting  requests that wait for a process behind the lane
    running  requests being answered, those of the lane among them; None where no others are
    """

    pids: tuple[int, ...] = ()
    rss: int = 0
    cpu: float = 0.0
    replaced: int = 0
    waiting: int = 0
    running: int | None = None
    largest: int = 0
    fault: str = ""


def workers_of(pool: ProcessPool) -> Workers:
    """The processes of `pool`, as they are now."""
    return Workers(
        pool.pids,
        pool.rss,
        pool.cpu_seconds,
        pool.replaced,
        largest=pool.largest,
        fault=pool.fault,
    )


def step_document(step: Step) -> dict[str, Any]:
    """A step of an outcome as clients read it; the evidence stands beside the steps."""
    return {
        "name": step.name,
        "result": str(step.result),
        "reason": step.reason,
        "seconds": step.seconds,
        "attempts": step.attempts,
    }


def check_inputs(specs: tuple[TensorSpec, ...], inputs: Mapping[str, Array], rows: bool) -> int:
    """Raise InputError, naming the tensor, for a wrong name, dtype or shape; the number of rows.

    rows  whether the first axis counts rows; it must have one at least
    """
    known = {spec.name for spec in specs}
    for name in inputs:
        if name not in known:
            raise InputError(
                f"input {name[:200]!r} is unknown", hint=f"the model takes {', '.join(known)}"
            )
    sizes: dict[str, int] = {}
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            raise InputError(f"input '{spec.name}' is missing")
        dtype = name_of(array.dtype)
        if dtype != spec.dtype:
            raise InputError(f"input '{spec.name}' has dtype {dtype}; the model takes {spec.dtype}")
        fits = array.ndim == len(spec.shape) and all(
            size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
            for dim, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"input '{spec.name}' has shape {list(array.shape)}; "
                f"the model takes {list(spec.shape)}"
            )
        if rows and array.shape[0] == 0:
            raise InputError(f"input '{spec.name}' has no rows")
    return next(iter(inputs.values())).shape[0] if rows else 1


@functools.lru_cache(maxsize=64)
def name_of(dtype: np.dtype[Any]) -> str:
    """The dtype's name as bundles write it, "string" for text; NumPy takes 10 µs to make one."""
    return "string" if dtype.kind in "OU" else str(dtype.name)


def agrees(found: Array, expected: Array, rtol: float, atol: float) -> bool:
    """Whether `found` is `expected`: floats within the tolerances, the rest and NaN exactly."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype.kind in "fc":
        return bool(np.isclose(found, expected, rtol=rtol, atol=atol, equal_nan=True).all())
    return bool(np.array_equal(found, expected))
