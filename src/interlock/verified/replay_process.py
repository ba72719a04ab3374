"""A killable process that runs slices again, one after another: starting one costs more than most
slices do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from interlock.engines.onnx import Optimization
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import EngineCrashError
from interlock.kernel.process import WorkerProcess

MEMORY_LIMIT = 4 << 30
"""Bytes of the process."""


class ReplayProcess:
    """ONNX Runtime in a process of its own. It starts with the first run, or with `start`.

    A run that is late, exhausts its memory or crashes costs that run; the next one gets a fresh
    process. Safe across threads; runs take turns.
    """

    def __init__(self) -> None:
        self._worker = WorkerProcess(f"{__name__}:serve", memory_limit=MEMORY_LIMIT, name="replay")

    def start(self) -> None:
        """Start the process now rather than with the first run."""
        self._worker.start()

    def run(
        self,
        model: bytes,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        *,
        optimization: Optimization = "all",
        deadline: Deadline = NO_DEADLINE,
    ) -> dict[str, Array]:
        """The named outputs of `model`; raises as `OnnxSession.run` and `WorkerProcess.call`."""
        call = {
            "model": model,
            "optimization": optimization,
            "inputs": dict(inputs),
            "outputs": list(outputs),
        }
        found = self._worker.call(call, deadline=deadline)
        if not isinstance(found, dict) or not all(
            isinstance(found.get(name), np.ndarray) for name in outputs
        ):
            raise EngineCrashError("replay: the answer lacks an output")
        return {name: found[name] for name in outputs}

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()


def serve(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The process's factory: a callable that opens a session for each call."""
    from interlock.engines.onnx import OnnxSession, SessionConfig
    from interlock.ort import onnxruntime

    onnxruntime()

    def answer(call: Mapping[str, Any]) -> dict[str, Array]:
        session = OnnxSession(call["model"], SessionConfig(optimization=call["optimization"]))
        return session.run(call["inputs"], outputs=call["outputs"])

    return answer
