"""A run's items: stored once, compared with what a resumed run is given, and exchanged where a
change is accepted.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from interlock.kernel.errors import InputError
from interlock.kernel.journal_digest import canonical_json, inputs_digest, plain_json, sha256
from interlock.kernel.journal_store import transaction

LISTED = 20

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Item:
    """One thing that a run is to answer.

    `key` is unique within the run and may appear in messages. `payload` is a value that JSON can
    carry (see `interlock.kernel.outcome.to_plain`), None where it is not stored. `digest` is the
    SHA-256 of the input in hex, computed from the payload where empty.
    """

    key: str
    payload: Any = None
    digest: str = ""


def check_run_id(run_id: str) -> None:
    """Raise InputError for an id that could not be part of a file's name."""
    if not _RUN_ID.fullmatch(run_id):
        raise InputError(
            f"run_id is {run_id[:120]!r}; it must be 1 to 100 letters, digits, '.', '_' or '-', "
            "the first a letter or digit"
        )


def is_unicode(text: str) -> bool:
    """Whether `text` can be stored: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stage(connection: sqlite3.Connection, items: Iterable[Item]) -> None:
    """Keep a new run's items in the temporary table `given`, for `insert`.

    Reading them may take long, and in a transaction of the journal it would keep every other
    process from writing. InputError for a key that occurs twice.
    """
    _give(connection, ((at, *_encode(item)) for at, item in enumerate(items)))


def insert(connection: sqlite3.Connection, run: int) -> None:
    """Store what was staged as the items of `run`, in the caller's transaction."""
    connection.execute(
        "INSERT INTO items (run, position, key, digest, payload)"
        " SELECT ?, position, key, digest, payload FROM given ORDER BY position",
        (run,),
    )


def seal(connection: sqlite3.Connection, run: int) -> None:
    """Write the digest of all current items into the run."""
    items = connection.execute(
        "SELECT key, digest FROM items WHERE run = ? AND position IS NOT NULL ORDER BY key", (run,)
    )
    connection.execute(
        "UPDATE runs SET inputs_digest = ? WHERE id = ?", (inputs_digest(items), run)
    )


def compare(connection: sqlite3.Connection, run: int, items: Iterable[Item]) -> list[str]:
    """How `items` differs from the run's, in words: the first 20 of a kind, and how many.

    What lies after the longest common beginning is kept in the temporary table `given`, for
    `accept`; memory use does not grow with the number of items.
    """
    recorded = connection.execute(
        "SELECT key, digest FROM items WHERE run = ? AND position IS NOT NULL ORDER BY position",
        (run,),
    )
    rest = iter(items)
    same, first_other = _common_beginning(recorded, rest)
    recorded.close()
    _give(
        connection,
        ((same + at, *_encode(item)) for at, item in enumerate(chain(first_other, rest))),
    )
    connection.execute("DROP TABLE IF EXISTS temp.tail")
    connection.execute(
        "CREATE TEMP TABLE tail AS SELECT id, position, key, digest FROM items"
        " WHERE run = ? AND position IS NOT NULL ORDER BY position LIMIT -1 OFFSET ?",
        (run, same),
    )
    connection.execute("CREATE UNIQUE INDEX temp.tail_by_key ON tail (key)")
    twice = connection.execute(
        "SELECT count(*) FROM given WHERE key NOT IN (SELECT key FROM tail) AND key IN"
        " (SELECT key FROM items WHERE run = ? AND position IS NOT NULL)",
        (run,),
    ).fetchone()[0]
    if twice:
        raise InputError("items: two items have the same key; a key must be unique")
    return [
        line
        for kind, query in (
            ("added", "FROM given WHERE key NOT IN (SELECT key FROM tail) ORDER BY position"),
            ("removed", "FROM tail WHERE key NOT IN (SELECT key FROM given) ORDER BY position"),
            (
                "changed",
                "FROM tail JOIN given USING (key) WHERE tail.digest <> given.digest"
                " ORDER BY tail.position",
            ),
        )
        for line in _listed(connection, kind, query)
    ]


