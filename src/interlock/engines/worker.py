"""ONNX models in processes that can be killed: hard deadlines and memory limits for any graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np

from interlock.engines.onnx import OnnxEngine, SessionConfig
from interlock.engines.process_pool import ProcessPool
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import EngineCrashError
from interlock.kernel.process import REPLY_LIMIT
from interlock.kernel.route import BatchAnswer

_TARGET = "interlock.engines.worker:load"
_INPUTS = "inputs"


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


class WorkerPool(ProcessPool):
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
        super().__init__(
            _TARGET,
            options={
                "model": model,
                "config": asdict(config if config is not None else SessionConfig()),
            },
            size=size,
            memory_limit=memory_limit,
            call_seconds=call_seconds,
            reply_limit=reply_limit,
            name=name,
        )
        self._input_names: tuple[str, ...] | None = None

    def input_names(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[str, ...]:
        """The names of the model's inputs, asked of a process once."""
        if self._input_names is None:
            found = self.call(_INPUTS, deadline=deadline)
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
        found = self.call(payload, deadline=deadline)
        if not isinstance(found, dict):
            raise EngineCrashError(f"{self.name}: sent no outputs")
        names = list(found) if outputs is None else outputs
        if not all(isinstance(found.get(name), np.ndarray) for name in names):
            raise EngineCrashError(f"{self.name}: the answer lacks an output")
        return {name: found[name] for name in names}


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
