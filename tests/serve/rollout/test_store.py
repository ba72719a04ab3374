"""Decisions and placements on the disk."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from interlock.errors import ConfigError, JournalError, StorageError
from interlock.kernel.clock import ManualClock
from interlock.serve.rollout.evidence import Evidence
from interlock.serve.rollout.settings import RolloutSettings
from interlock.serve.rollout.store import Decision, Placement, RolloutStore, Running, Source


def placement(**changes: object) -> Placement:
    return Placement(configured=("v0", None), **changes)  # type: ignore[arg-type]


def decision(rollout: str = "r", **changes: object) -> Decision:
    fields: dict[str, object] = {"model": "m", "decision": "started", "reason": "asked for"}
    return Decision(rollout=rollout, **(fields | changes))  # type: ignore[arg-type]


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    evidence = Evidence(RolloutSettings(), "canary", 10).state()
    running = Running(
        id="r",
        mode="canary",
        percent=10,
        salt="00" * 16,
        candidate=Source("v1", "sha256:1"),
        started="2026-01-01T00:00:00+00:00",
        evidence=evidence,
    )
    placed = placement(running=running, settled=("sha256:2",), previous=Source("v", "sha256:3"))
    store = RolloutStore(tmp_path)
    made = store.decide(decision(numbers={"percent": 10}), placed)
    store.close()
    store = RolloutStore(tmp_path)
    assert store.placement("m") == placed
    assert store.placement("other") is None
    assert store.decisions("m") == [made]
    assert made.number == 1
    store.close()


def test_a_rollout_ends_once_and_a_refused_end_changes_nothing(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    promoted = placement(stable=Source("v1", "sha256:1"))
    store.decide(decision(decision="promoted", ends=True), promoted)
    with pytest.raises(JournalError, match="has ended already"):
        store.decide(decision(decision="rolled_back", ends=True), placement())
    assert store.placement("m") == promoted
    assert [d.decision for d in store.decisions("m")] == ["promoted"]
    store.close()


def test_one_server_at_a_time_holds_a_state_directory(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    with pytest.raises(ConfigError, match="another server's"):
        RolloutStore(tmp_path)
    store.close()
    RolloutStore(tmp_path).close()


def test_the_order_of_decisions_is_not_the_wall_clocks(tmp_path: Path) -> None:
    """The wall clock jumps a year back between two decisions."""
    clock = ManualClock()
    store = RolloutStore(tmp_path, clock)
    store.decide(decision("a"), placement())
    clock._start -= timedelta(days=365)
    store.decide(decision("b"), placement())
    found = store.decisions("m")
    assert [d.rollout for d in found] == ["a", "b"]
    assert found[0].at > found[1].at
    store.close()


def test_a_full_disk_records_nothing_and_says_so(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.decide(decision("a"), placement())
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    full = decision("b", numbers={"text": "x" * 100_000})
    with pytest.raises(StorageError, match="full"):
        store.decide(full, placement(stable=Source("v1", "sha256:1")))
    assert store.placement("m") == placement()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.decide(full, placement())
    assert [d.rollout for d in store.decisions("m")] == ["a", "b"]
    store.close()


def test_a_directory_that_cannot_be_used_yet_is_used_once_it_can(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    store = RolloutStore(tmp_path / "state")
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot make"):
            store.placement("m")
    (tmp_path / "state").unlink()
    assert store.placement("m") is None
    store.decide(decision("a"), placement())
    with pytest.raises(ConfigError, match="another server's"):
        RolloutStore(tmp_path / "state")
    store.close()


def test_a_decision_whose_numbers_are_damaged_is_told_by_its_number(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.decide(decision("a"), placement())
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE decisions SET numbers = x'5b31'")  # "[1"
    connection.close()
    with pytest.raises(JournalError, match="decision 1"):
        store.decisions("m")
    store.close()


def test_a_file_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    RolloutStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "rollout.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="newer release"):
        RolloutStore(tmp_path)


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "state")
    assert store.path.stat().st_mode & 0o077 == 0
    assert store.path.parent.stat().st_mode & 0o077 == 0
    store.close()
