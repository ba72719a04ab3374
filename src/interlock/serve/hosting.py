"""The models of a server: opened, self-tested, each behind its lane; one that fails stays red."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from interlock.kernel.errors import EngineUnavailableError, InterlockError, RequestRejectedError
from interlock.serve.health import Health
from interlock.serve.lane import Lane
from interlock.serve.metrics import Metrics, ModelState
from interlock.serve.opening import check_files, check_read
from interlock.serve.rollout.traffic import Pick, Traffic
from interlock.serve.served import Served
from interlock.serve.server_log import Log
from interlock.serve.settings import ModelSettings, Settings
from interlock.serve.version import Version, open_version

_PROC = Path("/proc")


class UnknownModelError(RequestRejectedError):
    """No such model, or no such version of it."""

    code = "unknown_model"


class Hosted:
    """One model: `traffic` once it is ready, `error` where it cannot be.

    fault     why it is no better than degraded, such as a rollout that cannot be recorded
    """

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self.name = name
        self.settings = settings
        self.traffic: Traffic | None = None
        self.error: InterlockError | None = None
        self.fault = ""
        # Of versions that no longer run: processes that were replaced, and CPU seconds.
        self._replaced = 0
        self._cpu = 0.0
        self._retiring: list[Version] = []
        self._counting = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether it passed its self-test and may be asked; red where its files are others now."""
        return self.traffic is not None and not self.stuck

    @property
    def stuck(self) -> bool:
        """Whether it was ready, and a process of it cannot be replaced."""
        served = self.served
        return served is not None and bool(served.workers().fault)

    @property
    def served(self) -> Served | None:
        """The stable version's model."""
        return None if self.traffic is None else self.traffic.stable.served

    @property
    def lane(self) -> Lane | None:
        """The stable version's queue."""
        return None if self.traffic is None else self.traffic.stable.lane

    def pick(self, client: str, digest: str | None = None) -> Pick:
        """The version that answers a request, to be left after it; see `Traffic.pick`.

        Raises EngineUnavailableError where the model is not ready, and UnknownModelError for a
        digest that no version has.
        """
        while True:
            traffic = self.traffic
            if traffic is None:
                why = "is loading" if self.error is None else f"failed: {self.error.code}"
                raise EngineUnavailableError(f"model '{self.name}' {why}")
            found = traffic.pick(client, digest)
            if found is None:
                continue
            if digest and found.version.digest != digest:
                # It was replaced since the request came.
                found.leave()
                raise UnknownModelError(f"model '{self.name}' has no such version")
            return found

    def retire(self, version: Version, seconds: float) -> None:
        """Let go of a version that no traffic names any more, in a thread of its own."""
        with self._counting:
            self._retiring.append(version)

        def work() -> None:
            workers = version.retire(seconds)
            with self._counting:
                self._retiring.remove(version)
                self._replaced += workers.replaced
                self._cpu += workers.cpu

        threading.Thread(target=work, name="interlock-retire", daemon=True).start()

    @property
    def retiring(self) -> int:
        """Versions that still answer their last requests."""
        return len(self._retiring)

    def spent(self) -> tuple[float, int]:
        """CPU seconds of all versions so far, and how many of their processes were replaced."""
        with self._counting:
            versions, cpu, replaced = list(self._retiring), self._cpu, self._replaced
        traffic = self.traffic
        for version in () if traffic is None else (traffic.stable, traffic.candidate):
            if version is not None and version not in versions:
                versions.append(version)
        for version in versions:
            workers = version.served.workers()
            cpu += workers.cpu
            replaced += workers.replaced
        return cpu, replaced

    def health(self) -> Health:
        """From a canary inference; unhealthy with the reason where it is not ready."""
        traffic = self.traffic
        if traffic is None:
            why = "loading" if self.error is None else f"{self.error.code}: {self.error.message}"
            return Health("unhealthy", self.name, error=why)
        found = traffic.stable.canary.check()
        if self.fault and found.status == "healthy":
            found = replace(found, status="degraded", message=self.fault)
        return found


