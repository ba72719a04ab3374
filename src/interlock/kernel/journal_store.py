"""The journal's file: created for its owner alone, opened, written in transactions, closed.

SQLite's errors become the journal's errors here and nowhere else.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from interlock.kernel import journal_schema
from interlock.kernel.errors import (
    JournalError,
    JournalVersionError,
    RunNotFoundError,
    StorageError,
)

Durability = Literal["normal", "full"]

BUSY_SECONDS = 30.0
_SYNCHRONOUS = {"normal": "NORMAL", "full": "FULL"}


def default_path() -> Path:
    """The journal in the user's data directory, used where none is named."""
    import platformdirs

    return platformdirs.user_data_path("interlock") / "journal.sqlite"


class Store:
    """One connection to a journal, safe to use from several threads, useless after a fork.

    Every read and every transaction takes the connection for itself, so a reader in another
    thread never sees half a transaction.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = connection
        self._turn = threading.RLock()
        self._pid = os.getpid()
        _STORES.add(self)

    @classmethod
    def open(cls, path: Path, *, durability: Durability, create: bool) -> Store:
        """Open the journal at `path`, creating it where allowed and migrating an older one."""
        _ensure_file(path, create=create)
        connection = _connect(path)
        try:
            with storage_errors(path):
                _prepare(connection, path, create=create)
                connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
                # macOS acknowledges a plain fsync before the data is on the medium.
                connection.execute(f"PRAGMA fullfsync = {int(durability == 'full')}")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute(f"PRAGMA journal_size_limit = {16 * 2**20}")
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    @property
    def usable(self) -> bool:
        """Whether this process opened it and has not closed it."""
        return self._connection is not None and self._pid == os.getpid()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reads."""
        connection = self._usable_connection()
        with self._turn, storage_errors(self.path):
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: wholly in the file when the block ends, else not at all."""
        with self.read() as connection, transaction(connection):
            yield connection

    def reclaim(self) -> None:
        """Give the space of deleted rows back, and empty the write-ahead log of their bytes."""
        with self.read() as connection:
            # Connection.execute would free a single page: it steps a pragma without columns once.
            connection.executescript("PRAGMA incremental_vacuum")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the connection; nothing happens where it is closed or belongs to a parent."""
        if not self.usable:
            return
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _usable_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(f"the journal {self.path} is closed")
        if self._pid != os.getpid():
            raise JournalError(
                f"the journal {self.path} was opened by the parent process {self._pid}",
                hint="open it again in the child process",
            )
        return self._connection

    def abandon(self) -> None:
        """Keep a forked child from closing its parent's connection, even when it is collected."""
        if self._connection is not None:
            _ABANDONED.append(self._connection)


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()
_ABANDONED: list[sqlite3.Connection] = []


def _abandon_all() -> None:
    for store in _STORES:
        store.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


@contextmanager
def transaction(
    connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
) -> Iterator[None]:
    """Commit what the block writes, or roll all of it back where it raises."""
    _refuse_nested(connection)
    try:
        connection.execute(f"BEGIN {kind}")
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors, such as a full disk.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _refuse_nested(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        # Only the thread that writes comes here: the source of a run's items, for instance.
        raise JournalError(
            "the journal cannot be written while another write of this thread is under way",
            hint="collect the items first, then create or resume the run",
        )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the journal's."""
    try:
        yield
    except sqlite3.Error as error:
        raise _journal_error(error, path) from error


def _journal_error(error: sqlite3.Error, path: Path) -> JournalError:
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.OperationalError | sqlite3.DatabaseError) or code is None:
        return StorageError(f"{path}: {error}", hint="")
    match code & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            return JournalVersionError(
                f"{path} is not a journal", hint="give the path of a journal"
            )
        case sqlite3.SQLITE_CORRUPT:
            return JournalError(f"{path} is damaged: {error}", hint="restore it from a copy")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageError(
                f"{path} was locked by another process for more than {BUSY_SECONDS:g} s",
                hint="wait for the other process, or stop it",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StorageError(
                f"{path} cannot be written: {error}",
                hint="check who owns the file and its directory",
            )
    return StorageError(f"writing {path} failed: {error}")


def _ensure_file(path: Path, *, create: bool) -> None:
    try:
        if path.is_dir():
            raise JournalVersionError(
                f"{path} is a directory, not a journal", hint="give the path of a journal"
            )
        if path.exists():
            return
        if not create:
            raise RunNotFoundError(
                f"there is no journal at {path}",
                hint="the first journalled run creates it; --journal names another one",
            )
        _make_private_directories(path.parent)
        _create_private_file(path)
    except OSError as error:
        raise StorageError(
            f"cannot create the journal {path}: {error.strerror}",
            hint="check who owns the directory and that there is space",
        ) from error


def _create_private_file(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        # SQLite gives -wal and -shm the mode of this file, so the umask must not narrow it.
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    _sync_directory(path.parent)


def _make_private_directories(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for directory in reversed(missing):
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            directory.chmod(0o700)


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    with storage_errors(path):
        return sqlite3.connect(
            f"file:{quote(os.fsencode(path.absolute()))}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    if not journal_schema.is_empty(connection):
        version = journal_schema.check_version(connection, path)
        if version == journal_schema.VERSION:
            return
    elif not create:
        raise JournalVersionError(
            f"{path} is empty, not a journal", hint="give the path of a journal"
        )
    if journal_schema.is_empty(connection):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(
                f"{path} is on a file system without the shared memory that a journal needs",
                hint="keep the journal on a local disk",
            )
    with transaction(connection):
        # Another process may have created or migrated the tables meanwhile.
        if journal_schema.is_empty(connection):
            journal_schema.create(connection)
        else:
            version = journal_schema.check_version(connection, path)
            journal_schema.migrate(connection, version)
