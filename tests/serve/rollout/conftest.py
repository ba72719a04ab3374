"""One model with a real store, and versions that run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serve.test_lane import Doubling

from interlock.bundle import TensorSpec
from interlock.errors import BundleIntegrityError, EngineUnavailableError
from interlock.kernel.clock import ManualClock
from interlock.serve.health import Canary
from interlock.serve.hosting import Hosted
from interlock.serve.lane import Lane
from interlock.serve.rollout.control import ModelRollout
from interlock.serve.rollout.evidence import Seen
from interlock.serve.rollout.store import RolloutStore
from interlock.serve.settings import ModelSettings
from interlock.serve.version import Version


class World:
    """A model, the versions that its paths name, and a server that can be started again."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.settings = ModelSettings(**{"path": "old", "percent": 50, **settings})
        self.clock = ManualClock()
        self.opened: list[Version] = []
        self.digests = {"old": "sha256:old", "new": "sha256:new", "third": "sha256:third"}
        self.broken: set[str] = set()
        self.logged: list[dict[str, Any]] = []
        self.store: RolloutStore | None = None
        self.restart()

    def restart(self, **settings: Any) -> None:
        """Another server over the same state."""
        self.end()
        changed = {name: getattr(self.settings, name) for name in self.settings.__struct_fields__}
        self.settings = ModelSettings(**{**changed, **settings})
        self.store = RolloutStore(self.directory, self.clock)
        self.hosted = Hosted("m", self.settings)
        self.rollout = ModelRollout(
            self.hosted,
            open=self.open,
            check=self.check,
            store=self.store,
            drain_seconds=1.0,
            log=lambda event, **fields: self.logged.append({"event": event, **fields}),
            clock=self.clock,
        )
        self.hosted.traffic = self.rollout.begin()

    def end(self) -> None:
        if self.store is not None:
            self.store.close()
        for version in self.opened:
            version.lane.close()
        self.opened.clear()

    def open(self, own: ModelSettings) -> Version:
        if own.path in self.broken:
            raise EngineUnavailableError("it does not load")
        served = Doubling()
        served.version = self.digests[own.path]
        if own.expected_digest not in (None, served.version):
            raise BundleIntegrityError("another digest")
        if own.path == "third":
            served.inputs = (TensorSpec("x", "float64", ("n", 3)),)
        lane = Lane(served, threads=1, limit=10, batch_rows=8)
        version = Version(own, served, lane, Canary(served, degraded_ms=50, seconds=1))
        self.opened.append(version)
        return version

    def check(self, own: ModelSettings) -> None:
        if own.expected_digest not in (None, self.digests[own.path]):
            raise BundleIntegrityError("another digest")

    def see(self, number: int, *, errors: int = 0) -> None:
        """Answers of both versions, in turn; of the candidate's every `errors`-th fails."""
        assert self.hosted.traffic is not None
        watch = self.hosted.traffic.watch
        assert watch is not None
        for k in range(number):
            watch.seen.append(Seen(False, False, 0.01, False))
            watch.seen.append(Seen(True, bool(errors) and k % errors == 0, 0.01, False))

    @property
    def stable(self) -> str:
        assert self.hosted.traffic is not None
        return self.hosted.traffic.stable.digest

    @property
    def running(self) -> Any:
        return self.rollout.status()["rollout"]

    def decisions(self) -> list[str]:
        return [d["decision"] for d in self.rollout.status()["decisions"]]


Make = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made: list[World] = []

    def make(**settings: Any) -> World:
        made.append(World(tmp_path / "state", **settings))
        return made[-1]

    yield make
    for one in made:
        one.end()
