"""Route: engines in order of preference, guards between them, a reason for every step taken.

A step that is unavailable, over a limit, refused by a guard or broken hands over to the next one.
What becomes of an item that no step answered is written in the route as `otherwise`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
import numpy as np

from interlock.kernel.batch import Array, BatchOutcome, read_only
from interlock.kernel.clock import NO_DEADLINE, SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InterlockError,
)
from interlock.kernel.limits import NO_RETRY, RetryPolicy, call_with_retry
from interlock.kernel.outcome import Evidence, Outcome, Status, Step, StepResult, strongest

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

Otherwise = Literal["refuse", "block", "escalate", "record"]
OTHERWISE: tuple[Otherwise, ...] = ("refuse", "block", "escalate", "record")

# A batch keeps the index of each row's step as int8.
_MOST_STEPS = int(np.iinfo(np.int8).max)

# The protocols below are what other rooms and users' own code implement. A change here breaks
# them all; add an optional attribute to `RouteStep` before changing a method.


class Engine(Protocol[In_contra, Out_co]):
    """Answers one input. Must not return after `deadline` if it can help it."""

    def answer(self, item: In_contra, *, deadline: Deadline) -> Out_co:
        """The answer; raises an EngineError where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard says of one answer. `result` is accepted, flagged or refused."""

    result: StepResult = StepResult.ACCEPTED
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()


class Guard(Protocol[In_contra, Out_co]):
    """Looks at an answer and says accept, flag or refuse, with a reason."""

    def check(self, item: In_contra, answer: Any) -> Verdict:
        """The verdict on `answer` to `item`, changing neither.

        An exception costs the answer: the step's result is `error`.
        """
        ...


@dataclass(frozen=True)
class BatchAnswer:
    """An engine's answers to `n` rows: `value` (n, …) and further arrays (n, …) by name.

    All of them are boolean, integer, real or complex. The engines of a route agree on the shape
    of a row and on the dtype's kind, so that no answer is rounded to fit another.
    """

    value: Array
    fields: Mapping[str, Array] = field(default_factory=dict)


class BatchEngine(Protocol):
    """Answers all rows of a batch at once."""

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """The answers, row for row; raises an EngineError where there are none.

        `inputs` are read-only.
        """
        ...


@dataclass(frozen=True)
class BatchVerdict:
    """What a guard says of each row.

    refuse, flag   reason -> (n,) bool; a refusal beats a flag, the first reason given wins
    evidence       stands behind the rows that are not refused
    """

    refuse: Mapping[str, Array] = field(default_factory=dict)
    flag: Mapping[str, Array] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()


class BatchGuard(Protocol):
    """Looks at the answers of a batch, row by row."""

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """The verdict; `inputs` and `answer` are read-only.

        An exception costs every row its answer: the step's result is `error`.
        """
        ...


@dataclass(frozen=True)
class RouteStep:
    """One engine with its guards and limits.

    engine             an Engine, a BatchEngine, or both
    guards             each a Guard or a BatchGuard, as the engine; all of them must agree
    available          says why the engine cannot run now, or None where it can
    size, size_limit   a size of the work (what it counts is the step's own affair), and its limit
    predicted_seconds  a forecast; the engine is not asked where it exceeds `time_limit`
    time_limit         seconds for the whole step; an answer that comes later is not used
    retry              repeats the engine's call after transient errors
    evidence           backs every answer of this step, beside what the guards find
    """

    name: str
    engine: Any
    guards: tuple[Any, ...] = ()
    available: Callable[[], str | None] | None = None
    size: Callable[[Any], float] | None = None
    size_limit: float | None = None
    predicted_seconds: Callable[[Any], float] | None = None
    time_limit: float | None = None
    retry: RetryPolicy = NO_RETRY
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for a step that could never work."""
        if not self.name:
            raise ConfigError("a route's step has no name")
        if not hasattr(self.engine, "answer") and not hasattr(self.engine, "answer_batch"):
            raise ConfigError(
                f"step '{self.name}': the engine has neither answer() nor answer_batch()"
            )
        for guard in self.guards:
            pairs = (("answer", "check"), ("answer_batch", "check_batch"))
            if not any(hasattr(self.engine, a) and hasattr(guard, c) for a, c in pairs):
                raise ConfigError(
                    f"step '{self.name}': the guard {type(guard).__name__} has no "
                    + " or ".join(f"{c}()" for a, c in pairs if hasattr(self.engine, a))
                    + " to look at what the engine answers"
                )
        if not all(isinstance(piece, Evidence) for piece in self.evidence):
            raise ConfigError(f"step '{self.name}': evidence must be a tuple of Evidence")
        for name in ("size_limit", "time_limit"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise ConfigError(f"step '{self.name}': {name} is {limit}; it must be 0 or more")
        if self.size_limit is not None and self.size is None:
            raise ConfigError(f"step '{self.name}': size_limit is set, but nothing gives the size")

    def due(self, deadline: Deadline, clock: Clock) -> Deadline:
        """The caller's deadline or the step's own time limit from now, whichever is earlier."""
        if deadline.at is None:
            return Deadline.after(self.time_limit, clock)
        return deadline.earlier(self.time_limit)


@dataclass(frozen=True)
class Route(Generic[In, Out]):
    """Engines in order, for single items (`run`) and for batches of rows (`run_batch`).

    `otherwise` is the action for items that no step answered. `on_error(step, exception)` sees
    every exception that a step raised; outcomes keep a foreign exception's type only, since its
    message may quote the input. What `on_error` itself raises is not caught.
    """

    name: str
    steps: tuple[RouteStep, ...]
    otherwise: Otherwise
    clock: Clock = SYSTEM_CLOCK
    rng: random.Random = field(default_factory=random.Random)
    on_error: Callable[[str, Exception], None] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for an empty route, a name used twice or an unknown `otherwise`."""
        if not all(isinstance(step, RouteStep) for step in self.steps):
            raise ConfigError(f"route '{self.name}': steps must be a tuple of RouteStep")
        names = [step.name for step in self.steps]
        if len(names) > _MOST_STEPS:
            raise ConfigError(
                f"route '{self.name}' has {len(names)} steps; at most {_MOST_STEPS} are kept apart"
            )
        if not names:
            raise ConfigError(f"route '{self.name}' has no steps")
        if len(set(names)) < len(names):
            raise ConfigError(f"route '{self.name}': two steps share a name in {names}")
        if self.otherwise not in OTHERWISE:
            raise ConfigError(
                f"route '{self.name}': otherwise is {self.otherwise!r}; "
                f"it must be one of {', '.join(OTHERWISE)}"
            )

    def run(self, item: In, *, deadline: Deadline = NO_DEADLINE) -> Outcome[Out]:
        """Answer one item. Never raises for what an engine or a guard does.

        An `item` that is an array is handed on read-only, and an answer that is an array is
        copied before its guards see it, so the engine may reuse its buffer. Raises ConfigError
        where a step works on batches only.
        """
        self.require("answer", "check")
        given: Any = read_only(item) if isinstance(item, np.ndarray) else item
        steps: list[Step] = []
        refused = False
        for step in self.steps:
            taken, answer = self._try(step, given, deadline)
            steps.append(taken)
            if taken.result.answered:
                return Outcome(
                    status=Status(taken.result.value),
                    value=answer,
                    steps=tuple(steps),
                    evidence=strongest(taken.evidence),
                    route=self.name,
                )
            refused = refused or taken.result is StepResult.REFUSED
        return Outcome(
            status=Status.REFUSED if refused else Status.FAILED,
            steps=tuple(steps),
            route=self.name,
            action=self.otherwise,
        )

    def run_batch(
        self, inputs: Mapping[str, Array], *, deadline: Deadline = NO_DEADLINE
    ) -> BatchOutcome:
        """Answer the rows of `inputs` (name -> (n, …)); only rows without an answer go on.

        Raises InputError where the inputs differ in their number of rows, and ConfigError where a
        step works on single items only. Never raises for what an engine or a guard does.
        """
        from interlock.kernel.batch_route import run_batch

        self.require("answer_batch", "check_batch")
        return run_batch(self, inputs, deadline)

    def require(self, answer: str, check: str) -> None:
        """Raise ConfigError unless every engine has the method `answer` and every guard `check`."""
        for step in self.steps:
            if not hasattr(step.engine, answer):
                other = "run_batch" if answer == "answer" else "run"
                raise ConfigError(
                    f"step '{step.name}': the engine has no {answer}()", hint=f"call {other}()"
                )
            for guard in step.guards:
                if not hasattr(guard, check):
                    raise ConfigError(
                        f"step '{step.name}': the guard {type(guard).__name__} has no {check}()"
                    )

    def _try(self, step: RouteStep, item: Any, deadline: Deadline) -> tuple[Step, Any]:
        barred = self.gate(step, item, deadline)
        if barred is not None:
            return Step(step.name, *barred, attempts=0), None
        started = self.clock.monotonic()
        due = step.due(deadline, self.clock)
        attempts = 0

        def ask() -> Any:
            nonlocal attempts
            attempts += 1
            return step.engine.answer(item, deadline=due)

        answer = None
        try:
            answer = call_with_retry(ask, step.retry, clock=self.clock, deadline=due, rng=self.rng)
            if isinstance(answer, np.ndarray):
                answer = answer.copy()
            verdict = _judge(step, item, answer)
        except Exception as error:  # noqa: BLE001 - a broken step must hand over, whatever it raised
            verdict = Verdict(*self.judge_error(step.name, error))
        seconds = self.clock.monotonic() - started
        if verdict.result.answered and late(step, due, seconds):
            verdict = Verdict(StepResult.OVER_TIME, f"the answer took {seconds:.3g} s")
        evidence = verdict.evidence + step.evidence if verdict.result.answered else ()
        return Step(step.name, verdict.result, verdict.reason, seconds, attempts, evidence), answer

    def judge_error(self, step: str, error: Exception) -> tuple[StepResult, str]:
        """The result and the reason kept for an exception, after telling `on_error`."""
        if self.on_error is not None:
            self.on_error(step, error)
        result = StepResult.ERROR
        if isinstance(error, DeadlineError):
            result = StepResult.OVER_TIME
        elif isinstance(error, EngineUnavailableError):
            result = StepResult.UNAVAILABLE
        if isinstance(error, InterlockError):
            return result, f"{error.code}: {error.message}"
        return result, f"raised {type(error).__name__}"

    def gate(self, step: RouteStep, item: Any, deadline: Deadline) -> tuple[StepResult, str] | None:
        """Why `step` must not be asked for `item`, or None where it may be."""
        try:
            barred = _over_limit(step, item, deadline)
        except Exception as error:  # noqa: BLE001 - a broken probe means that it is not available
            return StepResult.UNAVAILABLE, f"its check: {self.judge_error(step.name, error)[1]}"
        if barred is None and deadline.expired:
            return StepResult.OVER_TIME, "the deadline has passed"
        return barred


def _over_limit(step: RouteStep, item: Any, deadline: Deadline) -> tuple[StepResult, str] | None:
    if step.available is not None:
        missing = step.available()
        if missing is not None:
            return StepResult.UNAVAILABLE, checked_text(missing) or "not available"
    if step.size is not None and step.size_limit is not None:
        size = step.size(item)
        if not size <= step.size_limit:
            return StepResult.OVER_SIZE, f"size {size:g} is above {step.size_limit:g}"
    limits = [limit for limit in (step.time_limit, deadline.remaining()) if limit is not None]
    if step.predicted_seconds is not None and limits:
        predicted = step.predicted_seconds(item)
        if not predicted <= min(limits):
            return StepResult.OVER_TIME, f"predicted {predicted:.3g} s, {min(limits):.3g} s left"
    return None


def late(step: RouteStep, due: Deadline, seconds: float) -> bool:
    """Whether an answer came after the step's time limit or the caller's deadline."""
    return due.expired or (step.time_limit is not None and seconds > step.time_limit)


def _judge(step: RouteStep, item: Any, answer: Any) -> Verdict:
    if answer is None:
        return Verdict(StepResult.REFUSED, "the engine returned nothing")
    if not finite(answer):
        return Verdict(StepResult.REFUSED, "the value is not finite")
    shown = read_only(answer) if isinstance(answer, np.ndarray) else answer
    flagged: list[str] = []
    evidence: tuple[Evidence, ...] = ()
    for guard in step.guards:
        verdict = guard.check(item, shown)
        reason = checked_text(verdict.reason)
        if not verdict.result.answered:
            return Verdict(StepResult.REFUSED, reason or NO_REASON)
        if verdict.result is StepResult.FLAGGED:
            flagged.append(reason or NO_REASON)
        evidence += checked_evidence(verdict.evidence)
    result = StepResult.FLAGGED if flagged else StepResult.ACCEPTED
    return Verdict(result, "; ".join(flagged), evidence)


NO_REASON = "no reason given"


def checked_text(reason: Any) -> str:
    """`reason`, which another's code gave; raises EngineError where it is no text."""
    if not isinstance(reason, str):
        raise EngineError(f"a reason is of type {type(reason).__name__}, not text")
    return reason


def checked_evidence(evidence: Any) -> tuple[Evidence, ...]:
    """`evidence`, which another's code gave; raises EngineError where it is none."""
    if not isinstance(evidence, tuple) or not all(isinstance(e, Evidence) for e in evidence):
        raise EngineError("a guard's evidence is not a tuple of Evidence")
    return evidence


def finite(value: Any) -> bool:
    """False for NaN and infinities, alone or in an array, list, tuple, dict or Struct."""
    match value:
        case float():
            return math.isfinite(value)
        case complex():
            return math.isfinite(value.real) and math.isfinite(value.imag)
        case np.ndarray() | np.generic() if value.dtype.kind in "fc":
            return bool(np.isfinite(value).all())
        case list() | tuple():
            return all(finite(item) for item in value)
        case dict():
            return all(finite(item) for item in value.values())
        case msgspec.Struct():
            return all(finite(getattr(value, name)) for name in value.__struct_fields__)
    return True
