"""The steps of a rollout, with a real store, and versions that run in this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from serve.test_lane import Doubling

from interlock.bundle import TensorSpec
from interlock.errors import (
    BundleIntegrityError,
    ConfigError,
    EngineUnavailableError,
    JournalError,
    StorageError,
)
from interlock.kernel.clock import ManualClock
from interlock.serve.health import Canary
from interlock.serve.hosting import Hosted
from interlock.serve.lane import Lane
from interlock.serve.rollout.control import RETRY_SECONDS, ModelRollout
from interlock.serve.rollout.evidence import MEMORY_SAMPLES, Seen
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.rollout.record import SAVE_SECONDS
from interlock.serve.rollout.store import RolloutStore
from interlock.serve.served import Workers
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


def test_a_bad_one_is_rolled_back_at_the_next_look(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(300, errors=3)
    found.rollout.tick()
    assert found.running is None
    assert found.stable == "sha256:old"
    assert found.decisions() == ["started", "rolled_back"]
    made = found.rollout.status()["decisions"][-1]
    assert made["reason"] == "errors"
    assert made["numbers"]["triggers"]["errors"]["candidate"] == {
        "events": 100,
        "answers": 300,
        "share": 1 / 3,
        "interval95": pytest.approx([0.282, 0.388], abs=1e-3),
    }


def test_a_good_one_is_promoted_and_what_it_replaced_can_return(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(2000)
    found.rollout.tick()
    assert (found.stable, found.decisions()) == ("sha256:new", ["started", "promoted"])
    found.restart()
    assert found.stable == "sha256:new"
    found.rollout.roll_back()
    assert found.stable == "sha256:old"
    found.restart()
    assert found.stable == "sha256:old"


def test_what_was_seen_goes_on_after_a_restart(world: Make) -> None:
    found = world(min_requests=200)
    found.rollout.start("new", mode="canary")
    found.see(150, errors=3)
    found.clock.advance(SAVE_SECONDS)
    found.rollout.tick()
    found.restart()
    assert found.running["evidence"]["answers"] == 150
    found.see(60, errors=3)
    found.rollout.tick()
    assert found.decisions()[-1] == "rolled_back"


def test_what_was_seen_under_other_limits_does_not_count(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(90, errors=3)
    found.clock.advance(SAVE_SECONDS)
    found.rollout.tick()
    found.restart(rollback_errors=0.5)
    assert found.running["evidence"]["answers"] == 0


def test_what_is_held_is_said_once_and_left_to_a_person(world: Make) -> None:
    found = world(promote=False)
    found.rollout.start("new", mode="canary")
    for _ in range(5):
        found.see(500)
        found.rollout.tick()
    assert found.decisions() == ["started", "held"]
    assert found.running["held"] == "shown_good"
    found.restart()
    assert found.running["held"] == "shown_good"
    found.rollout.promote()
    assert found.stable == "sha256:new"


def test_a_decision_that_cannot_be_recorded_is_not_taken_until_it_can(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(300, errors=3)
    store = found.store
    assert store is not None
    real = store._put

    def full(model: str, placement: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "_put", full)
    for _ in range(3):
        found.rollout.tick()
        assert found.running is not None
        assert found.decisions() == ["started"]
        assert found.hosted.fault
    assert [e["event"] for e in found.logged].count("rollout_not_recorded") == 1
    assert found.hosted.health().status == "degraded"
    monkeypatch.setattr(store, "_put", real)
    found.rollout.tick()
    assert found.running is None
    assert found.hosted.fault == ""
    assert found.hosted.health().status == "healthy"


def full(*_: Any) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def unreadable(*_: Any) -> None:
    raise JournalError("the record is broken")


def test_a_configured_rollout_starts_once_the_disk_has_room(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world()
    with monkeypatch.context() as patched:
        patched.setattr(RolloutStore, "_put", full)
        found.restart(candidate="new", rollout="canary")
        for _ in range(3):
            assert found.stable == "sha256:old"
            assert found.running is None
            assert found.hosted.health().status == "degraded"
            opened = len(found.opened)
            found.clock.advance(RETRY_SECONDS)
            found.rollout.tick()
            assert len(found.opened) == opened  # nothing is loaded in vain
    found.clock.advance(RETRY_SECONDS)
    found.rollout.tick()
    assert found.running["candidate"] == "sha256:new"
    assert found.hosted.health().status == "healthy"
    assert found.decisions() == ["started"]


def test_an_edited_configuration_is_served_though_that_cannot_be_recorded(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.rollout.promote()
    found.digests["newer"] = "sha256:newer"
    with monkeypatch.context() as patched:
        patched.setattr(RolloutStore, "_put", full)
        found.restart(path="newer")
        assert found.stable == "sha256:newer"
        assert found.hosted.health().status == "degraded"
        assert "state" in found.rollout.status()["fault"]
        with pytest.raises(StorageError, match="cannot be used"):
            found.rollout.start("old")
    found.clock.advance(RETRY_SECONDS)
    found.rollout.tick()
    assert found.decisions() == ["started", "promoted", "superseded"]
    assert (found.stable, found.hosted.fault) == ("sha256:newer", "")


def test_what_was_promoted_is_served_once_the_state_can_be_read(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it is not known, and the configured version answers."""
    found = world()
    found.rollout.start("new", mode="canary")
    found.rollout.promote()
    with monkeypatch.context() as patched:
        patched.setattr(RolloutStore, "placement", unreadable)
        found.restart()
    assert found.stable == "sha256:old"
    assert found.hosted.health().status == "degraded"
    found.clock.advance(RETRY_SECONDS)
    found.broken.add("new")
    found.rollout.tick()
    assert found.stable == "sha256:old"
    assert found.hosted.fault == "the recorded version cannot be loaded: engine_unavailable"
    found.broken.clear()
    found.clock.advance(RETRY_SECONDS)
    found.rollout.tick()
    assert (found.stable, found.hosted.fault) == ("sha256:new", "")


