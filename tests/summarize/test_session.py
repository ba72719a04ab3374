"""The estimate before a run takes a journal as it finds it; the figures are of the run itself."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support.source_trees import small_tree
from support.summary_models import NamingModel

from interlock.errors import StorageError
from interlock.kernel.journal import Journal
from interlock.summarize import Options, contracts, estimate, session, summarize
from interlock.summarize.plan import make_plan
from interlock.summarize.workers import open_executor

OPTIONS = Options(chunk_lines=40, view="full")


def test_a_tampered_answer_says_nothing_of_the_speed(tmp_path: Path) -> None:
    tree, output = small_tree(tmp_path / "tree"), tmp_path / "out"
    summarize(tree, output, OPTIONS, model=NamingModel())
    assert estimate(tree, output, OPTIONS, model=NamingModel()).rate_from == "the last run"
    with sqlite3.connect(output / "journal.sqlite") as connection:
        for item, outcome in connection.execute("SELECT item, outcome FROM outcomes").fetchall():
            wrong = bytes(outcome).replace(b'"origin":"model"', b'"origin":"nobody"')
            connection.execute("UPDATE outcomes SET outcome = ? WHERE item = ?", (wrong, item))
    found = estimate(tree, output, OPTIONS, model=NamingModel())
    assert (found.rate_from, found.reused) == ("a default", 0)


def test_a_journal_that_may_only_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, output = small_tree(tmp_path / "tree"), tmp_path / "out"
    done = summarize(tree, output, OPTIONS, model=NamingModel())
    whole = Journal.open

    def guarded(path: Path, **named: Any) -> Journal:
        # The tests may run as a user whom no permission stops.
        if path.parent == output:
            raise StorageError(f"{path} cannot be written: unable to open database file")
        return whole(path, **named)

    monkeypatch.setattr(Journal, "open", guarded)
    found = estimate(tree, output, OPTIONS, model=NamingModel())
    assert found.reused == len(done.finished.outcomes)


def test_reading_the_tree_does_not_count_as_keeping_the_cores_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = [0.0]
    whole = make_plan

    def slow(*given: Any) -> Any:
        spent[0] = 1000.0
        return whole(*given)

    monkeypatch.setattr(session, "make_plan", slow)
    monkeypatch.setattr(contracts, "usage", lambda: contracts.Usage(spent[0], 0.0, 1))
    done = summarize(small_tree(tmp_path / "tree"), tmp_path / "out", OPTIONS, model=None)
    assert done.contracts.busy == 0.0


def test_what_worker_processes_took_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = open_executor(None, instances=2, seconds=None)
    ended: list[bool] = []
    whole = executor.close

    def close() -> None:
        whole()
        ended.append(True)

    # The system tells what a child process took once it has ended.
    monkeypatch.setattr(executor, "close", close)
    monkeypatch.setattr(
        contracts, "usage", lambda: contracts.Usage(0.0, len(ended), 1 + len(ended))
    )
    tree, output = small_tree(tmp_path / "tree"), tmp_path / "out"
    done = summarize(tree, output, OPTIONS, model=None, executor=executor)
    assert done.contracts.memory_bytes == 2
    # Which part of it was their work and which the loading of their models, nobody tells.
    assert done.contracts.busy is None
    assert "not measured" in done.files.html.read_text()
