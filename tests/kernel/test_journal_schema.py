"""Every released journal opens with today's code, a newer one is refused."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlock.errors import JournalVersionError, RunChangedError, StorageError
from interlock.kernel import journal_schema
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import EvidenceKind, Outcome, Status

FIXTURES = Path(__file__).parents[1] / "fixtures" / "journal"

# What make_v1.py wrote, in the words of the release that wrote it.
CONFIG = {"model": "arm", "tau": 0.002, "prompt": "Say what you see in this picture.", "seeds": [1]}
ITEMS = [
    Item("plain", "another prompt"),
    Item("nested", {"theta": [0.25, -0.5], "note": None}),
    Item("array", {"x": np.array([[1.0, np.nan]], dtype=np.float32)}),
    Item("unstored", None, "ab" * 32),
    Item("begun", 5),
    Item("pending", 6),
    Item("added", 7),
]


@pytest.fixture(params=["v1.sqlite"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy: opening may migrate, and the frozen file must stay as it is."""
    return Path(shutil.copy(FIXTURES / request.param, tmp_path / "journal.sqlite"))


def test_everything_in_a_released_journal_is_read(released: Path) -> None:
    with Journal.open(released, create=False) as journal:
        done, mixed, cut = journal.runs()
        assert (done.run_id, done.name, done.state) == ("run-done", "done", "done")
        assert done.created == datetime(2026, 1, 1, tzinfo=UTC)
        assert done.finished == datetime(2026, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)
        assert dict(journal.outcomes("run-done")) == {
            "only": Outcome(Status.REFUSED, action="refuse", route="r")
        }
        assert (mixed.state, mixed.items, mixed.pending) == ("interrupted", 7, 4)
        assert (mixed.open_attempts, mixed.withdrawn) == (1, 1)
        assert mixed.settings == {
            "model": "arm",
            "tau": 0.002,
            "prompt": "(not shown)",
            "seeds[0]": 1,
        }
        assert mixed.versions["interlock"] == "0.1.0"
        assert mixed.changes == (
            "2026-01-02 00:00:01 config tau: 0.001 → 0.002",
            "2026-01-02 00:00:01 item 'added' added",
            "2026-01-02 00:00:01 item 'plain' changed",
        )
        outcomes = dict(journal.outcomes("run-mixed"))
        assert [outcomes[key].value for key in ("plain", "nested")] == ["second answer", [0.5, 1.5]]
        np.testing.assert_array_equal(outcomes["array"].value, [0.0, 1.0, 2.0])
        assert outcomes["plain"].evidence.kind is EvidenceKind.CHECKED
        assert [step.seconds for step in outcomes["plain"].steps] == [0.0, 0.125]
        assert (cut.run_id, cut.state, cut.finished) == ("run-cut", "interrupted", None)


def test_a_released_run_resumes_where_its_digests_say_so(released: Path) -> None:
    with Journal.open(released) as journal:
        with pytest.raises(RunChangedError):
            journal.resume_run("run-mixed", config=CONFIG, items=ITEMS[:-1])
        with journal.resume_run("run-mixed", config=CONFIG, items=ITEMS) as run:
            assert list(run.pending()) == ["unstored", "begun", "pending", "added"]
            assert run.open_attempts() == ["begun"]
            assert run.payload("array")["x"].dtype == np.float32
            run.record([(key, Outcome(Status.FAILED)) for key in list(run.pending())])
            run.finish("done")


def tables(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    ).fetchall()
    connection.close()
    return found


def test_a_migrated_journal_has_the_tables_of_a_fresh_one(released: Path, tmp_path: Path) -> None:
    Journal.open(released).close()
    Journal.open(tmp_path / "fresh.sqlite").close()
    assert tables(released) == tables(tmp_path / "fresh.sqlite")


def test_there_is_a_fixture_and_a_way_up_for_every_version() -> None:
    versions = range(1, journal_schema.VERSION + 1)
    assert sorted(path.name for path in FIXTURES.glob("*.sqlite")) == [
        f"v{version}.sqlite" for version in versions
    ]
    assert list(journal_schema.MIGRATIONS) == list(versions)[:-1]


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> int:
    """Today's code as if one more migration had been released."""
    version = journal_schema.VERSION
    script = "ALTER TABLE runs ADD COLUMN place TEXT;\nUPDATE runs SET place = 'here; there';\n"
    monkeypatch.setattr(journal_schema, "VERSION", version + 1)
    monkeypatch.setattr(
        journal_schema, "MIGRATIONS", {**journal_schema.MIGRATIONS, version: script}
    )
    return version + 1


def test_an_older_journal_is_migrated_and_an_older_release_refuses_it(
    released: Path, next_release: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(released) as journal:
        assert len(journal.runs()) == 3
    connection = sqlite3.connect(released)
    assert connection.execute("SELECT DISTINCT place FROM runs").fetchall() == [("here; there",)]
    connection.close()
    Journal.open(released).close()
    monkeypatch.undo()
    before = released.read_bytes()
    with pytest.raises(JournalVersionError, match=f"has journal version {next_release}; .* up to"):
        Journal.open(released)
    assert released.read_bytes() == before


def test_a_migration_that_fails_leaves_the_older_journal(
    released: Path, next_release: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {next_release - 1: "ALTER TABLE runs ADD COLUMN place TEXT;\nUPDATE absent SET a = 1;"}
    monkeypatch.setattr(journal_schema, "MIGRATIONS", broken)
    before = tables(released)
    with pytest.raises(StorageError):
        Journal.open(released)
    assert tables(released) == before
    monkeypatch.undo()
    with Journal.open(released) as journal:
        assert len(journal.runs()) == 3
