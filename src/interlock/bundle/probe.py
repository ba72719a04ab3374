"""Run a model for the first time in a process that can be killed, before anyone gets it.

One such process is kept a Python process, and replaced when it was killed or crashed. It bounds
time and memory and contains crashes. It is no sandbox.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

from interlock.bundle.limits import BundleLimits
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    BundleContractError,
    DeadlineError,
    EngineCrashError,
    EngineError,
    EngineUnavailableError,
    MemoryLimitError,
)
from interlock.kernel.process import WorkerProcess

_LARGE = 64 << 20
_START_SECONDS = 60.0
_PASSED_MOST = 256

Identity = tuple[tuple[str, str], ...]
"""(name, SHA-256) of every file of a bundle."""


@cache
def _runtime_version() -> str:
    return version("onnxruntime")


class _Probe:
    """The process that probes, and the bundles that passed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worker: WorkerProcess | None = None
        self.passed: dict[tuple[Identity, str], None] = {}

    def worker_for(self, memory: int) -> WorkerProcess:
        """The kept process, or one with another memory limit in its place."""
        if self.worker is not None and self.worker.memory_limit != memory:
            self.close()
        if self.worker is None:
            self.worker = WorkerProcess(
                "interlock.bundle.probe_child:serve", memory_limit=memory, name="probe"
            )
        return self.worker

    def close(self) -> None:
        """End the process, if one runs."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.kill()
            worker.close()


_probe = _Probe()
atexit.register(lambda: _probe.close())


def _after_fork() -> None:
    # The child of a fork has neither the worker nor, perhaps, a lock that anyone will release.
    global _probe
    _probe = _Probe()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def probe_model(
    identity: Identity,
    model: bytes,
    metadata: bytes,
    limits: BundleLimits,
    tensors: Mapping[str, Array] = {},
) -> None:
    """Reproduce the smoke vectors and try a strict decode at its limits, in another process.

    model     the model's bytes, external tensors put in
    metadata  the bytes of `metadata.json`
    tensors   external tensors that stand beside the model

    A bundle that passed under the installed ONNX Runtime is not probed again by this Python
    process. Raises BundleFormatError where ONNX Runtime refuses the model, BundleContractError
    for a wrong answer and where the process ran out of time or memory or crashed, and
    EngineUnavailableError where no process can be started.
    """
    key = (identity, _runtime_version())
    if key in _probe.passed:
        return
    memory = limits.probe_memory_bytes
    size = len(model) + sum(array.nbytes for array in tensors.values())
    if size > _LARGE:
        memory += 4 * size
    with _probe.lock:
        worker = _probe.worker_for(memory)
        try:
            # The start does not depend on the model, so it does not count against its time.
            worker.start(Deadline.after(_START_SECONDS))
        except DeadlineError as error:
            raise EngineUnavailableError(f"the probe did not start: {error.message}") from None
        try:
            worker.call(
                {"model": model, "metadata": metadata, "tensors": dict(tensors)},
                deadline=Deadline.after(limits.probe_seconds),
            )
        except EngineUnavailableError:
            raise
        except EngineError as error:
            raise _refusal(error, limits, memory) from None
        while len(_probe.passed) >= _PASSED_MOST:
            _probe.passed.pop(next(iter(_probe.passed)))
        _probe.passed[key] = None


def _refusal(error: EngineError, limits: BundleLimits, memory: int) -> BundleContractError:
    match error:
        case DeadlineError():
            found = f"did not end within {limits.probe_seconds:g} s"
        case MemoryLimitError():
            found = f"needed more memory than {memory} bytes"
        case EngineCrashError():
            found = f"crashed its process ({error.message})"
        case _:
            found = f"failed ({error.message})"
    return BundleContractError(
        f"the probe of the model {found}",
        hint="BundleLimits sets the probe's time and memory",
    )
