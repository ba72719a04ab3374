"""The durable record of runs, item by item, in one SQLite file.

A run is created with its items; before an item is worked on, an attempt is written, and when its
outcome is known, that is recorded, once. What `JournalRun.record` was given is acknowledged when
it returns: from then on it survives kill -9, and, with `durability="full"`, also a power loss.
With `"normal"` a power loss may take the last records with it, but never half of one.

A journal holds prompts and answers. The file, its `-wal` and `-shm`, its lock files and the
directories made for it are readable by their owner only, whatever the umask; a file that exists
keeps its mode.
"""

from __future__ import annotations

import secrets
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from interlock.kernel import journal_export, journal_inputs
from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.errors import (
    ConfigError,
    InputError,
    JournalError,
    RunChangedError,
    RunLockedError,
    RunNotFoundError,
    StorageError,
)
from interlock.kernel.journal_digest import (
    Setting,
    canonical_json,
    describe_changes,
    settings,
    sha256,
)
from interlock.kernel.journal_info import (
    SELECT_RUN,
    RunInfo,
    milliseconds,
    read_holder,
    run_info,
    this_holder,
    versions,
)
from interlock.kernel.journal_inputs import Item, is_unicode
from interlock.kernel.journal_lock import FileHold
from interlock.kernel.journal_run import JournalRun
from interlock.kernel.journal_store import Durability, Store, default_path
from interlock.kernel.outcome import Outcome

__all__ = ["Durability", "Item", "Journal", "JournalRun", "RunInfo", "default_path"]


