"""The models of a server: opened, self-tested, each behind its lane; one that fails stays red."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineUnavailableError, InterlockError, RequestRejectedError
from interlock.serve.health import Canary, Health
from interlock.serve.lane import Lane
from interlock.serve.metrics import Metrics, ModelState
from interlock.serve.opening import open_model
from interlock.serve.served import Served
from interlock.serve.server_log import Log
from interlock.serve.settings import ModelSettings, Settings


class UnknownModelError(RequestRejectedError):
    """No such model, or no such version of it."""

    code = "unknown_model"


class Hosted:
    """One model: `served`, `lane` and `canary` once it is ready, `error` where it cannot be."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self.name = name
        self.settings = settings
        self.served: Served | None = None
        self.lane: Lane | None = None
        self.canary: Canary | None = None
        self.error: InterlockError | None = None

    @property
    def ready(self) -> bool:
        """Whether it passed its self-test and may be asked."""
        return self.lane is not None

    def health(self) -> Health:
        """From a canary inference; unhealthy with the reason where it is not ready."""
        if self.canary is None:
            why = "loading" if self.error is None else f"{self.error.code}: {self.error.message}"
            return Health("unhealthy", self.name, error=why)
        return self.canary.check()


class Hosting:
    """All models of a server. `start` returns when each is ready or has failed."""

    def __init__(self, settings: Settings, base: Path, metrics: Metrics, log: Log) -> None:
        self._settings = settings
        self._base = base
        self._metrics = metrics
        self._log = log
        self.models = {name: Hosted(name, own) for name, own in settings.models.items()}
        metrics.watch(self._states)

    def start(self) -> None:
        """Open, load and test all models at the same time."""
        threads = [
            # A load that hangs must not keep the process from ending.
            threading.Thread(target=self._start, args=(hosted,), daemon=True)
            for hosted in self.models.values()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def ready(self) -> bool:
        """Whether there are models, and all of them are ready."""
        return bool(self.models) and all(hosted.ready for hosted in self.models.values())

    def find(self, name: str, version: str | None = None) -> Hosted:
        """The model; raises UnknownModelError."""
        hosted = self.models.get(name)
        if hosted is None:
            raise UnknownModelError("there is no such model", hint="GET /v2/models lists them")
        if version and (hosted.served is None or version != hosted.served.version):
            raise UnknownModelError(f"model '{hosted.name}' has no such version")
        return hosted

    def require(self, hosted: Hosted) -> tuple[Served, Lane]:
        """What answers; raises EngineUnavailableError where the model is not ready."""
        if hosted.served is None or hosted.lane is None:
            why = "is loading" if hosted.error is None else f"failed: {hosted.error.code}"
            raise EngineUnavailableError(f"model '{hosted.name}' {why}")
        return hosted.served, hosted.lane

    def close(self, wait: float) -> None:
        """Answer what waits, for up to `wait` seconds, and end every process."""
        threads = [
            threading.Thread(target=hosted.lane.close, args=(wait,))
            for hosted in self.models.values()
            if hosted.lane is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for hosted in self.models.values():
            if hosted.served is not None:
                hosted.served.close()

    def _start(self, hosted: Hosted) -> None:
        own = hosted.settings
        began, read = time.monotonic(), _disk_reads()
        served: Served | None = None
        try:
            served = open_model(hosted.name, own, self._base)
            served.start(Deadline.after(self._settings.start_seconds))
        except Exception as error:  # noqa: BLE001 - one broken model must not take the others along
            if served is not None:
                served.close()
            if not isinstance(error, InterlockError):
                error = EngineUnavailableError(f"loading raised {type(error).__name__}")
            hosted.error = error
            self._log("model_failed", model=hosted.name, code=error.code, message=error.message)
            return
        seconds = time.monotonic() - began
        self._metrics.load_seconds.labels(hosted.name).set(seconds)
        self._metrics.load_bytes.labels(hosted.name).set(_disk_reads() - read)
        hosted.served = served
        hosted.canary = Canary(
            served,
            degraded_ms=self._settings.degraded_ms,
            seconds=self._settings.health_seconds,
        )
        hosted.lane = Lane(
            served,
            threads=own.workers,
            limit=own.queue,
            batch_rows=own.batch_rows,
            batch_wait=own.batch_wait_ms / 1e3,
            on_run=lambda ran: self._metrics.ran(hosted.name, ran),
        )
        self._log("model_ready", model=hosted.name, digest=served.version, seconds=seconds)

    def _states(self) -> Iterable[ModelState]:
        for hosted in self.models.values():
            served, lane = hosted.served, hosted.lane
            workers = None if served is None else served.workers()
            yield ModelState(
                hosted.name,
                ready=hosted.ready,
                waiting=(0 if lane is None else lane.waiting) + (workers.waiting if workers else 0),
                running=(0 if lane is None else lane.running) + (workers.running if workers else 0),
                pids=0 if workers is None else len(workers.pids),
                rss=0 if workers is None else workers.rss,
                lost=0 if workers is None else workers.replaced,
            )


def _disk_reads() -> int:
    """Bytes that this process made the system fetch from disks; 0 where it does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    fields: Mapping[str, str] = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(fields.get("read_bytes", 0))
