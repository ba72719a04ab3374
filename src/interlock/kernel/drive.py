"""The driver: takes a run's pending items to an executor and alone writes what became of them.

What `RunLog.record` returned from is acknowledged and survives a crash; an item in flight at a
crash is sent again on resuming. All writing is done by the thread that calls `drive`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, Protocol

from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.dispatch import Dispatcher, Result
from interlock.kernel.errors import ConfigError, InputError, InterruptedRunError
from interlock.kernel.executor import Executor, Kind, LocalExecutor
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.progress import SILENT, Progress
from interlock.kernel.task import Work, failed

# Where the terminal is closed, which Windows does not tell.
_CLOSED = getattr(signal, "SIGHUP", None)
_STOPS = [number for number in (signal.SIGINT, signal.SIGTERM, _CLOSED) if number is not None]

TICK = 0.1
"""Seconds after which the driver looks for a request to stop, even if no task ends."""


class RunLog(Protocol):
    """The durable record of one run, as the driver uses it."""

    @property
    def run_id(self) -> str:
        """The run's name."""
        ...

    def pending(self) -> Iterator[str]:
        """The keys without an outcome, in input order, read lazily while outcomes are recorded."""
        ...

    def begin(self, keys: Sequence[str]) -> None:
        """Note that these items are about to be sent; counts as an attempt of each."""
        ...

    def record(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        """Write the outcomes in one transaction; they are durable once it returns.

        Raises StorageError, having written none of them, where the write fails, and InputError
        where an outcome cannot be written as JSON.
        """
        ...

    def finish(self, state: Literal["done", "interrupted"]) -> None:
        """Note how the drive ended."""
        ...


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What one drive did; the items that earlier drives recorded are not in it.

    counts    items recorded, by status
    sent      items handed to workers, repeats after a lost worker included
    lost      tasks whose worker died
    seconds   duration by the monotonic clock
    """

    run_id: str
    counts: Mapping[Status, int]
    sent: int
    lost: int
    seconds: float

    @property
    def recorded(self) -> int:
        """Items that ended in this drive."""
        return sum(self.counts.values())


def drive(
    log: RunLog,
    load: Callable[[str], Any],
    executor: Executor,
    *,
    batch: int = 1,
    ordered: bool = False,
    max_crashes: int = 2,
    progress: Progress = SILENT,
    stop: threading.Event | None = None,
    grace: float = 10.0,
    clock: Clock = SYSTEM_CLOCK,
    on_result: Callable[[str, Outcome[Any]], None] | None = None,
) -> RunSummary:
    """Run every pending item of `log` on `executor`, and record each outcome once.

    load         gives the item for a key; where it raises, the item fails
    batch        items that a worker answers together
    ordered      give results to `on_result` in input order, else as they end
    max_crashes  an item whose worker dies is tried again alone, until this many workers were lost
    stop         set it, from any thread, to stop as by Ctrl-C
    grace        seconds that items in flight get to end after a request to stop
    on_result    called with each key and outcome after it was recorded, at most once; after an
                 interruption the log alone has those that were still held back to be in order

    An executor with a method `give_back()` is told of a stop by it: tasks that it has not begun it
    should hand back, as lost and retryable, and they stay pending without the grace.

    In the main thread SIGINT, SIGTERM and SIGHUP stop the run, unless they are ignored: nothing
    more is sent, and what is in flight is recorded if it ends within `grace`. The second one stops
    at once; SIGHUP, which comes more than once, is never the second. Either way the log is finished
    as "interrupted", InterruptedRunError is raised, and the run can be resumed; a third one raises
    KeyboardInterrupt wherever the driver is, with nothing acknowledged lost.
    A run whose last items end within the grace is done. The executor stays the caller's to close.

    Raises StorageError as soon as a write fails; what was recorded before stays.
    """
    run = _Drive(log, executor, progress, clock, on_result)
    run.dispatcher = Dispatcher(
        iter(log.pending()),
        load,
        capacity=executor.capacity,
        batch=batch,
        max_crashes=max_crashes,
        ordered=ordered,
    )
    try:
        with _stop_requests(stop) as requests:
            if not run.until_done(requests):
                run.wind_down(requests, grace)
            done = run.dispatcher.exhausted()
            log.finish("done" if done else "interrupted")
    finally:
        # Tasks left behind would be taken for those of the next run on the same executor.
        if run.dispatcher.in_flight:
            executor.cancel()
    if done:
        return run.summary()
    summary = run.summary()
    raise InterruptedRunError(
        f"run '{log.run_id}' was interrupted after {summary.recorded} items of this start"
    )


class _Drive:
    """One pass over a run's pending items."""

    dispatcher: Dispatcher

    def __init__(
        self,
        log: RunLog,
        executor: Executor,
        progress: Progress,
        clock: Clock,
        on_result: Callable[[str, Outcome[Any]], None] | None,
    ) -> None:
        self._log = log
        self._executor = executor
        self._progress = progress
        self._clock = clock
        self._on_result = on_result
        self._started = clock.monotonic()
        self._counts = dict.fromkeys(Status, 0)
        self._sent = 0

    def until_done(self, requests: _StopRequests) -> bool:
        """Send and collect until nothing is left (True) or a stop is asked for (False)."""
        while not requests.pending:
            # Read anew at each turn: an executor may find its level as it goes.
            self.dispatcher.capacity = self._executor.capacity
            prepared = self.dispatcher.prepare()
            self._keep(prepared.unloadable)
            if prepared.tasks:
                keys = [key for task in prepared.tasks for key in task.keys]
                self._log.begin(keys)
                self._sent += len(keys)
                for task in prepared.tasks:
                    self._executor.submit(task)
            if self.dispatcher.in_flight:
                self._collect(TICK)
            elif self.dispatcher.exhausted():
                return True
        return False

    def wind_down(self, requests: _StopRequests, grace: float) -> None:
        """Collect what is in flight until it ended, the grace is over or a second request came."""
        give_back = getattr(self._executor, "give_back", None)
        if give_back is not None:
            give_back()
        if self.dispatcher.in_flight:
            self._progress.note(
                f"stopping: {self.dispatcher.in_flight} tasks in flight get {grace:g} s to end; "
                "press Ctrl-C again to stop at once"
            )
        end = self._clock.monotonic() + grace
        while self.dispatcher.in_flight and not requests.urgent:
            left = end - self._clock.monotonic()
            if left <= 0:
                break
            self._collect(min(TICK, left))
        if self.dispatcher.in_flight:
            self._collect(0.0)

    def summary(self) -> RunSummary:
        """What was done so far."""
        return RunSummary(
            run_id=self._log.run_id,
            counts=dict(self._counts),
            sent=self._sent,
            lost=self.dispatcher.lost,
            seconds=self._clock.monotonic() - self._started,
        )

    def _collect(self, timeout: float) -> None:
        """Record all results of one wake-up in one transaction."""
        self._keep(
            [
                result
                for done in self._executor.completed(timeout)
                for result in self.dispatcher.settle(done)
            ]
        )

    def _keep(self, results: list[Result]) -> None:
        if not results:
            return
        results = self._record(results)
        counts = dict.fromkeys(Status, 0)
        for result in results:
            counts[result.outcome.status] += 1
            self._counts[result.outcome.status] += 1
        self._progress.advance(counts)
        for result in self.dispatcher.release(results):
            if self._on_result is not None:
                self._on_result(result.key, result.outcome)

    def _record(self, results: list[Result]) -> list[Result]:
        try:
            self._log.record([(result.key, result.outcome) for result in results])
        except InputError:
            # One value that cannot be written must cost its own item, not the others or the run.
            results = [_writable(result) for result in results]
            self._log.record([(result.key, result.outcome) for result in results])
        return results


def _writable(result: Result) -> Result:
    try:
        result.outcome.to_json()
    except (InputError, TypeError, ValueError):
        return Result(result.position, result.key, failed("record", InputError.code))
    return result


class _StopRequests:
    """How often a stop was asked for."""

    def __init__(self, event: threading.Event | None) -> None:
        self._event = event
        self._signals = 0
        self._closed = False  # the terminal, or the session

    @property
    def pending(self) -> bool:
        """Whether the run should stop."""
        asked = self._signals > 0 or self._closed
        return asked or (self._event is not None and self._event.is_set())

    @property
    def urgent(self) -> bool:
        """Whether it should stop at once."""
        return self._signals > 1

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Count a signal; the third one raises, as the caller's code may hang.

        A closed terminal is told once by its shell and once by the system, and the end of a session
        right behind its SIGTERM. Nobody says so in a hurry, so none of it is a second request.
        """
        if number == _CLOSED:
            self._closed = True
            return
        self._signals += 1
        if self._signals > 2:
            raise KeyboardInterrupt


@contextmanager
def _stop_requests(event: threading.Event | None) -> Iterator[_StopRequests]:
    """Listen to `_STOPS` where this is the main thread, and restore what was there.

    A signal that is ignored stays so: shells start background jobs with SIGINT ignored, and nohup
    its command with SIGHUP.
    """
    requests = _StopRequests(event)
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before: dict[signal.Signals, Any] = {}
    try:
        for number in _STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, requests.on_signal)
        yield requests
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def run_items(
    work: Work | str,
    items: Iterable[Any],
    *,
    workers: int = 1,
    kind: Kind = "threads",
    batch: int = 1,
    ordered: bool = True,
    max_crashes: int = 2,
    options: Mapping[str, Any] | None = None,
    memory_limit: int | None = None,
    time_limit: float | None = None,
) -> Generator[Outcome[Any], None, None]:
    """The outcomes of `items`, without a journal: lazily, with bounded memory.

    They come in the order of `items`, or as they end with `ordered=False`. `items` is read as
    capacity allows. Closing the iterator early cancels what is in flight. For the other arguments
    see `LocalExecutor` and `drive`; wrong ones raise ConfigError at the call.
    """
    if batch < 1 or max_crashes < 1:
        raise ConfigError(f"batch is {batch} and max_crashes {max_crashes}; both must be 1 or more")
    executor = LocalExecutor(
        work,
        workers=workers,
        kind=kind,
        options=options,
        memory_limit=memory_limit,
        time_limit=time_limit,
    )
    return _outcomes(executor, items, batch, ordered, max_crashes)


def _outcomes(
    executor: LocalExecutor, items: Iterable[Any], batch: int, ordered: bool, max_crashes: int
) -> Generator[Outcome[Any], None, None]:
    source = iter(items)
    held: dict[str, Any] = {}

    def keys() -> Iterator[str]:
        for number, item in enumerate(source):
            held[str(number)] = item
            yield str(number)

    dispatcher = Dispatcher(
        keys(),
        held.pop,
        capacity=executor.capacity,
        batch=batch,
        max_crashes=max_crashes,
        ordered=ordered,
    )
    with executor:
        while not dispatcher.exhausted():
            for task in dispatcher.prepare().tasks:
                executor.submit(task)
            results = [
                result for done in executor.completed(None) for result in dispatcher.settle(done)
            ]
            for result in dispatcher.release(results):
                yield result.outcome
