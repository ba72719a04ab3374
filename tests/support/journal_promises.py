"""What must hold for a journal after any fault, given what it had acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path

from support.journalled_work import RUN_ID, expected

from interlock.errors import JournalVersionError, RunNotFoundError
from interlock.kernel.journal import Journal


def check_promises(
    path: Path, acknowledged: Collection[str], *, items: int, batch: int
) -> set[str]:
    """Assert them, and return the keys that have an outcome.

    Acknowledged outcomes are there, once, as they were recorded. What was not acknowledged is
    there as one whole transaction, or not at all. A run has all its items, or does not exist.
    """
    assert len(acknowledged) == len(set(acknowledged))
    try:
        with Journal.open(path, create=False) as journal:
            info = journal.info(RUN_ID)
            listed = list(journal.outcomes(RUN_ID))
    except (JournalVersionError, RunNotFoundError):
        # It was cut off before the run existed.
        assert not acknowledged
        return set()
    outcomes = dict(listed)
    assert len(outcomes) == len(listed) == items - info.pending
    assert info.items == items
    assert info.state == ("interrupted" if info.finished is None else "done")
    assert info.open_attempts <= batch
    assert set(acknowledged) <= outcomes.keys()
    assert len(outcomes.keys() - set(acknowledged)) in (0, batch)
    for key, outcome in outcomes.items():
        assert outcome == expected(key)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    return set(outcomes)