class Hosting:
    """All models of a server. `start` returns when each is ready or has failed."""

    def __init__(self, settings: Settings, base: Path, metrics: Metrics, log: Log) -> None:
        self._settings = settings
        self._base = base
        self._metrics = metrics
        self._log = log
        self.models = {name: Hosted(name, own) for name, own in settings.models.items()}
        metrics.watch(self._states)

    def start(self, begin: Callable[[Hosted], Traffic] | None = None) -> None:
        """Open, load and test all models at the same time.

        begin  makes the traffic of a model; by default the version that its settings name
        """
        threads = [
            # A load that hangs must not keep the process from ending.
            threading.Thread(target=self._start, args=(hosted, begin), daemon=True)
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
            raise UnknownModelError(
                f"there is no model {name[:100]!r}", hint="GET /v2/models lists them"
            )
        traffic = hosted.traffic
        known = () if traffic is None else (traffic.stable, traffic.candidate)
        if version and not any(v is not None and v.digest == version for v in known):
            raise UnknownModelError(f"model '{hosted.name}' has no version {version[:100]!r}")
        return hosted

    def close(self, wait: float) -> None:
        """Answer what waits, for up to `wait` seconds, and end every process."""
        found = [hosted.traffic for hosted in self.models.values() if hosted.traffic is not None]
        versions = [v for traffic in found for v in (traffic.stable, traffic.candidate) if v]
        threads = [
            threading.Thread(target=version.lane.close, args=(wait,)) for version in versions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for version in versions:
            version.served.close()

    def open(self, hosted: Hosted, own: ModelSettings) -> Version:
        """A version of a model, loaded and tested; see `check_read` and `open_version`."""
        check_read(hosted.name, hosted.settings, self._base)
        return open_version(
            hosted.name,
            own,
            self._settings,
            self._base,
            on_run=lambda ran: self._metrics.ran(hosted.name, ran),
        )

    def check(self, own: ModelSettings) -> None:
        """See `check_files`."""
        check_files(own, self._base)

    def _start(self, hosted: Hosted, begin: Callable[[Hosted], Traffic] | None) -> None:
        read = _disk_reads()
        try:
            if begin is None:
                traffic = Traffic(self.open(hosted, hosted.settings))
            else:
                traffic = begin(hosted)
        except Exception as error:  # noqa: BLE001 - one broken model must not take others along
            if not isinstance(error, InterlockError):
                error = EngineUnavailableError(f"loading raised {type(error).__name__}")
            hosted.error = error
            self._log("model_failed", model=hosted.name, code=error.code, message=error.message)
            return
        stable = traffic.stable
        self._metrics.load_seconds.labels(hosted.name).set(stable.seconds)
        found = _disk_reads() - read + sum(map(_disk_reads, stable.served.workers().pids))
        self._metrics.load_bytes.labels(hosted.name).set(found)
        hosted.traffic = traffic
        self._log("model_ready", model=hosted.name, digest=stable.digest, seconds=stable.seconds)

    def _states(self) -> Iterable[ModelState]:
        for hosted in self.models.values():
            served, lane = hosted.served, hosted.lane
            workers = None if served is None else served.workers()
            cpu, replaced = hosted.spent()
            running = None if workers is None else workers.running
            if running is None:
                running = 0 if lane is None else lane.running
            yield ModelState(
                hosted.name,
                ready=hosted.ready,
                waiting=(0 if lane is None else lane.waiting) + (workers.waiting if workers else 0),
                running=running,
                pids=0 if workers is None else len(workers.pids),
                rss=0 if workers is None else workers.rss,
                cpu=cpu,
                lost=replaced,
                digest="" if served is None else served.version,
            )


def _disk_reads(process: int | Literal["self"] = "self") -> int:
    """Bytes that a process made the system fetch from disks; 0 where that is not told."""
    try:
        lines = (_PROC / str(process) / "io").read_text().splitlines()
    except OSError:
        return 0
    fields: Mapping[str, str] = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(fields.get("read_bytes", 0))