class Journal:
    """A file of runs. Use it as a context manager, or call `close`.

    May be shared by threads; not by processes: each opens its own.
    """

    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock
        self._runs: weakref.WeakSet[JournalRun] = weakref.WeakSet()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        durability: Durability = "normal",
        clock: Clock = SYSTEM_CLOCK,
        create: bool = True,
    ) -> Journal:
        """Open the journal at `path`; an older version's tables are migrated.

        `durability="full"` waits for the disk at every record; use it for answers that cost money.
        Raises RunNotFoundError where there is no file and `create` is false, JournalVersionError
        for a newer version or a file that is not a journal, StorageError where it can't be written.
        """
        if durability not in ("normal", "full"):
            raise ConfigError(f"durability is {durability!r}; it must be 'normal' or 'full'")
        try:
            # Two names of one file must share its lock files.
            resolved = Path(path).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise StorageError(
                f"no journal can be at {str(path)!r}: {error}", hint="give another path"
            ) from error
        return cls(Store.open(resolved, durability=durability, create=create), clock)

    @property
    def path(self) -> Path:
        """Where the journal is."""
        return self._store.path

    def close(self) -> None:
        """Release the runs that this journal handed out, and close the file."""
        for run in list(self._runs):
            run.close()
        self._store.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def create_run(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        items: Iterable[Item],
        run_id: str | None = None,
    ) -> JournalRun:
        """Record a run and all its items, in one transaction, and hold it.

        `items` is read once, before the transaction, and not kept in memory. The configuration's
        text is not stored (see `interlock.kernel.journal_digest`). Raises InputError for two items
        with one key, a payload that JSON cannot carry or a malformed name or id, JournalError
        where `run_id` exists.
        """
        now = self._clock.now()
        run_id = run_id or f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        journal_inputs.check_run_id(run_id)
        if not is_unicode(name):
            raise InputError("name is not Unicode text")
        config_digest = sha256(canonical_json(dict(config), "config"))
        hold = self._hold(run_id)
        try:
            with self._staging() as connection:
                # The hold keeps other processes from creating it meanwhile.
                if connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone():
                    raise JournalError(
                        f"run {run_id} exists already", hint="resume it, or choose another id"
                    )
                journal_inputs.stage(connection, items)
                with self._store.transaction():
                    row = connection.execute(
                        "INSERT INTO runs (run_id, name, state, created, config_digest,"
                        " inputs_digest, settings, versions, holder)"
                        " VALUES (?, ?, 'running', ?, ?, x'', ?, ?, ?)",
                        (
                            run_id,
                            name,
                            milliseconds(now),
                            config_digest,
                            msgspec.json.encode(settings(config)),
                            msgspec.json.encode(versions()),
                            this_holder(),
                        ),
                    ).lastrowid
                    assert row is not None
                    journal_inputs.insert(connection, row)
                    journal_inputs.seal(connection, row)
            return self._run(row, run_id, hold)
        except BaseException:
            hold.release()
            raise

    def resume_run(
        self,
        run_id: str,
        *,
        config: Mapping[str, Any],
        items: Iterable[Item] | None,
        accept_changes: bool = False,
    ) -> JournalRun:
        """Hold a recorded run again, after comparing what it is asked to do with what it was.

        `items=None` keeps the recorded items unseen. The order of `items` does not matter: the
        recorded order stays. Raises RunNotFoundError, RunLockedError, and RunChangedError where
        the configuration or an input differs, unless `accept_changes`: then recorded outcomes of
        unchanged items stay, added items are appended, removed items are withdrawn, and a changed
        item is withdrawn and asked again under its key. Withdrawn items keep their attempts and
        outcomes in the file, but no longer count, until a later change gives the same item again;
        what was accepted is kept in `RunInfo.changes`.
        """
        self._row(run_id)
        hold = self._hold(run_id)
        try:
            row = self._row(run_id)
            with self._staging() as connection:
                changes = self._changed_config(row, config)
                changed_items = (
                    [] if items is None else journal_inputs.compare(connection, row, items)
                )
                changes += changed_items
                if changes and not accept_changes:
                    raise RunChangedError(
                        f"run {run_id} was asked for something else: {'; '.join(changes)}",
                        changes=tuple(changes),
                    )
                with self._store.transaction():
                    if changes:
                        self._note_changes(connection, row, config, changes)
                    if changed_items:
                        journal_inputs.accept(connection, row)
                        journal_inputs.seal(connection, row)
                    connection.execute(
                        "UPDATE runs SET holder = ? WHERE id = ?", (this_holder(), row)
                    )
            run = self._run(row, run_id, hold)
            run.reopen()
            return run
        except BaseException:
            hold.release()
            raise

    def runs(self) -> list[RunInfo]:
        """Every run, oldest first."""
        with self._store.read() as connection:
            rows = connection.execute(f"{SELECT_RUN} ORDER BY created, id").fetchall()
            return [run_info(connection, self.path, row) for row in rows]

    def info(self, run_id: str) -> RunInfo:
        """What is known about one run; raises RunNotFoundError."""
        row = self._row(run_id)
        with self._store.read() as connection:
            found = connection.execute(f"{SELECT_RUN} WHERE id = ?", (row,)).fetchone()
            return run_info(connection, self.path, found)

    def outcomes(self, run_id: str, prefix: str = "") -> Iterator[tuple[str, Outcome[Any]]]:
        """Key and outcome of every item that has one, in input order, read page by page.

        Only of items whose key starts with `prefix`. Withdrawn items are left out. Raises
        RunNotFoundError at once.
        """
        return ((key, Outcome.from_json(outcome)) for key, outcome in self.stored(run_id, prefix))

    def stored(self, run_id: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """As `outcomes`, with each outcome as the JSON that `Outcome.to_json` wrote."""
        return journal_export.stored(self._store, self._row(run_id), prefix)

    def recorded(self, digests: Iterable[str]) -> dict[str, Outcome[Any]]:
        """Digest of an item (64 hex digits) -> the outcome recorded last for it, in any run.

        So an answer is found again under the address of what was asked. Digests without an outcome
        are left out.
        """
        return {
            digest: Outcome.from_json(bytes(outcome))
            for digest, outcome in journal_export.recorded(self._store, digests).items()
        }

    def export_jsonl(self, run_id: str, path_or_file: Path | str | IO[str]) -> int:
        """Write one JSON line an item, in input order; returns how many.

        A path gets an owner-only file, complete or not there at all. Raises StorageError, and
        ConfigError for a file of the journal itself.
        """
        return journal_export.export_jsonl(self._store, self._row(run_id), path_or_file)

    def delete_run(self, run_id: str) -> None:
        """Delete a run with its payloads and outcomes; their bytes are overwritten in the file.

        Where another process reads at that moment, the write-ahead log keeps them until its next
        checkpoint. Raises RunNotFoundError, and RunLockedError while a process holds the run.
        """
        self._row(run_id)
        with self._hold(run_id) as hold:
            row = self._row(run_id)
            with self._store.transaction() as connection:
                for statement in (
                    "DELETE FROM outcomes WHERE item IN (SELECT id FROM items WHERE run = ?)",
                    "DELETE FROM attempts WHERE item IN (SELECT id FROM items WHERE run = ?)",
                    "DELETE FROM items WHERE run = ?",
                    "DELETE FROM changes WHERE run = ?",
                    "DELETE FROM runs WHERE id = ?",
                ):
                    connection.execute(statement, (row,))
            hold.remove()
        self._store.reclaim()

    def prune(
        self,
        older_than: timedelta | None = None,
        keep: int | None = None,
        *,
        unfinished: bool = False,
        dry_run: bool = False,
    ) -> list[str]:
        """Delete old runs and return their ids, oldest first.

        A run is deleted where it ended (else was created) more than `older_than` ago and is not
        among the `keep` latest; with one of the two given, that one decides. Only `done` and
        `failed` runs, and with `unfinished` also interrupted ones, which could be resumed; never
        a run that a process holds. `dry_run` only says which. Raises ConfigError where neither is
        given or one is negative.
        """
        if older_than is None and keep is None:
            raise ConfigError("prune: neither older_than nor keep is given")
        if keep is not None and keep < 0:
            raise ConfigError(f"keep is {keep}; it must be 0 or more")
        if older_than is not None and older_than < timedelta(0):
            raise ConfigError(f"older_than is {older_than}; it must be 0 or more")
        ended = {"done", "failed"} | ({"interrupted"} if unfinished else set())
        chosen = [run for run in self.runs() if run.state in ended]
        chosen.sort(key=lambda run: run.finished or run.created)
        if keep:
            chosen = chosen[:-keep]
        if older_than is not None:
            now = self._clock.now()
            # Ages are compared, not moments: the calendar ends before the longest timedelta.
            chosen = [run for run in chosen if now - (run.finished or run.created) > older_than]
        deleted = []
        for run in chosen:
            try:
                if not dry_run:
                    self.delete_run(run.run_id)
            except (RunLockedError, RunNotFoundError):
                continue  # resumed or deleted by another process since it was listed
            deleted.append(run.run_id)
        return deleted

    @contextmanager
    def _staging(self) -> Iterator[sqlite3.Connection]:
        """The connection for this thread alone, as its temporary tables must not be another's."""
        with self._store.read() as connection:
            try:
                yield connection
            finally:
                with suppress(sqlite3.Error):
                    journal_inputs.discard(connection)

    def _changed_config(self, row: int, config: Mapping[str, Any]) -> list[str]:
        with self._store.read() as connection:
            digest, recorded = connection.execute(
                "SELECT config_digest, settings FROM runs WHERE id = ?", (row,)
            ).fetchone()
        if digest == sha256(canonical_json(dict(config), "config")):
            return []
        old = msgspec.json.decode(recorded, type=dict[str, Setting])
        return describe_changes(old, settings(config)) or ["config: differs"]

    def _note_changes(
        self,
        connection: sqlite3.Connection,
        row: int,
        config: Mapping[str, Any],
        changes: list[str],
    ) -> None:
        now = milliseconds(self._clock.now())
        connection.execute(
            "UPDATE runs SET config_digest = ?, settings = ? WHERE id = ?",
            (
                sha256(canonical_json(dict(config), "config")),
                msgspec.json.encode(settings(config)),
                row,
            ),
        )
        connection.executemany(
            "INSERT INTO changes VALUES (?, ?, ?)", [(row, now, change) for change in changes]
        )

    def _row(self, run_id: str) -> int:
        row = None
        if is_unicode(run_id):
            with self._store.read() as connection:
                row = connection.execute(
                    "SELECT id FROM runs WHERE run_id = ?", (run_id,)
                ).fetchone()
        if row is None:
            raise RunNotFoundError(f"no run {run_id!r} in {self.path}")
        return int(row[0])

    def _hold(self, run_id: str) -> FileHold:
        journal_inputs.check_run_id(run_id)
        hold = FileHold.take(self.path, run_id)
        if hold is None:
            with self._store.read() as connection:
                row = connection.execute(
                    "SELECT holder FROM runs WHERE run_id = ?", (run_id,)
                ).fetchone()
            holder = read_holder(row[0]) if row else None
            raise RunLockedError(f"run {run_id} is held by {holder or 'another process'}")
        return hold

    def _run(self, row: int, run_id: str, hold: FileHold) -> JournalRun:
        run = JournalRun(self._store, row, run_id, hold, self._clock)
        self._runs.add(run)
        return run
