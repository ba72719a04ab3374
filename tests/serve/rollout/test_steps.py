"""Each step is recorded before it is taken."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import Any

import pytest
from serve.rollout.conftest import Make


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


def test_a_wall_clock_that_jumps_back_changes_nothing(world: Make) -> None:
    found = world()
    found.rollout.start("new", mode="canary")
    found.clock._start -= timedelta(days=1000)
    found.see(2000)
    found.rollout.tick()
    assert found.decisions() == ["started", "promoted"]
    found.restart()
    assert found.stable == "sha256:new"
