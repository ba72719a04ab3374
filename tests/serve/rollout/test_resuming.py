"""What a server takes up when it starts again."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from serve.rollout.conftest import Make
from serve.test_lane import Doubling

from interlock.errors import BundleIntegrityError, JournalError, StorageError
from interlock.serve.rollout.evidence import MEMORY_SAMPLES
from interlock.serve.rollout.observing import MEMORY_SECONDS
from interlock.serve.rollout.record import SAVE_SECONDS
from interlock.serve.rollout.resuming import RETRY_SECONDS
from interlock.serve.rollout.store import RolloutStore
from interlock.serve.served import Workers


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


def test_a_restart_promotes_no_candidate_whose_memory_was_not_seen_since(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes are new, and what they take says nothing before they have answered."""
    resident = {"sha256:old": 100 << 20, "sha256:new": 100 << 20}
    monkeypatch.setattr(
        Doubling, "workers", lambda self: Workers(pids=(1,), largest=resident[self.version])
    )
    found = world(min_requests=100)

    def answer(number: int, growth: int) -> None:
        for _ in range(number // 100):
            if found.running is None:
                return
            found.see(100)
            resident["sha256:new"] += growth
            found.clock.advance(MEMORY_SECONDS)
            found.rollout.tick()

    found.rollout.start("new", mode="canary")
    answer(2000, 5 << 20)  # good, but for memory that grows with its answers
    assert found.running
    found.clock.advance(SAVE_SECONDS)
    found.rollout.tick()
    resident["sha256:new"] = 100 << 20
    found.restart()
    assert found.running["evidence"]["answers"] == 2000
    found.rollout.tick()  # sooner than memory is sampled otherwise
    assert found.running
    for _ in range(2 * MEMORY_SAMPLES):
        found.clock.advance(MEMORY_SECONDS)
        found.rollout.tick()
    assert found.running
    answer(1000, 5 << 20)
    assert found.running
    found.restart()
    answer(1000, 0)
    assert found.decisions()[-1] == "promoted"


def test_what_was_seen_beside_another_stable_version_does_not_count(world: Make) -> None:
    """Its files were exchanged while the server was down."""
    found = world(min_requests=200)
    found.rollout.start("new", mode="canary", percent=20)
    before = found.running["id"]
    found.see(150, errors=3)
    found.clock.advance(SAVE_SECONDS)
    found.rollout.tick()
    found.digests["old"] = "sha256:patched"
    found.restart()
    assert found.stable == "sha256:patched"
    assert found.running["evidence"]["answers"] == 0
    assert (found.running["id"] != before, found.running["percent"]) == (True, 20)
    made = found.rollout.status()["decisions"][-1]
    assert (made["decision"], made["reason"]) == ("started", "stable_changed")
    found.see(50)
    found.clock.advance(SAVE_SECONDS)
    found.rollout.tick()
    found.restart()
    assert found.running["evidence"]["answers"] == 50
    assert found.decisions() == ["started", "started"]
