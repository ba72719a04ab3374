"""What must survive a restart: where each model stands, and every decision with its numbers.

A decision and the state that it leads to are one transaction, synced to the disk. It is acted upon
when that has returned, and not otherwise; a rollout has at most one decision that ends it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from interlock.kernel.clock import Clock, SystemClock
from interlock.kernel.errors import ConfigError, JournalError, StorageError
from interlock.kernel.journal_lock import FileHold
from interlock.kernel.journal_store import transaction
from interlock.serve.rollout.evidence import EvidenceState
from interlock.serve.rollout.settings import Mode

if TYPE_CHECKING:
    from interlock.serve.settings import ModelSettings

VERSION = 1
FILE = "rollout.sqlite"

# Why a version is served that was promoted, or reloaded from another path.
RECORDED = "recorded in the state"

_SCHEMA = """
CREATE TABLE placements (model TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT;
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL, model TEXT NOT NULL, rollout TEXT NOT NULL, decision TEXT NOT NULL,
    reason TEXT NOT NULL, ends INTEGER NOT NULL, numbers BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_end ON decisions (rollout) WHERE ends = 1;
CREATE INDEX of_model ON decisions (model, number);
"""


class Source(msgspec.Struct, frozen=True):
    """Where a version is, and the digest of what must be there."""

    path: str
    digest: str


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout under way.

    held        why it is left to a person; empty where it decides by itself
    configured  whether the configuration named the candidate, and not an operator
    stable      digest of the version that it is compared with; empty where that is not known
    """

    id: str
    mode: Mode
    percent: float
    salt: str
    candidate: Source
    started: str
    held: str = ""
    configured: bool = False
    stable: str = ""
    evidence: EvidenceState | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model stands, for the configuration that it was made under.

    configured  path and expected digest in the configuration
    stable      the version that answers; None for the configured one
    previous    the one before it
    running     the rollout under way
    settled     digests of candidates whose rollout has ended
    """

    configured: tuple[str, str | None]
    stable: Source | None = None
    previous: Source | None = None
    running: Running | None = None
    settled: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the journal.

    decision  started, promoted, rolled_back, held, reverted, reloaded, not_started, superseded
    ends      whether it ends the rollout
    """

    model: str
    rollout: str
    decision: str
    reason: str
    ends: bool = False
    numbers: dict[str, Any] = {}
    at: str = ""
    number: int = 0


class RolloutStore:
    """The file in a state directory; one server at a time holds it. Safe across threads."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        """Raises ConfigError where another server holds it, JournalError for a newer release's.

        Where the directory cannot be used, each use raises StorageError, until it can be.
        """
        self.path = directory / FILE
        self._clock = clock or SystemClock()
        self._turn = threading.Lock()
        self._hold: FileHold | None = None
        self._opened: sqlite3.Connection | None = None
        try:
            self._opened = self._open()
        except StorageError:
            self._let_go()
        except BaseException:
            self._let_go()
            raise

    @property
    def _connection(self) -> sqlite3.Connection:
        """Of the file, which is opened now where it could not be before; raises StorageError."""
        if self._opened is None:
            try:
                self._opened = self._open()
            except ConfigError as error:
                self._let_go()
                raise StorageError(error.message, hint=error.hint) from None
            except BaseException:
                self._let_go()
                raise
        return self._opened

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.release()
        self._hold = None

    def placement(self, model: str) -> Placement | None:
        """Where a model stands; raises JournalError for a record that cannot be read."""
        with self._turn, _errors(self.path):
            row = self._connection.execute(
                "SELECT document FROM placements WHERE model = ?", (model,)
            ).fetchone()
        if row is None:
            return None
        try:
            return msgspec.json.decode(row[0], type=Placement)
        except msgspec.DecodeError as error:
            raise JournalError(f"{self.path}: model '{model}': {error}") from None

    def save(self, model: str, placement: Placement) -> None:
        """Keep what a rollout has seen; no decision. Raises StorageError."""
        with self._turn, _errors(self.path), transaction(self._connection):
            self._put(model, placement)

    def decide(self, decision: Decision, placement: Placement) -> Decision:
        """Record a decision and what it leads to, both or neither; with its number and time.

        Raises StorageError where that fails, and JournalError where the rollout has ended already.
        """
        at = self._clock.now().astimezone(UTC).isoformat(timespec="milliseconds")
        with self._turn, _errors(self.path), transaction(self._connection):
            try:
                cursor = self._connection.execute(
                    "INSERT INTO decisions (at, model, rollout, decision, reason, ends, numbers) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        at,
                        decision.model,
                        decision.rollout,
                        decision.decision,
                        decision.reason,
                        int(decision.ends),
                        msgspec.json.encode(decision.numbers),
                    ),
                )
            except sqlite3.IntegrityError:
                raise JournalError(f"the rollout {decision.rollout} has ended already") from None
            self._put(decision.model, placement)
        return msgspec.structs.replace(decision, at=at, number=cursor.lastrowid or 0)

    def decisions(self, model: str, last: int = 20) -> list[Decision]:
        """The latest decisions on a model, in the order in which they were made.

        Raises StorageError, and JournalError for one that cannot be read.
        """
        with self._turn, _errors(self.path):
            rows = self._connection.execute(
                "SELECT number, at, rollout, decision, reason, ends, numbers FROM decisions "
                "WHERE model = ? ORDER BY number DESC LIMIT ?",
                (model, last),
            ).fetchall()
        return [self._decision(model, row) for row in reversed(rows)]

    def _decision(self, model: str, row: tuple[Any, ...]) -> Decision:
        number, at, rollout, decision, reason, ends, numbers = row
        try:
            told = msgspec.json.decode(numbers, type=dict[str, Any])
        except (msgspec.DecodeError, TypeError) as error:
            raise JournalError(f"{self.path}: decision {number}: {error}") from None
        return Decision(
            model=model,
            number=number,
            at=at,
            rollout=rollout,
            decision=decision,
            reason=reason,
            ends=bool(ends),
            numbers=told,
        )

    def close(self) -> None:
        """Close the file and let go of the directory."""
        with self._turn:
            if self._opened is not None:
                self._opened.close()
            self._let_go()

    def _put(self, model: str, placement: Placement) -> None:
        self._connection.execute(
            "INSERT INTO placements VALUES (?, ?) "
            "ON CONFLICT (model) DO UPDATE SET document = excluded.document",
            (model, msgspec.json.encode(placement)),
        )

    def _open(self) -> sqlite3.Connection:
        directory = self.path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"cannot make {directory}: {error.strerror}", hint="") from None
        self._hold = FileHold.on(directory / "rollout.lock")
        if self._hold is None:
            raise ConfigError(
                f"the state directory {directory} is another server's",
                hint="give each server a state directory of its own",
            )
        with _errors(self.path):
            connection = sqlite3.connect(
                f"file:{quote(str(self.path.absolute()))}?mode=rwc",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self.path.chmod(0o600)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA fullfsync = 1")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version > VERSION:
                    raise JournalError(
                        f"{self.path} was written by a newer release", hint="install that release"
                    )
                if version == 0:
                    with transaction(connection):
                        for statement in _SCHEMA.split(";"):
                            connection.execute(statement)
                        connection.execute(f"PRAGMA user_version = {VERSION}")
            except BaseException:
                connection.close()
                raise
        return connection


def recorded(directory: Path) -> dict[str, Placement]:
    """Where each model stands by the state in `directory`, which a server may be using.

    Raises StorageError, and JournalError for a record that cannot be read.
    """
    path = directory / FILE
    if not path.exists():
        return {}
    with _errors(path):
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT model, document FROM placements").fetchall()
        finally:
            connection.close()
    try:
        return {model: msgspec.json.decode(told, type=Placement) for model, told in rows}
    except msgspec.DecodeError as error:
        raise JournalError(f"{path}: {error}") from None


def placed(own: ModelSettings, found: Placement | None) -> tuple[ModelSettings, str]:
    """The settings of the version that a server would serve, without a rollout, and why that one.

    found  where the model stands by the state; None where there is none
    """
    if own.use_candidate is None and found is not None and found.stable is not None:
        stable = found.stable
        if found.configured == (own.path, own.expected_digest):
            return msgspec.structs.replace(
                own.served, path=stable.path, expected_digest=stable.digest, kind="auto"
            ), RECORDED
    return own.served, "use_candidate" if own.use_candidate else "configured"


def beside(own: ModelSettings, found: Placement | None) -> ModelSettings | None:
    """The settings of the candidate that a server would load beside that; None for none.

    found  as for `placed`
    """
    if own.use_candidate is not None:
        return None
    stable, _ = placed(own, found)
    if found is not None and found.configured == (own.path, own.expected_digest):
        running = found.running
        if running is not None and not no_longer_configured(own, running):
            source = running.candidate
            return msgspec.structs.replace(
                own.served, path=source.path, expected_digest=source.digest, kind="auto"
            )
    if own.candidate in (None, stable.path):
        return None
    return msgspec.structs.replace(
        own.served, path=own.candidate, expected_digest=own.candidate_digest, kind="auto"
    )


def no_longer_configured(own: ModelSettings, running: Running) -> str:
    """Why the configuration ends a rollout that it started; empty where the rollout goes on."""
    if not running.configured:
        return ""
    if own.candidate is None:
        return "the configuration names no candidate any more"
    candidate = running.candidate
    if own.candidate != candidate.path or own.candidate_digest not in (None, candidate.digest):
        return "the configuration names another candidate"
    return ""


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"{path} cannot be used: {error}", hint="free some space; it is tried again"
        ) from None
