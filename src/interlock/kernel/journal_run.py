"""One run that this process holds: what is pending, what is begun, what is recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import msgspec

from interlock.kernel.clock import Clock
from interlock.kernel.errors import ConfigError, JournalError
from interlock.kernel.journal_info import count_items, count_outcomes, milliseconds
from interlock.kernel.journal_inputs import is_unicode
from interlock.kernel.journal_lock import FileHold
from interlock.kernel.journal_store import Store
from interlock.kernel.outcome import Outcome, Status, from_plain

PAGE = 1000

_NO_OUTCOME = "NOT EXISTS (SELECT 1 FROM outcomes WHERE item = items.id)"


class JournalRun:
    """A run that this process, and no other, may write to until `close`.

    One thread writes; others may read. Use it as a context manager, or call `close`: a run that
    is closed without `finish` reads as interrupted and can be resumed.
    """

    def __init__(self, store: Store, row: int, run_id: str, hold: FileHold, clock: Clock) -> None:
        self.run_id = run_id
        self._store = store
        self._row = row
        self._hold: FileHold | None = hold
        self._clock = clock
        self._counts: dict[Status, int] | None = None
        with store.read() as connection:
            self._items = count_items(connection, row)

    def __enter__(self) -> JournalRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def pending(self, prefix: str = "") -> Iterator[str]:
        """Keys without an outcome, in input order, read page by page; those that start so.

        An outcome recorded while iterating removes its key only from pages not read yet.
        """
        after = -1
        while True:
            with self._store.read() as connection:
                page = connection.execute(
                    "SELECT position, key FROM items WHERE run = ? AND position > ?"
                    " AND substr(key, 1, ?) = ?"
                    f" AND {_NO_OUTCOME} ORDER BY position LIMIT ?",
                    (self._row, after, len(prefix), prefix, PAGE),
                ).fetchall()
            for _, key in page:
                yield key
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def payload(self, key: str) -> Any:
        """The item's payload as given, tuples as lists; None where none was stored.

        Raises JournalError for a key that the run does not have.
        """
        with self._store.read() as connection:
            stored = connection.execute(
                "SELECT payload FROM items WHERE id = ?", (self._item(connection, key),)
            ).fetchone()[0]
        return None if stored is None else from_plain(msgspec.json.decode(stored))

    def begin(self, keys: Sequence[str]) -> None:
        """Write an attempt for each key, in one transaction, before its work is sent.

        Raises JournalError for an unknown key or one that has an outcome; then none is begun.
        """
        now = milliseconds(self._clock.now())
        with self._write() as connection:
            for key in keys:
                item = self._item(connection, key)
                if connection.execute("SELECT 1 FROM outcomes WHERE item = ?", (item,)).fetchone():
                    raise JournalError(f"item {key[:80]!r} of run {self.run_id} has an outcome")
                connection.execute(
                    "INSERT INTO attempts SELECT ?1, coalesce(max(number), 0) + 1, ?2"
                    " FROM attempts WHERE item = ?1",
                    (item, now),
                )

    def take_back(self, keys: Sequence[str]) -> None:
        """Undo the last `begin` of each key, in one transaction: its work was never sent.

        Raises JournalError for an unknown key or one that has an outcome; then nothing is undone.
        """
        if not keys:
            return
        with self._write() as connection:
            for key in keys:
                item = self._item(connection, key)
                if connection.execute("SELECT 1 FROM outcomes WHERE item = ?", (item,)).fetchone():
                    raise JournalError(f"item {key[:80]!r} of run {self.run_id} has an outcome")
                connection.execute(
                    "DELETE FROM attempts WHERE item = ?1 AND number ="
                    " (SELECT max(number) FROM attempts WHERE item = ?1)",
                    (item,),
                )

    def record(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        """Write outcomes, in one transaction; they are acknowledged when this returns.

        Raises JournalError for an unknown key or a second outcome for one, StorageError where
        the write failed; then none of them is acknowledged and none half-written.
        """
        now = milliseconds(self._clock.now())
        encoded = [(key, outcome.status, outcome.to_json()) for key, outcome in results]
        counts = self.counts()
        with self._write() as connection:
            for key, status, outcome in encoded:
                try:
                    connection.execute(
                        "INSERT INTO outcomes VALUES (?, ?, ?, ?)",
                        (self._item(connection, key), status.value, now, outcome),
                    )
                except sqlite3.IntegrityError:
                    raise JournalError(
                        f"item {key[:80]!r} of run {self.run_id} has an outcome already"
                    ) from None
                counts[status] += 1
            # Counted again from the file unless the commit is known to have succeeded.
            self._counts = None
        self._counts = counts

    def open_attempts(self) -> list[str]:
        """Keys that were begun and have no outcome, in input order.

        Asked before a resumed run begins anything, these were on the wire when it was cut off.
        """
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT key FROM items WHERE run = ? AND position IS NOT NULL"
                f" AND {_NO_OUTCOME} AND EXISTS (SELECT 1 FROM attempts WHERE item = items.id)"
                " ORDER BY position",
                (self._row,),
            )
            return [key for (key,) in rows]

    def unanswered_attempts(self) -> dict[str, int]:
        """Keys of current items -> how many attempts gave no outcome, where there are any.

        A recorded item had one attempt for its outcome; each further one was cut off.
        """
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT key, (SELECT count(*) FROM attempts WHERE item = items.id)"
                " - EXISTS (SELECT 1 FROM outcomes WHERE item = items.id)"
                " FROM items WHERE run = ? AND position IS NOT NULL AND id IN"
                " (SELECT item FROM attempts WHERE number > 1 OR"
                "  NOT EXISTS (SELECT 1 FROM outcomes WHERE outcomes.item = attempts.item))"
                " ORDER BY position",
                (self._row,),
            )
            return dict(rows)

    def withdrawn(self) -> Iterator[tuple[str, int, bytes | None]]:
        """Items that an accepted change or `ask_again` withdrew, read page by page.

        Key, how many of its attempts gave no outcome, and the outcome as `Outcome.to_json` wrote
        it, None where there is none. A key may come several times.
        """
        after = -1
        while True:
            with self._store.read() as connection:
                page = connection.execute(
                    "SELECT items.id, key, (SELECT count(*) FROM attempts WHERE item = items.id)"
                    " - (outcome IS NOT NULL), outcome"
                    " FROM items LEFT JOIN outcomes ON outcomes.item = items.id"
                    " WHERE run = ? AND position IS NULL AND items.id > ?"
                    " ORDER BY items.id LIMIT ?",
                    (self._row, after, PAGE),
                ).fetchall()
            for _, key, unanswered, outcome in page:
                yield key, max(0, unanswered), outcome
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def ask_again(self, keys: Sequence[str], why: str) -> None:
        """Make recorded items pending again, in one transaction, and note `why` with the run.

        The earlier items are withdrawn, and keep their attempts and outcomes in the file. Raises
        JournalError for an unknown key; then none is asked again.
        """
        with self._write() as connection:
            for key in keys:
                item = self._item(connection, key)
                position = connection.execute(
                    "SELECT position FROM items WHERE id = ?", (item,)
                ).fetchone()[0]
                connection.execute("UPDATE items SET position = NULL WHERE id = ?", (item,))
                connection.execute(
                    "INSERT INTO items (run, position, key, digest, payload)"
                    " SELECT run, ?, key, digest, payload FROM items WHERE id = ?",
                    (position, item),
                )
            if keys:
                connection.execute(
                    "INSERT INTO changes VALUES (?, ?, ?)",
                    (self._row, milliseconds(self._clock.now()), why),
                )
            self._counts = None
        self.reopen()

    def counts(self) -> dict[Status, int]:
        """How many items ended in each status, zeros included."""
        counts = self._counts
        if counts is None:
            with self._store.read() as connection:
                # Kept while no transaction can pass by, so that it is never an older count.
                counts = self._counts = count_outcomes(connection, self._row)
        return dict(counts)

    def finish(self, state: Literal["done", "interrupted", "failed"]) -> None:
        """Write how the run ended; it stays held until `close`.

        Raises JournalError for `done` while items are pending.
        """
        if state not in ("done", "interrupted", "failed"):
            raise ConfigError(f"state is {state!r}; it must be 'done', 'interrupted' or 'failed'")
        pending = self._items - sum(self.counts().values())
        if state == "done" and pending:
            raise JournalError(f"run {self.run_id} is not done: {pending} items are pending")
        with self._write() as connection:
            connection.execute(
                "UPDATE runs SET state = ?, finished = ? WHERE id = ?",
                (state, milliseconds(self._clock.now()), self._row),
            )

    def reopen(self) -> None:
        """Mark a resumed run as running, unless nothing is left to do."""
        if sum(self.counts().values()) < self._items:
            with self._write() as connection:
                connection.execute(
                    "UPDATE runs SET state = 'running', finished = NULL WHERE id = ?", (self._row,)
                )

    def close(self) -> None:
        """Let the run go; closing twice does nothing, in a forked child nothing to the parent."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def _write(self) -> Any:
        if self._hold is None:
            raise JournalError(f"run {self.run_id} is closed", hint="resume it")
        return self._store.transaction()

    def _item(self, connection: sqlite3.Connection, key: str) -> int:
        row = None
        if is_unicode(key):
            row = connection.execute(
                "SELECT id FROM items WHERE run = ? AND key = ? AND position IS NOT NULL",
                (self._row, key),
            ).fetchone()
        if row is None:
            raise JournalError(f"run {self.run_id} has no item {key[:80]!r}")
        return int(row[0])
