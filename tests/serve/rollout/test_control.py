"""What an operator asks for, and what the server decides."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from serve.rollout.conftest import Make

from interlock.errors import (
    BundleIntegrityError,
    ConfigError,
    EngineUnavailableError,
    InterlockError,
    ServiceError,
)
from interlock.serve.rollout import control
from interlock.serve.rollout.evidence import MEMORY_SAMPLES
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.served import Workers
from interlock.serve.settings import ModelSettings


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


def test_a_model_that_fails_again_says_why_it_did_now(world: Make) -> None:
    found = world()
    found.hosted.traffic = None  # as where the start failed
    found.hosted.error = ConfigError("there is no old")
    found.broken.add("old")
    with pytest.raises(EngineUnavailableError):
        found.rollout.reload()
    assert found.hosted.health().error == "engine_unavailable: it does not load"
    found.broken.clear()
    assert found.rollout.reload()["changed"]
    assert found.hosted.health().status == "healthy"


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


def test_an_order_waits_for_a_look_that_is_under_way(world: Make) -> None:
    """The server looks twice a second, and on a slow disk for long; that is no second change."""
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(300, errors=3)
    assert found.store is not None
    other = sqlite3.connect(found.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the look now waits for its turn to write
    look = threading.Thread(target=found.rollout.tick)
    look.start()
    while look.is_alive() and not found.store._turn.locked():
        pass
    told: list[object] = []

    def order() -> None:
        try:
            told.append(found.rollout.reload()["changed"])
        except ConflictError as error:
            told.append(error.message)

    asked = threading.Thread(target=order)
    asked.start()
    asked.join(0.2)
    other.execute("ROLLBACK")
    other.close()
    asked.join(30)
    look.join(30)
    assert told == [False]
    assert found.decisions() == ["started", "rolled_back"]


def test_an_order_does_not_wait_for_ever_for_a_look_whose_disk_hangs(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TURN_SECONDS", 0.1)
    found = world()
    found.rollout.start("new", mode="canary")
    found.see(2000)
    looks, released = threading.Event(), threading.Event()

    def hang(own: ModelSettings) -> None:
        looks.set()
        assert released.wait(30)

    monkeypatch.setattr(found.rollout._loader, "_check", hang)
    look = threading.Thread(target=found.rollout.tick)
    look.start()
    try:
        assert looks.wait(30)
        told: list[InterlockError] = []

        def order() -> None:
            for _ in range(2):
                try:
                    found.rollout.roll_back()
                except InterlockError as error:
                    told.append(error)

        asked = threading.Thread(target=order, daemon=True)
        asked.start()
        asked.join(10)
        assert [type(error) for error in told] == [ServiceError, ServiceError]
        assert found.decisions() == ["started"]
    finally:
        released.set()
        look.join(30)
    assert found.decisions() == ["started", "promoted"]
    found.rollout.roll_back()
    assert found.stable == "sha256:old"


def test_what_is_held_for_good_reason_is_not_said_again_at_every_turn_of_the_evidence(
    world: Make,
) -> None:
    """After `max_requests` it may be shown good at one look and not at the next."""
    found = world(promote=False, max_requests=1000, rollback_p99_ms=1000)
    found.rollout.start("new", mode="canary")
    found.see(1000)
    found.rollout.tick()
    assert found.running["held"] == "shown_good"
    for errors, answers in ((21, 8000), (0, 1000)) * 2:
        found.see(answers, errors=errors)
        found.rollout.tick()
    assert found.decisions() == ["started", "held"]


def test_what_was_left_undecided_and_is_then_shown_good_is_said(world: Make) -> None:
    found = world(promote=False, min_requests=10, max_requests=20)
    found.rollout.start("new", mode="canary")
    found.see(20)
    found.rollout.tick()
    assert found.running["held"] == "undecided"
    found.see(2000)
    found.rollout.tick()
    assert found.running["held"] == "shown_good"
    assert found.decisions() == ["started", "held", "held"]


@pytest.mark.parametrize("automatic", [True, False])
def test_a_candidate_whose_files_are_gone_is_not_promoted(world: Make, automatic: bool) -> None:
    """It runs, but the next start could not load what was promoted, and would serve nothing."""
    found = world()
    found.rollout.start("new", mode="canary")
    found.digests["new"] = "sha256:exchanged"
    if automatic:
        found.see(2000)
        found.rollout.tick()
        found.rollout.tick()
        assert found.decisions() == ["started", "held"]
        assert found.running["held"] == "not_loaded"
    with pytest.raises(BundleIntegrityError):
        found.rollout.promote()
    assert found.stable == "sha256:old"
    found.digests["new"] = "sha256:new"
    found.rollout.promote()
    assert found.stable == "sha256:new"


def test_who_decided_is_told_in_the_log(world: Make) -> None:
    found = world()

    def last() -> object:
        return [e for e in found.logged if e["event"] == "rollout"][-1]["trigger"]

    found.rollout.start("new", mode="canary")
    assert last() == "operator"
    found.broken.add("new")
    found.restart()
    assert found.decisions()[-1] == "rolled_back"
    assert last() == "not_loaded"
    found.broken.clear()
    found.restart(path="new")
    found.restart(path="old")
    assert found.decisions()[-1] == "superseded"
    assert last() == "configured"
    found.rollout.start("new", mode="canary")
    found.rollout.roll_back("errors")
    made = found.rollout.status()["decisions"][-1]
    assert last() == "operator"
    assert made["reason"] == "asked for: errors"


def test_a_decision_on_a_shadow_tells_what_was_compared(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="shadow")
    traffic = found.hosted.traffic
    assert traffic is not None
    assert traffic.watch is not None
    traffic.watch.shadow.update(compared=2000, same=3)
    found.see(2000)
    found.rollout.tick()
    made = found.rollout.status()["decisions"][-1]
    assert (made["decision"], made["reason"]) == ("held", "shown_good")
    assert made["numbers"]["shadow"] == {"compared": 2000, "same": 3, "dropped": 0, "failed": 0}
    found.rollout.roll_back()
    assert found.rollout.status()["decisions"][-1]["numbers"]["shadow"]["same"] == 3


@pytest.mark.parametrize("by_server", [True, False])
def test_a_rollback_that_comes_after_one_does_not_take_the_version_before_back(
    world: Make, by_server: bool
) -> None:
    """Asked for a moment after the server had done it, or again after a timeout."""
    found = world()
    found.digests["newer"] = "sha256:newer"
    found.rollout.start("new", mode="canary")
    found.rollout.promote()
    found.rollout.start("newer", mode="canary")
    if by_server:
        found.see(300, errors=3)
        found.rollout.tick()
    else:
        found.rollout.roll_back()
    for _ in range(2):
        with pytest.raises(ConflictError, match="was rolled back already") as refused:
            found.rollout.roll_back()
        found.restart()
    assert "--previous" in refused.value.hint
    assert found.stable == "sha256:new"
    found.rollout.roll_back(previous=True)
    assert found.stable == "sha256:old"


def test_a_rollback_to_the_version_before_does_not_end_a_rollout_instead(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    with pytest.raises(ConflictError, match="a rollout is under way"):
        found.rollout.roll_back(previous=True)
    assert found.running is not None
