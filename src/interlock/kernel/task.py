"""Tasks: groups of items that one worker answers together, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interlock.kernel.errors import ConfigError, InterlockError
from interlock.kernel.outcome import Outcome, Status, Step, StepResult

Work = Callable[[Sequence[Any]], Sequence[Outcome[Any]]]
"""Answers a small group of items: one outcome an item, in the order of the items."""


@dataclass(frozen=True, slots=True)
class Task:
    """A group of items that one worker answers together. `id` is unique within a run."""

    id: int
    keys: tuple[str, ...]
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """What became of a task: exactly one of the three.

    outcomes  one an item, as the work returned them
    error     the work raised: the error's code or type, never its text
    lost      the worker died or was killed, so which item did it is not known
    """

    task: Task
    outcomes: tuple[Outcome[Any], ...] | None = None
    error: str | None = None
    lost: InterlockError | None = None


def load_work(name: str, options: Mapping[str, Any]) -> Work:
    """The callable that the factory `name` ("module:function") makes from `options`.

    Raises ConfigError where there is no such factory or it returns something else.
    """
    import importlib

    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise ConfigError(f"work is {name!r}; it must have the form 'module:factory'")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"work {name!r} cannot be loaded: {type(error).__name__}") from error
    work = factory(**options)
    if not callable(work):
        raise ConfigError(f"work {name!r} returned {type(work).__name__}, not a callable")
    return work  # type: ignore[no-any-return]


def attempt(work: Work, task: Task) -> Completed:
    """Run `work` on the task's items; an exception or a wrong result is the task's error."""
    try:
        outcomes = tuple(work(task.items))
    except BaseException as error:  # noqa: BLE001 - SystemExit too must not lose the items
        return Completed(task, error=reason_of(error))
    problem = misfit(outcomes, len(task.items))
    return Completed(task, error=problem) if problem else Completed(task, outcomes)


def misfit(outcomes: Sequence[Any], items: int) -> str | None:
    """Why `outcomes` cannot be the answer to so many items, or None where they can."""
    if len(outcomes) != items:
        return f"the work returned {len(outcomes)} outcomes for {items} items"
    for outcome in outcomes:
        if not isinstance(outcome, Outcome):
            return f"the work returned {type(outcome).__name__} where an Outcome was due"
    return None


def reason_of(error: BaseException) -> str:
    """What is kept of an exception: its code or its type, since its text may quote the input."""
    if isinstance(error, InterlockError):
        return error.code
    return f"raised {type(error).__name__}"


def failed(step: str, reason: str, attempts: int = 1) -> Outcome[Any]:
    """The outcome of an item that nothing could answer."""
    return Outcome(Status.FAILED, steps=(Step(step, StepResult.ERROR, reason, attempts=attempts),))
