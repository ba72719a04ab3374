"""A worker of a `LocalExecutor` that runs in a killable process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from interlock.kernel import frames
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    DeadlineError,
    EngineCrashError,
    EngineUnavailableError,
    InputError,
    InterlockError,
    MemoryLimitError,
)
from interlock.kernel.outcome import Outcome
from interlock.kernel.process import WorkerProcess
from interlock.kernel.task import Completed, Task, failed, load_work, misfit, reason_of

STARTS = 3
"""How often a process that dies while it starts is started again."""

# After any other error the process lives, and has said why there is no answer.
_LOSSES = (DeadlineError, EngineCrashError, EngineUnavailableError, MemoryLimitError)


class ProcessLane:
    """Runs the work named "module:factory" in a process, and replaces it when it dies.

    Items must be JSON-like values with bytes and numpy arrays inside; another one fails with the
    reason `input`, at no cost to those beside it. Outcomes cross as JSON.
    """

    def __init__(
        self,
        work: str,
        options: Mapping[str, Any],
        *,
        memory_limit: int | None = None,
        time_limit: float | None = None,
    ) -> None:
        self._worker = WorkerProcess(
            f"{__name__}:answer",
            options={"work": work, "options": dict(options)},
            memory_limit=memory_limit,
        )
        self._time_limit = time_limit
        self._killed = False

    def start(self) -> None:
        """Start the process if none runs; raises what the factory raised."""
        for attempt in range(1, STARTS + 1):
            try:
                self._worker.start()
                return
            except EngineCrashError:
                if self._killed or attempt == STARTS:
                    raise

    def run(self, task: Task) -> Completed:
        """Run one task; it is lost where the process dies or is killed at the time limit."""
        try:
            reply = self._worker.call(
                {"items": list(task.items)}, deadline=Deadline.after(self._time_limit)
            )
        except InputError as error:
            return self._run_without_odd(task, error)
        except _LOSSES as error:
            return Completed(task, lost=error)
        except InterlockError as error:
            return Completed(task, error=error.code)
        try:
            if reply["error"] is not None:
                return Completed(task, error=str(reply["error"]))
            written = msgspec.json.decode(reply["outcomes"], type=list[msgspec.Raw])
            return Completed(task, tuple(Outcome.from_json(bytes(text)) for text in written))
        except (InterlockError, LookupError, TypeError, ValueError):
            # The process runs foreign code, so what it sends need not be what `answer` made.
            return Completed(task, error="the worker sent no valid outcomes")

    def _run_without_odd(self, task: Task, error: InputError) -> Completed:
        """Run the items that can cross; the others fail."""
        outcomes = [None if _crosses(item) else failed("worker", error.code) for item in task.items]
        places = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if len(places) == len(outcomes):
            return Completed(task, error=error.code)
        if places:
            done = self.run(
                Task(
                    task.id,
                    tuple(task.keys[place] for place in places),
                    tuple(task.items[place] for place in places),
                )
            )
            problem = misfit(done.outcomes or (), len(places))
            if done.lost is not None or problem is not None:
                return Completed(task, error=done.error or problem, lost=done.lost)
            for place, outcome in zip(places, done.outcomes or (), strict=True):
                outcomes[place] = outcome
        return Completed(task, tuple(outcome for outcome in outcomes if outcome is not None))

    def kill(self) -> None:
        """Kill the process; the task that it runs is lost."""
        self._killed = True
        self._worker.kill()

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def answer(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What runs in the process: loads the work and answers groups of items with it."""
    work = load_work(options["work"], options["options"])

    def handle(payload: Mapping[str, Any]) -> dict[str, Any]:
        items = payload["items"]
        try:
            outcomes = tuple(work(items))
            problem = misfit(outcomes, len(items))
            if problem is None:
                # In one piece: large bytes travel beside the message, whose size is limited.
                return {"error": None, "outcomes": b"[%s]" % b",".join(map(_written, outcomes))}
        except MemoryError:
            # What is left of the memory is not to be trusted: the process is replaced.
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it raises must not lose the items
            problem = reason_of(error)
        return {"error": problem, "outcomes": b"[]"}

    return handle


def _written(outcome: Outcome[Any]) -> bytes:
    """The outcome as JSON; one that cannot be written costs its own item, not the others."""
    try:
        return outcome.to_json()
    except InputError as error:
        return failed("record", error.code).to_json()


def _crosses(item: Any) -> bool:
    try:
        frames.encode(item, 0)
    except InputError:
        return False
    return True