def test_an_order_that_could_be_recorded_ends_the_fault(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the rollout ends with it, no further look would."""
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(300, errors=3)
    store = found.store
    assert store is not None

    def full(model: str, placement: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_put", full)
        found.rollout.tick()
        assert found.hosted.fault
    found.rollout.roll_back()
    found.rollout.tick()
    assert found.hosted.fault == ""


def test_a_candidate_that_no_longer_loads_costs_the_rollout_only(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.broken.add("new")
    found.restart()
    assert found.stable == "sha256:old"
    made = found.rollout.status()["decisions"][-1]
    assert (made["decision"], made["reason"]) == (
        "rolled_back",
        "it could not be loaded again: engine_unavailable",
    )


def test_a_promoted_version_whose_files_changed_is_not_served(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.rollout.promote()
    found.digests["new"] = "sha256:other"
    with pytest.raises(BundleIntegrityError):
        found.restart()


def test_a_configured_candidate_that_does_not_load_leaves_the_old_one(world: Make) -> None:
    found = world()
    found.broken.add("new")
    found.restart(candidate="new")
    assert found.stable == "sha256:old"
    assert found.decisions() == ["not_started"]
    found.broken.clear()
    found.restart()
    assert found.running["candidate"] == "sha256:new"


@pytest.mark.parametrize(
    ("edited", "told", "then"),
    [
        ({"candidate": None}, "the configuration names no candidate any more", None),
        ({"candidate": "newer"}, "the configuration names another candidate", "sha256:newer"),
        (
            {"candidate_digest": "sha256:other"},
            "the configuration names another candidate",
            None,
        ),
    ],
)
def test_a_configured_rollout_ends_where_its_candidate_was_edited(
    world: Make, edited: dict[str, Any], told: str, then: str | None
) -> None:
    found = world(candidate="new", rollout="canary")
    found.digests["newer"] = "sha256:newer"
    found.rollout.start("new", percent=20)  # it stays the configuration's
    found.restart(**edited)
    assert found.stable == "sha256:old"
    assert (found.running and found.running["candidate"]) == then
    made = found.rollout.status()["decisions"]
    ended = next(d for d in made if d["decision"] == "superseded")
    assert (ended["reason"], ended["ends"]) == (told, True)
    found.restart(candidate="new", candidate_digest=None)  # nothing was decided against it
    assert found.running["candidate"] == "sha256:new"


def test_a_rollout_that_was_asked_for_goes_on_and_the_configured_one_waits(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.digests["newer"] = "sha256:newer"
    for _ in range(2):
        found.restart(candidate="newer")
        assert found.running["candidate"] == "sha256:new"
    assert found.decisions() == ["started", "not_started"]
    made = found.rollout.status()["decisions"][-1]
    assert made["reason"] == "a rollout that was asked for is under way"
    assert made["numbers"] == {"path": "newer", "running": "new"}
    found.rollout.roll_back()
    found.restart()
    assert found.running["candidate"] == "sha256:newer"


def test_mode_and_percent_of_a_rollout_under_way_stay_and_the_log_says_so(world: Make) -> None:
    found = world(candidate="new", rollout="canary")
    found.restart(rollout="shadow", percent=5)
    assert (found.running["mode"], found.running["percent"]) == ("canary", 50)
    assert found.logged[-1] == {
        "event": "rollout_goes_on", "model": "m", "mode": "canary", "percent": 50,
    }  # fmt: skip


def test_one_change_at_a_time(world: Make) -> None:
    found = world()
    with found.rollout._change(), pytest.raises(ConflictError, match="another change"):
        found.rollout.start("new")
    with pytest.raises(ConfigError, match="inputs differ"):
        found.rollout.start("third")
    with pytest.raises(ConfigError, match="is served already"):
        found.rollout.start("old")
    with pytest.raises(ConflictError, match="no rollout is under way"):
        found.rollout.promote()
    assert found.decisions() == []


def test_a_wall_clock_that_jumps_back_changes_nothing(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.clock._start -= timedelta(days=1000)
    found.see(2000)
    found.rollout.tick()
    assert found.decisions() == ["started", "promoted"]
    found.restart()
    assert found.stable == "sha256:new"


def test_the_same_order_again_keeps_what_was_seen_and_names_only_what_changes(
    world: Make,
) -> None:
    found = world(rollout="shadow", percent=10)
    found.rollout.start("new", mode="canary", percent=30)
    found.see(50)
    found.rollout.tick()
    for again in ({}, {"mode": "canary"}, {"percent": 30.0}, {"digest": "sha256:new"}):
        found.rollout.start("new", **again)
        assert found.running["evidence"]["answers"] == 50
    assert found.decisions() == ["started"]
    found.rollout.start("new", percent=60)
    assert (found.running["mode"], found.running["percent"]) == ("canary", 60)
    assert found.running["evidence"]["answers"] == 0


def test_the_same_order_again_looks_anew_at_what_was_held(world: Make) -> None:
    found = world(promote=False)
    found.rollout.start("new", mode="canary")
    found.see(2000)
    found.rollout.tick()
    assert found.running["held"]
    found.rollout.start("new")
    assert not found.running["held"]


def test_a_digest_in_the_configuration_holds_for_a_reload_too(world: Make) -> None:
    found = world(expected_digest="sha256:old")
    found.digests["old"] = "sha256:changed"
    for digest in (None, "sha256:changed"):
        with pytest.raises(BundleIntegrityError):
            found.rollout.reload(digest=digest)
    assert found.stable == "sha256:old"


def test_a_reload_elsewhere_under_the_feature_flag_is_refused_for_the_flag(world: Make) -> None:
    found = world(candidate="new", use_candidate=False)
    with pytest.raises(ConflictError, match="use_candidate is set"):
        found.rollout.reload("new")
    assert found.rollout.reload()["changed"] is False


def test_one_process_of_several_that_grows_is_enough_to_roll_back(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world(rollback_memory_mb=700)
    found.rollout.start("new", mode="canary")
    traffic = found.hosted.traffic
    assert traffic is not None
    assert traffic.candidate is not None
    grown = Workers(pids=(1, 2), rss=1200 << 20, largest=1000 << 20)
    monkeypatch.setattr(traffic.candidate.served, "workers", lambda: grown)
    for _ in range(MEMORY_SAMPLES):
        found.clock.advance(1.0)
        found.rollout.tick()
    assert found.rollout.status()["decisions"][-1]["reason"] == "memory"
