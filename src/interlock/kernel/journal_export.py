"""A run's items and outcomes, read page by page, and written as JSON lines.

A line holds `key`, `digest` (SHA-256 in hex), `payload`, `attempts` (how often it was begun),
`recorded` (UTC) and `outcome` (as `Outcome.to_json` writes it); the last two are null for an item
without an outcome. Payloads and outcomes are copied as stored.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import msgspec

from interlock.kernel.errors import ConfigError, StorageError
from interlock.kernel.journal_info import moment
from interlock.kernel.journal_store import Store
from interlock.kernel.replace_file import refuse_special

PAGE = 200
STORED_PAGE = 1000


class Record(msgspec.Struct, frozen=True):
    """One item with what became of it; `payload` and `outcome` are JSON."""

    key: str
    digest: str
    payload: msgspec.Raw
    attempts: int
    recorded: datetime | None
    outcome: msgspec.Raw | None


def stored(store: Store, run: int, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Key and outcome of the recorded items whose key starts with `prefix`, in input order."""
    after = -1
    while True:
        with store.read() as connection:
            page = connection.execute(
                "SELECT position, key, outcome FROM items JOIN outcomes ON item = items.id"
                " WHERE run = ? AND position > ? AND substr(key, 1, ?) = ?"
                " ORDER BY position LIMIT ?",
                (run, after, len(prefix), prefix, STORED_PAGE),
            ).fetchall()
        for _, key, outcome in page:
            yield key, outcome
        if len(page) < STORED_PAGE:
            return
        after = page[-1][0]


def records(store: Store, run: int) -> Iterator[Record]:
    """The run's items in input order; an outcome recorded meanwhile may be in it or not."""
    after = -1
    while True:
        with store.read() as connection:
            page = connection.execute(
                "SELECT position, key, digest, payload, recorded, outcome,"
                " (SELECT count(*) FROM attempts WHERE item = items.id)"
                " FROM items LEFT JOIN outcomes ON item = items.id"
                " WHERE run = ? AND position > ? ORDER BY position LIMIT ?",
                (run, after, PAGE),
            ).fetchall()
        for _, key, digest, payload, recorded, outcome, attempts in page:
            yield Record(
                key=key,
                digest=digest.hex(),
                payload=msgspec.Raw(b"null" if payload is None else payload),
                attempts=attempts,
                recorded=None if recorded is None else moment(recorded),
                outcome=None if outcome is None else msgspec.Raw(outcome),
            )
        if len(page) < PAGE:
            return
        after = page[-1][0]


def recorded(store: Store, digests: Iterable[str]) -> dict[str, msgspec.Raw]:
    """Digest of an item -> the outcome recorded last for it in any run, withdrawn ones included."""
    wanted = sorted({bytes.fromhex(digest) for digest in digests})
    found: dict[str, msgspec.Raw] = {}
    for start in range(0, len(wanted), PAGE):
        page = wanted[start : start + PAGE]
        marks = ", ".join("?" * len(page))
        with store.read() as connection:
            rows = connection.execute(
                "SELECT digest, outcome FROM items JOIN outcomes ON item = items.id"
                f" WHERE digest IN ({marks}) ORDER BY recorded, item",
                page,
            )
            found |= {digest.hex(): msgspec.Raw(outcome) for digest, outcome in rows}
    return found


def export_jsonl(store: Store, run: int, target: Path | str | IO[str]) -> int:
    """Write a line an item to a text file or a path; returns how many.

    A path's file is owner-only and appears complete or not at all. Raises StorageError, and
    ConfigError for a file of the journal itself.
    """
    if not isinstance(target, str | Path):
        return _write(store, run, target)
    path = Path(target)
    place, journal = path.parent.resolve() / path.name, store.path.resolve()
    if place in (journal, *(journal.with_name(journal.name + end) for end in ("-wal", "-shm"))):
        raise ConfigError(f"{path} belongs to the journal", hint="write to another file")
    try:
        refuse_special(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), 0o600)
                lines = _write(store, run, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="check that the directory exists and that there is space",
        ) from error
    return lines


def _write(store: Store, run: int, file: IO[str]) -> int:
    lines = 0
    for record in records(store, run):
        file.write(msgspec.json.encode(record).decode() + "\n")
        lines += 1
    return lines
