"""A worker of a `LocalExecutor` that runs in a killable process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineCrashError, InputError, InterlockError
from interlock.kernel.outcome import Outcome
from interlock.kernel.process import WorkerProcess
from interlock.kernel.task import Completed, Task, load_work, misfit, reason_of

STARTS = 3
"""How often a process that dies while it starts is started again."""


class ProcessLane:
    """Runs the work named "module:factory" in a process, and replaces it when it dies.

    Items must be JSON-like values with bytes and numpy arrays inside; other ones fail with the
    reason `input`. Outcomes cross as JSON.
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
            return Completed(task, error=error.code)
        except InterlockError as error:
            return Completed(task, lost=error)
        try:
            if reply["error"] is not None:
                return Completed(task, error=str(reply["error"]))
            return Completed(task, tuple(Outcome.from_json(text) for text in reply["outcomes"]))
        except (InterlockError, LookupError, TypeError, ValueError):
            # The process runs foreign code, so what it sends need not be what `answer` made.
            return Completed(task, error="the worker sent no valid outcomes")

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
                return {"error": None, "outcomes": [outcome.to_json() for outcome in outcomes]}
        except MemoryError:
            # What is left of the memory is not to be trusted: the process is replaced.
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it raises must not lose the items
            problem = reason_of(error)
        return {"error": problem, "outcomes": []}

    return handle
