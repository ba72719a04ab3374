"""The same callable in several processes that can be killed, each replaced when it was."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    EngineUnavailableError,
    InterlockError,
)
from interlock.kernel.process import REPLY_LIMIT, WorkerProcess

# A replacement may take this many times what the first start took, and a floor for small models.
_RESTART_FACTOR, _RESTART_FLOOR = 4.0, 5.0


class ProcessPool:
    """`size` worker processes of one `target`, each killed at a call's deadline and then replaced.

    target, options, memory_limit and reply_limit are those of `WorkerProcess`. Safe across
    threads; a call waits for a free process until its deadline.

    call_seconds   deadline of calls that come with none, or with a later one; None for no limit
    """

    def __init__(
        self,
        target: str,
        *,
        options: Mapping[str, Any],
        size: int = 1,
        memory_limit: int | None = None,
        call_seconds: float | None = None,
        reply_limit: int = REPLY_LIMIT,
        name: str = "worker",
    ) -> None:
        if size < 1:
            raise ConfigError(f"size is {size}; it must be 1 or more")
        if call_seconds is not None and not call_seconds > 0:
            raise ConfigError(f"call_seconds is {call_seconds}; it must be above 0")
        self.name = name
        self.size = size
        self.call_seconds = call_seconds
        self._processes = tuple(
            WorkerProcess(
                target,
                options=options,
                memory_limit=memory_limit,
                reply_limit=reply_limit,
                name=name if size == 1 else f"{name} {number}",
            )
            for number in range(size)
        )
        # The process used last is the warmest, and the others start only when they are needed.
        self._free: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()
        for process in reversed(self._processes):
            self._free.put(process)
        self._closed = False
        self._faults: dict[WorkerProcess, str] = {}
        self._replaced = 0
        self._counting = threading.Lock()

    @property
    def alive(self) -> int:
        """How many processes run."""
        return sum(process.alive for process in self._processes)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of those that run."""
        found = (process.pid for process in self._processes)
        return tuple(pid for pid in found if pid is not None)

    @property
    def rss(self) -> int:
        """Resident bytes of all processes together, as far as the system tells."""
        return sum(process.rss or 0 for process in self._processes)

    @property
    def fault(self) -> str:
        """Why a process cannot be replaced: what it should run is no longer there. Else empty."""
        return next(iter(self._faults.values()), "")

    @property
    def largest(self) -> int:
        """Resident bytes of the largest process, as far as the system tells."""
        return max((process.rss or 0 for process in self._processes), default=0)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all processes so far, as far as the system tells; it never falls."""
        return sum(process.cpu_seconds for process in self._processes)

    @property
    def replaced(self) -> int:
        """How many processes died or were killed in a call, and were to be replaced."""
        return self._replaced

    def start(self, deadline: Deadline = NO_DEADLINE, number: int | None = None) -> None:
        """Start all processes at the same time and load what they run in each.

        They start with the first calls otherwise. Raises what loading raises.

        number  start so many, those that are called first
        """
        self._check_open()
        errors: list[InterlockError] = []

        def start(process: WorkerProcess) -> None:
            try:
                process.start(deadline)
            except InterlockError as error:
                errors.append(error)

        _all_at_once(start, self._processes[:number])
        if errors:
            raise errors[0]

    def amend(self, **options: Any) -> None:
        """See `WorkerProcess.amend`: replacements get these options as well."""
        for process in self._processes:
            process.amend(**options)

    def call(self, payload: Any, *, deadline: Deadline = NO_DEADLINE) -> Any:
        """`WorkerProcess.call` in a process that is free, by the deadline or `call_seconds`."""
        due = deadline
        if self.call_seconds is not None:
            limit = Deadline.after(self.call_seconds, deadline.clock)
            due = limit if deadline.at is None else deadline.earlier(self.call_seconds)
        process = self._take(due)
        try:
            self._check_open()
            answer = process.call(payload, deadline=due)
        except BundleError as error:
            self._note(process, error)
            raise
        else:
            self._note(process)
            return answer
        finally:
            self._give_back(process)

    def close(self) -> None:
        """End all processes for good. A call under way raises EngineCrashError, a later one
        EngineUnavailableError.
        """
        self._closed = True
        for process in self._processes:
            process.kill()
        _all_at_once(WorkerProcess.close, self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _note(self, process: WorkerProcess, error: BundleError | None = None) -> None:
        """Remember that a process cannot be replaced, and why; or that it was, after all."""
        if error is None and not self._faults:
            return
        with self._counting:
            others = {p: why for p, why in self._faults.items() if p is not process}
            told = {} if error is None else {process: f"{error.code}: {error.message}"}
            self._faults = others | told

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnavailableError(f"{self.name}: the pool is closed")

    def _take(self, due: Deadline) -> WorkerProcess:
        left = due.remaining()
        try:
            return self._free.get(
                timeout=None if left is None else min(left, threading.TIMEOUT_MAX)
            )
        except queue.Empty:
            raise DeadlineError(
                f"{self.name}: all {self.size} processes were busy until the deadline"
            ) from None

    def _give_back(self, process: WorkerProcess) -> None:
        started = process.start_seconds
        if process.alive or started is None or self._closed:
            self._free.put(process)
            return
        with self._counting:
            self._replaced += 1
        # The replacement loads meanwhile, so that the next call need not wait for all of it.
        within = max(_RESTART_FLOOR, _RESTART_FACTOR * started)

        def replace() -> None:
            # Where it fails, the next call tries again and hears why.
            with contextlib.suppress(InterlockError):
                try:
                    process.start(Deadline.after(within))
                except BundleError as error:
                    self._note(process, error)
                else:
                    self._note(process)
            if self._closed:
                process.close()
            self._free.put(process)

        threading.Thread(target=replace, name="interlock-replace", daemon=True).start()


def _all_at_once(
    action: Callable[[WorkerProcess], None], processes: Iterable[WorkerProcess]
) -> None:
    threads = [threading.Thread(target=action, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
