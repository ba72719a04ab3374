"""The journal's tables, their version, and the way from each older version to this one.

`PRAGMA application_id` marks a file as a journal and `PRAGMA user_version` holds the version of
its tables. A change to the tables adds a migration, a version and a frozen file in
`tests/fixtures/journal/`.

- runs: one row a run, with the digests of its configuration and inputs.
- items: what a run is made of. A row never changes but for `position`, which gives the order and
  is NULL for an item that was withdrawn when a changed input was accepted.
- attempts: written before the work is sent, one row a try.
- outcomes: at most one row an item, never overwritten.
- changes: what `resume_run(accept_changes=True)` accepted, in words.

Times are milliseconds since 1970 in UTC, digests are 32 raw bytes, JSON is UTF-8 text in a BLOB.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from interlock.kernel.errors import JournalVersionError

APPLICATION_ID = 0x494C4A31
VERSION = 1

TABLES = """
CREATE TABLE runs (
    id            INTEGER PRIMARY KEY,
    run_id        TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('running', 'done', 'interrupted', 'failed')),
    created       INTEGER NOT NULL,
    finished      INTEGER,
    config_digest BLOB NOT NULL,
    inputs_digest BLOB NOT NULL,
    settings      BLOB NOT NULL,
    versions      BLOB NOT NULL,
    holder        BLOB
);
CREATE TABLE items (
    id       INTEGER PRIMARY KEY,
    run      INTEGER NOT NULL REFERENCES runs (id),
    position INTEGER,
    key      TEXT NOT NULL,
    digest   BLOB NOT NULL,
    payload  BLOB
);
CREATE UNIQUE INDEX items_by_key ON items (run, key) WHERE position IS NOT NULL;
CREATE UNIQUE INDEX items_by_position ON items (run, position);
CREATE TABLE attempts (
    item   INTEGER NOT NULL REFERENCES items (id),
    number INTEGER NOT NULL,
    begun  INTEGER NOT NULL,
    PRIMARY KEY (item, number)
) WITHOUT ROWID;
CREATE TABLE outcomes (
    item     INTEGER PRIMARY KEY REFERENCES items (id),
    status   TEXT NOT NULL CHECK (status IN ('accepted', 'flagged', 'refused', 'failed')),
    recorded INTEGER NOT NULL,
    outcome  BLOB NOT NULL
);
CREATE TABLE changes (
    run      INTEGER NOT NULL REFERENCES runs (id),
    accepted INTEGER NOT NULL,
    change   TEXT NOT NULL
);
CREATE INDEX changes_by_run ON changes (run);
"""

# version -> the statements that turn it into the next one
MIGRATIONS: Mapping[int, str] = {}


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the database holds nothing at all, ours or another's."""
    marks = (_pragma(connection, "application_id"), _pragma(connection, "user_version"))
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return marks == (0, 0) and tables == 0


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a journal's tables; JournalVersionError where this release can't read it."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise JournalVersionError(
            f"{path} is a SQLite database, but not a journal", hint="give the path of a journal"
        )
    version = _pragma(connection, "user_version")
    if version > VERSION:
        raise JournalVersionError(
            f"{path} has journal version {version}; this release reads up to {VERSION}"
        )
    if version < 1:
        raise JournalVersionError(f"{path} has journal version {version}, which never existed")
    return version


def create(connection: sqlite3.Connection) -> None:
    """Create the tables, inside the caller's transaction."""
    _run(connection, TABLES)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables from `version` to this release's, inside the caller's transaction."""
    for step in range(version, VERSION):
        _run(connection, MIGRATIONS[step])
        connection.execute(f"PRAGMA user_version = {step + 1}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    # Connection.executescript would commit the caller's transaction first.
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
