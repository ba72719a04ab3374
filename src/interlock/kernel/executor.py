"""Where items run: local threads or processes, behind a Protocol that other engines can satisfy.

An executor runs tasks and hands back what became of each. It knows nothing of runs, journals or
order; `interlock.kernel.drive` does, and talks to the executor from one thread only.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    ConfigError,
    EngineCrashError,
    EngineUnavailableError,
    InterlockError,
)
from interlock.kernel.process_lane import ProcessLane
from interlock.kernel.task import Completed, Task, Work, attempt, load_work, reason_of

Kind = Literal["threads", "processes"]


# Other places to run items implement this Protocol. A change here breaks them.


class Executor(Protocol):
    """Runs tasks, at most `capacity` at a time, those that wait for a worker included.

    All methods are called from one thread.
    """

    @property
    def capacity(self) -> int:
        """The number of tasks that may be submitted and not yet completed.

        It may change over time; a smaller one lets no new tasks in until enough have ended.
        """
        ...

    def submit(self, task: Task) -> None:
        """Take a task on; does not wait for it."""
        ...

    def completed(self, timeout: float | None) -> list[Completed]:
        """The tasks that ended since the last call, each of them once.

        Waits until there is one, `timeout` seconds have passed, or nothing is in flight.
        Raises an InterlockError where no further task can be run.
        """
        ...

    def cancel(self) -> None:
        """Drop the tasks that wait and kill those that run, where the workers can be killed."""
        ...

    def close(self) -> None:
        """Release the workers. Waits for running tasks, unless they were cancelled."""
        ...


class Lane(Protocol):
    """One worker of a `LocalExecutor`: runs a task at a time."""

    def start(self) -> None:
        """Get ready; raises an InterlockError where that is impossible."""
        ...

    def run(self, task: Task) -> Completed:
        """Run one task. Never raises for what the work does."""
        ...

    def kill(self) -> None:
        """End the running task, if that can be done. Called from another thread."""
        ...

    def close(self) -> None:
        """Release what the lane holds."""
        ...


class LocalExecutor:
    """Workers on this machine.

    work          a callable for threads; for processes (and, if wished, threads) the name
                  "module:factory" of a function that takes `options` and returns the callable
    workers       how many run at once
    queued        tasks that may wait for a free worker, as many as `workers` by default
    memory_limit  bytes a worker process may use; None for no limit
    time_limit    seconds that a task may take in a process before the worker is killed

    A worker process that dies costs the items of its own task only, and is replaced.
    Raises ConfigError for options that cannot work, before anything runs.
    """

    def __init__(
        self,
        work: Work | str,
        *,
        workers: int = 1,
        kind: Kind = "threads",
        queued: int | None = None,
        options: Mapping[str, Any] | None = None,
        memory_limit: int | None = None,
        time_limit: float | None = None,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}; it must be 1 or more")
        if queued is not None and queued < 0:
            raise ConfigError(f"queued is {queued}; it must be 0 or more")
        if time_limit is not None and not time_limit > 0:
            raise ConfigError(f"time_limit is {time_limit}; it must be above 0 seconds")
        self.capacity = workers + (workers if queued is None else queued)
        self._lanes = _lanes(work, workers, kind, dict(options or {}), memory_limit, time_limit)
        # SimpleQueue, since its put never blocks: a lane can always hand its result over.
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Completed | InterlockError] = queue.SimpleQueue()
        self._in_flight = 0
        self._started = False
        self._cancelled = False
        self._closed = False
        # The first lane starts here, so that work which cannot be loaded stops before any item.
        self._lanes[0].start()
        # Daemons, since work that hangs in a thread must not keep the interpreter alive.
        self._threads = [
            threading.Thread(
                target=self._serve, args=(lane,), name=f"interlock-worker-{n}", daemon=True
            )
            for n, lane in enumerate(self._lanes)
        ]

    def submit(self, task: Task) -> None:
        """Take a task on; raises ValueError above the capacity or after the end."""
        if self._cancelled or self._closed:
            raise ValueError("the executor takes no more tasks")
        if self._in_flight >= self.capacity:
            raise ValueError(f"{self._in_flight} tasks are in flight, the capacity")
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        self._in_flight += 1
        self._inbox.put(task)

    def completed(self, timeout: float | None) -> list[Completed]:
        """See `Executor.completed`."""
        done: list[Completed] = []
        while self._in_flight:
            try:
                # After a cancellation there may be nothing to come, so it never waits then.
                wait = not done and not self._cancelled
                found = self._outbox.get(block=wait, timeout=timeout if wait else None)
            except queue.Empty:
                break
            if isinstance(found, InterlockError):
                if done:
                    self._outbox.put(found)
                    break
                raise found
            self._in_flight -= 1
            done.append(found)
        return done

    def cancel(self) -> None:
        """Drop what waits and kill worker processes; threads run on, and their results are lost."""
        self._cancelled = True
        _drain(self._inbox)
        for lane in self._lanes:
            lane.kill()

    def close(self) -> None:
        """Release the workers; waits for running tasks unless they were cancelled."""
        if self._closed:
            return
        self._closed = True
        if not self._started:
            self._lanes[0].close()
            return
        for _ in self._threads:
            self._inbox.put(None)
        self._join(_CANCELLED_JOIN if self._cancelled else None)
        for lane, thread in zip(self._lanes, self._threads, strict=True):
            if thread.is_alive():
                # A process that was just being started when the others were killed.
                lane.kill()
        self._join(_CANCELLED_JOIN)

    def _join(self, seconds: float | None) -> None:
        """Wait for the threads, so long at most in all; those that hang in foreign code stay."""
        end = Deadline.after(seconds)
        for thread in self._threads:
            thread.join(timeout=end.remaining())

    def __enter__(self) -> Self:
        """The executor itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; after an exception, cancel first."""
        if kind is not None:
            self.cancel()
        self.close()

    def _serve(self, lane: Lane) -> None:
        try:
            while (task := self._inbox.get()) is not None:
                try:
                    lane.start()
                except Exception as error:  # noqa: BLE001 - a silent thread would leave the driver waiting
                    self._outbox.put(_no_worker(error))
                    return
                if self._cancelled:
                    return
                try:
                    done = lane.run(task)
                except BaseException as error:  # noqa: BLE001 - nor may a task vanish with its lane
                    done = Completed(task, lost=EngineCrashError(reason_of(error)))
                self._outbox.put(done)
        finally:
            lane.close()


_CANCELLED_JOIN = 0.5


def _no_worker(error: Exception) -> InterlockError:
    if isinstance(error, InterlockError):
        return error
    return EngineUnavailableError(f"no worker can be started: {reason_of(error)}")


def _drain(inbox: queue.SimpleQueue[Task | None]) -> None:
    while True:
        try:
            inbox.get_nowait()
        except queue.Empty:
            return


def _lanes(
    work: Work | str,
    workers: int,
    kind: Kind,
    options: dict[str, Any],
    memory_limit: int | None,
    time_limit: float | None,
) -> list[Lane]:
    if kind == "processes":
        if not isinstance(work, str):
            raise ConfigError(
                "work is a callable; processes need the name of a factory",
                hint="give work as 'module:factory', a function that returns the callable",
            )
        return [
            ProcessLane(work, options, memory_limit=memory_limit, time_limit=time_limit)
            for _ in range(workers)
        ]
    if kind != "threads":
        raise ConfigError(f"kind is {kind!r}; it must be 'threads' or 'processes'")
    if memory_limit is not None or time_limit is not None:
        raise ConfigError(
            "memory_limit and time_limit need kind='processes'; a thread cannot be killed"
        )
    if isinstance(work, str):
        work = load_work(work, options)
    elif options:
        raise ConfigError("options are for a named factory; work is a callable")
    return [ThreadLane(work) for _ in range(workers)]


class ThreadLane:
    """Runs the work in the thread that calls."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def start(self) -> None:
        """Nothing to get ready."""

    def run(self, task: Task) -> Completed:
        """Run the work; whatever it raises becomes the task's error."""
        return attempt(self._work, task)

    def kill(self) -> None:
        """Nothing can end a thread."""

    def close(self) -> None:
        """Nothing to release."""
