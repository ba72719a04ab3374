"""Runs as JSON lines."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import ConfigError, RunNotFoundError, StorageError
from interlock.kernel.clock import ManualClock
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status

OUTCOME: Outcome[Any] = Outcome(Status.ACCEPTED, value=[1, float("inf")], route="arm")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    with Journal.open(tmp_path / "journal.sqlite", clock=clock) as journal:
        items = [Item(f"k{index}", {"b": index, "a": "ü\n"}) for index in range(450)]
        run = journal.create_run("t", config={}, items=items, run_id="one")
        clock.advance(0.5)
        run.begin(["k1", "k2"])
        run.begin(["k1"])
        run.record([("k1", OUTCOME)])
        yield journal


def test_a_line_an_item_in_input_order(journal: Journal) -> None:
    buffer = io.StringIO()
    assert journal.export_jsonl("one", buffer) == 450
    lines = [json.loads(line) for line in buffer.getvalue().splitlines()]
    assert [line["key"] for line in lines] == [f"k{index}" for index in range(450)]
    assert lines[1] | {"digest": ""} == {
        "key": "k1",
        "digest": "",
        "payload": {"b": 1, "a": "ü\n"},
        "attempts": 2,
        "recorded": "2026-05-01T00:00:00.500000Z",
        "outcome": json.loads(OUTCOME.to_json()),
    }
    assert Outcome.from_json(json.dumps(lines[1]["outcome"])) == OUTCOME
    assert [lines[2][name] for name in ("attempts", "recorded", "outcome")] == [1, None, None]


def test_a_file_is_replaced_whole_or_not_at_all(journal: Journal, tmp_path: Path) -> None:
    target = tmp_path / "out" / "run.jsonl"
    target.parent.mkdir()
    target.write_text("what was there")
    with pytest.raises(RunNotFoundError):
        journal.export_jsonl("absent", target)
    assert target.read_text() == "what was there"

    journal.export_jsonl("one", str(target))

    buffer = io.StringIO()
    journal.export_jsonl("one", buffer)
    assert target.read_text(encoding="utf-8") == buffer.getvalue()
    assert [path.name for path in target.parent.iterdir()] == ["run.jsonl"]


def test_a_place_that_cannot_be_written_is_named(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        journal.export_jsonl("one", tmp_path / "absent" / "run.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        journal.export_jsonl("one", tmp_path / "folder")
    assert not list(tmp_path.glob(".folder*"))


def test_what_is_no_file_is_not_replaced(journal: Journal, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="no file but a device"):
        journal.export_jsonl("one", pipe)
    assert pipe.is_fifo()


def test_the_journal_is_not_replaced_by_its_export(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journal.path.parent)
    linked = tmp_path / "linked"
    linked.symlink_to(journal.path.parent)
    for path in (
        journal.path,
        Path(journal.path.name),
        linked / journal.path.name,
        journal.path.with_name(f"{journal.path.name}-wal"),
    ):
        with pytest.raises(ConfigError, match="belongs to the journal"):
            journal.export_jsonl("one", path)
    assert journal.info("one").items == 450
