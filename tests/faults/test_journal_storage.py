"""Writes that fail: the n-th statement, the n-th page, each file size, and a disk that is full.

Each fault is set at 1, 2, 3, … until the run gets through undisturbed. After every one, the
acknowledged outcomes are there and the run resumes to its end.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from support import journalled_work
from support.counts import count
from support.journal_promises import check_promises
from support.journalled_work import RUN_ID, work
from support.kill import run_to_end

from interlock.errors import StorageError
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status

ITEMS, BATCH = 12, 3
CHILD = Path(journalled_work.__file__)


def is_interrupted(path: Path, items: int = ITEMS) -> bool:
    """Work under the fault that is in force, then check the promises without it."""
    acknowledged: list[str] = []
    try:
        work(path, acknowledged.extend, items=items, batch=BATCH)
        interrupted = False
    except StorageError:
        interrupted = True
    path.with_suffix(".acknowledged").write_text("\n".join(acknowledged))
    return interrupted


def recover(path: Path, items: int = ITEMS) -> None:
    """Check the promises and carry the run on to its end."""
    everything = {f"k{index}" for index in range(items)}
    acknowledged = path.with_suffix(".acknowledged").read_text().split()
    recorded = check_promises(path, acknowledged, items=items, batch=BATCH)
    later: list[str] = []
    work(path, later.extend, items=items, batch=BATCH)
    assert recorded.isdisjoint(later)
    assert check_promises(path, [*recorded, *later], items=items, batch=BATCH) == everything


class TestStatements:
    """SQLite refuses the n-th statement, or does it and says that it failed."""

    ITEMS = 6

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_every_statement_may_fail(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: Literal["before", "after"]
    ) -> None:
        n = 0
        interrupted = True
        while interrupted:
            n += 1
            with self._failing(monkeypatch, n, when):
                interrupted = is_interrupted(tmp_path / f"{n}.sqlite", self.ITEMS)
            recover(tmp_path / f"{n}.sqlite", self.ITEMS)
        # Each batch has at least a BEGIN, a write and a COMMIT, twice.
        assert n > self.ITEMS // BATCH * 6

    @contextmanager
    def _failing(
        self, monkeypatch: pytest.MonkeyPatch, n: int, when: Literal["before", "after"]
    ) -> Iterator[None]:
        executed = 0

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return self._run(super().execute, sql, *arguments)

            def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return self._run(super().executemany, sql, *arguments)

            def _run(self, call: Any, sql: str, *arguments: Any) -> sqlite3.Cursor:
                nonlocal executed
                if sql == "ROLLBACK":
                    cursor: sqlite3.Cursor = call(sql)
                    return cursor
                executed += 1
                if executed != n or when == "after":
                    cursor = call(sql, *arguments)
                    if executed != n:
                        return cursor
                    cursor.close()  # else the traceback would keep its read lock
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error

        connect = sqlite3.connect
        with monkeypatch.context() as patch:
            patch.setattr(
                sqlite3, "connect", lambda *a, **options: connect(*a, **options, factory=Failing)
            )
            yield


def test_a_run_that_was_refused_a_write_goes_on_once_there_is_space(tmp_path: Path) -> None:
    """In the same process, with the same connection."""
    path = tmp_path / "journal.sqlite"
    text = "x" * 9000
    with Journal.open(path) as journal:
        run = journal.create_run("test", config={}, items=map(Item, "abcd"), run_id=RUN_ID)
        connection = journal._store._connection
        assert connection is not None
        run.record([("a", Outcome(Status.ACCEPTED, value=text))])
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        for _ in range(2):
            with pytest.raises(StorageError, match="full"):
                run.record([(key, Outcome(Status.ACCEPTED, value=text)) for key in "bc"])
            assert run.counts()[Status.ACCEPTED] == 1
            assert list(run.pending()) == ["b", "c", "d"]
        run.record([("d", Outcome(Status.ACCEPTED, value=text))])
        connection.execute("PRAGMA max_page_count = 1000000")
        run.record([(key, Outcome(Status.ACCEPTED, value=text)) for key in "bc"])
        run.finish("done")
        assert [key for key, _ in journal.outcomes(RUN_ID)] == ["a", "b", "c", "d"]


def test_the_database_may_be_full_at_every_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    pages = 0
    interrupted = True
    while interrupted:
        pages += 1

        def limited(*arguments: Any, limit: int = pages, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.execute(f"PRAGMA max_page_count = {limit}")
            return connection

        path = tmp_path / f"{pages}.sqlite"
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", limited)
            interrupted = is_interrupted(path)
        recover(path)
    assert pages > 10


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_file_may_stop_growing_at_every_size(tmp_path: Path) -> None:
    """A limit within a page tears the write: SQLite gets part of it through, then an error."""
    import resource

    size = -1
    step = count(5000, 700)
    interrupted = True
    while interrupted:
        size += step
        path = tmp_path / f"{size}.sqlite"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores SIGXFSZ, so that the write fails with EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            # What is noted by the test itself is smaller than the smallest limit.
            interrupted = is_interrupted(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        recover(path)
    assert size > 20 * 4096


class TestFullDisk:
    """A file system of its own, filled up to the last n KiB."""

    SIZE_KIB = 1024

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        mount = tmp_path / "disk"
        mount.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE_KIB}k", "tmpfs", str(mount)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode != 0:
            pytest.skip(f"A FULL DISK WAS NOT TESTED: cannot mount a tmpfs: {mounted.stderr}")
        try:
            yield mount
        finally:
            subprocess.run(["umount", "--lazy", str(mount)], check=True)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a Linux tmpfs")
    def test_the_disk_may_be_full_at_any_moment(self, disk: Path) -> None:
        """In a child of its own: a full disk under shared memory could kill a process."""
        step = count(48, 8)
        free = 0
        interrupted = True
        while interrupted:
            path = disk / "journal.sqlite"
            arguments = [str(path), str(ITEMS), str(BATCH), "full"]
            filler = disk / "filler"
            with filler.open("wb") as file:
                try:
                    while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > free * 1024:
                        file.write(bytes(4096))
                        file.flush()
                except OSError:
                    pass
            ended = run_to_end(CHILD, arguments)
            interrupted = "storage: " in ended.errors
            filler.unlink()
            acknowledged = " ".join(ended.acknowledged).split()
            recorded = check_promises(path, acknowledged, items=ITEMS, batch=BATCH)
            later = " ".join(run_to_end(CHILD, arguments).acknowledged).split()
            assert recorded.isdisjoint(later)
            everything = {f"k{index}" for index in range(ITEMS)}
            assert check_promises(path, [*recorded, *later], items=ITEMS, batch=BATCH) == everything
            for made in disk.rglob("*"):
                if made.is_file():
                    made.unlink()
            free += step
        assert free > 2 * step
