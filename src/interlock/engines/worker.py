"""ONNX models in processes that can be killed: hard deadlines and memory limits for any graph."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np

from interlock.engines.onnx import OnnxEngine, SessionConfig
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineUnavailableError,
    InterlockError,
)
from interlock.kernel.process import REPLY_LIMIT, WorkerProcess
from interlock.kernel.route import BatchAnswer

_TARGET = "interlock.engines.worker:load"
_INPUTS = "inputs"
# A replacement may take this many times what the first start took, and a floor for small models.
_RESTART_FACTOR, _RESTART_FLOOR = 4.0, 5.0


def load(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Runs in the worker: loads the model and answers what `WorkerPool` asks."""
    from interlock.engines.onnx import OnnxSession

    config = dict(options["config"])
    config["providers"] = tuple(config["providers"])
    session = OnnxSession(options["model"], SessionConfig(**config))

    def answer(payload: Any) -> Any:
        if payload == _INPUTS:
            return list(session.input_names())
        return session.run(payload["inputs"], outputs=payload["outputs"])

    return answer


class WorkerPool:
    """A model in `size` processes of its own, each killed at a call's deadline and then replaced.

    Loading and running both happen in the process, so a model that never ends, exhausts its
    memory or crashes costs one process and one call. Each process holds its own copy of the
    weights. Safe across threads; a call waits for a free process until its deadline.

    memory_limit   bytes a process may use in all, see `WorkerProcess`; ONNX Runtime with a small
                   model takes about 100 MB. None for no limit
    call_seconds   deadline of calls that come with none, or with a later one; None for no limit
    """

    def __init__(
        self,
        model: bytes,
        config: SessionConfig | None = None,
        *,
        size: int = 1,
        memory_limit: int | None = None,
        call_seconds: float | None = None,
        reply_limit: int = REPLY_LIMIT,
        name: str = "onnx worker",
    ) -> None:
        if size < 1:
            raise ConfigError(f"size is {size}; it must be 1 or more")
        if call_seconds is not None and not call_seconds > 0:
            raise ConfigError(f"call_seconds is {call_seconds}; it must be above 0")
        self.name = name
        self.size = size
        self.call_seconds = call_seconds
        settings = {
            "model": model,
            "config": asdict(config if config is not None else SessionConfig()),
        }
        self._processes = tuple(
            WorkerProcess(
                _TARGET,
                options=settings,
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
        self._input_names: tuple[str, ...] | None = None
        self._closed = False

    @property
    def alive(self) -> int:
        """How many processes run."""
        return sum(process.alive for process in self._processes)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of those that run."""
        found = (process.pid for process in self._processes)
        return tuple(pid for pid in found if pid is not None)

    def start(self, deadline: Deadline = NO_DEADLINE) -> None:
        """Start all processes at the same time and load the model in each.

        They start with the first calls otherwise. Raises what loading raises.
        """
        self._check_open()
        errors: list[InterlockError] = []

        def start(process: WorkerProcess) -> None:
            try:
                process.start(deadline)
            except InterlockError as error:
                errors.append(error)

        _all_at_once(start, self._processes)
        if errors:
            raise errors[0]

    def input_names(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[str, ...]:
        """The names of the model's inputs, asked of a process once."""
        if self._input_names is None:
            found = self._call(_INPUTS, deadline)
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise EngineCrashError(f"{self.name}: sent no valid list of inputs")
            self._input_names = tuple(found)
        return self._input_names

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> dict[str, Array]:
        """As `OnnxSession.run`, with a hard deadline.

        Raises DeadlineError at the deadline, MemoryLimitError at the memory limit, and
        EngineCrashError where the process died; the process is replaced after each of them.
        """
        payload = {
            "inputs": dict(inputs),
            "outputs": None if outputs is None else list(outputs),
        }
        found = self._call(payload, deadline)
        if not isinstance(found, dict):
            raise EngineCrashError(f"{self.name}: sent no outputs")
        names = list(found) if outputs is None else outputs
        if not all(isinstance(found.get(name), np.ndarray) for name in names):
            raise EngineCrashError(f"{self.name}: the answer lacks an output")
        return {name: found[name] for name in names}

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

    def _call(self, payload: Any, deadline: Deadline) -> Any:
        due = deadline
        if self.call_seconds is not None:
            limit = Deadline.after(self.call_seconds, deadline.clock)
            due = limit if deadline.at is None else deadline.earlier(self.call_seconds)
        process = self._take(due)
        try:
            self._check_open()
            return process.call(payload, deadline=due)
        finally:
            self._give_back(process)

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
        # The replacement loads meanwhile, so that the next call need not wait for all of it.
        within = max(_RESTART_FLOOR, _RESTART_FACTOR * started)

        def replace() -> None:
            # Where it fails, the next call tries again and hears why.
            with contextlib.suppress(InterlockError):
                process.start(Deadline.after(within))
            if self._closed:
                process.close()
            self._free.put(process)

        threading.Thread(target=replace, name="interlock-replace", daemon=True).start()


class WorkerEngine:
    """A batch engine of a route whose model runs in killable processes.

    `value` and `fields` name outputs as in `OnnxEngine`; the other parameters are the pool's.
    """

    def __init__(
        self,
        model: bytes,
        config: SessionConfig | None = None,
        *,
        value: str,
        fields: Sequence[str] = (),
        size: int = 1,
        memory_limit: int | None = None,
        call_seconds: float | None = None,
        name: str = "onnx worker",
    ) -> None:
        self.pool = WorkerPool(
            model,
            config,
            size=size,
            memory_limit=memory_limit,
            call_seconds=call_seconds,
            name=name,
        )
        self._engine = OnnxEngine(self.pool, value=value, fields=fields)
        self.run = self.pool.run
        self.start = self.pool.start
        self.close = self.pool.close

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """Value (n, …) and fields (n, …) of the rows of `inputs`; raises as `WorkerPool.run`."""
        return self._engine.answer_batch(inputs, deadline=deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _all_at_once(
    action: Callable[[WorkerProcess], None], processes: Iterable[WorkerProcess]
) -> None:
    threads = [threading.Thread(target=action, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