def accept(connection: sqlite3.Connection, run: int) -> None:
    """Exchange the run's items for those that `compare` was given, in the caller's transaction.

    A removed or changed item is withdrawn; a changed one's successor takes its position, an added
    one comes after the last. One that was withdrawn earlier and is given again, with the same key
    and digest, takes its place with its attempts and its outcome, so that it is not asked again.
    """
    end = connection.execute(
        "SELECT coalesce(max(position), -1) + 1 FROM items WHERE run = ?", (run,)
    ).fetchone()[0]
    connection.execute(
        "UPDATE items SET position = NULL WHERE id IN (SELECT tail.id FROM tail"
        " LEFT JOIN given USING (key) WHERE given.digest IS NULL OR given.digest <> tail.digest)"
    )
    connection.execute("DROP TABLE IF EXISTS temp.placed")
    connection.execute(
        "CREATE TEMP TABLE placed AS"
        " SELECT tail.position, key, given.digest, given.payload FROM tail"
        " JOIN given USING (key) WHERE tail.digest <> given.digest"
        " UNION ALL"
        " SELECT ? + row_number() OVER (ORDER BY position), key, digest, payload FROM given"
        " WHERE key NOT IN (SELECT key FROM tail)",
        (end,),
    )
    connection.execute("CREATE UNIQUE INDEX temp.placed_by_key ON placed (key)")
    connection.execute(
        "UPDATE items SET position = (SELECT position FROM placed WHERE placed.key = items.key)"
        # Of several the latest: an earlier one was asked again.
        " WHERE id IN (SELECT max(id) FROM items JOIN placed USING (key, digest)"
        " WHERE run = ? AND items.position IS NULL GROUP BY key)",
        (run,),
    )
    connection.execute(
        "INSERT INTO items (run, position, key, digest, payload)"
        " SELECT ?1, position, key, digest, payload FROM placed WHERE key NOT IN"
        " (SELECT key FROM items WHERE run = ?1 AND position IS NOT NULL)",
        (run,),
    )


def discard(connection: sqlite3.Connection) -> None:
    """Forget what `stage` or `compare` kept."""
    connection.execute("DROP TABLE IF EXISTS temp.given")
    connection.execute("DROP TABLE IF EXISTS temp.tail")
    connection.execute("DROP TABLE IF EXISTS temp.placed")


def _give(
    connection: sqlite3.Connection, rows: Iterable[tuple[int, str, bytes, bytes | None]]
) -> None:
    try:
        # One transaction for speed; deferred, as it writes to the temporary table alone.
        with transaction(connection, "DEFERRED"):
            connection.execute("DROP TABLE IF EXISTS temp.given")
            connection.execute(
                "CREATE TEMP TABLE given (position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,"
                " digest BLOB NOT NULL, payload BLOB)"
            )
            connection.executemany("INSERT INTO given VALUES (?, ?, ?, ?)", rows)
    except sqlite3.IntegrityError:
        raise InputError("items: two items have the same key; a key must be unique") from None


Encoded = tuple[str, bytes, bytes | None]


def _encode(item: Item) -> Encoded:
    payload = None if item.payload is None else plain_json(item.payload, _name(item))
    return item.key, _digest(item), payload


def _digest(item: Item) -> bytes:
    key = item.key
    if not isinstance(key, str) or not key or "\0" in key:
        raise InputError("items: a key must be a string that is not empty and holds no NUL")
    if not is_unicode(key):
        raise InputError("items: a key is not Unicode text")
    if not item.digest:
        return sha256(canonical_json(item.payload, _name(item)))
    if _DIGEST.fullmatch(item.digest):
        return bytes.fromhex(item.digest)
    raise InputError(f"{_name(item)}: digest must be 64 hexadecimal digits in lower case")


def _name(item: Item) -> str:
    return f"item {item.key[:80]!r}"


def _common_beginning(
    recorded: Iterator[tuple[str, bytes]], given: Iterator[Item]
) -> tuple[int, list[Item]]:
    """How many lead both, and the item of `given` that was read to find out."""
    same = 0
    for item in given:
        if next(recorded, None) != (item.key, _digest(item)):
            return same, [item]
        same += 1
    return same, []


def _listed(connection: sqlite3.Connection, kind: str, query: str) -> list[str]:
    lines: list[str] = []
    more = 0
    for (key,) in connection.execute(f"SELECT key {query}"):
        if len(lines) < LISTED:
            lines.append(f"item {key[:80]!r} {kind}")
        else:
            more += 1
    if more:
        lines.append(f"and {more} more items {kind} ({LISTED + more} in all)")
    return lines
