"""The journal's file: who may read it, what is not a journal, and who may use it at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import (
    JournalError,
    JournalVersionError,
    RunLockedError,
    RunNotFoundError,
    StorageError,
)
from interlock.kernel.journal import Item, Journal, JournalRun
from interlock.kernel.outcome import Outcome, Status

ACCEPTED: Outcome[Any] = Outcome(Status.ACCEPTED, value=1.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def run(path: Path) -> Iterator[JournalRun]:
    with Journal.open(path) as journal:
        items = [Item(f"k{index}", index) for index in range(50)]
        yield journal.create_run("test", config={}, items=items, run_id="one")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277], ids=oct)
def test_only_the_owner_can_read_what_is_created(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "made" / "here" / "journal.sqlite"
    before = os.umask(umask)
    try:
        with Journal.open(path) as journal:
            run = journal.create_run("test", config={}, items=[Item("a", "a prompt")])
            run.record([("a", ACCEPTED)])
            journal.export_jsonl(run.run_id, path.parent / "run.jsonl")
            modes = {
                str(made.relative_to(tmp_path)): stat.S_IMODE(made.stat().st_mode)
                for made in tmp_path.rglob("*")
            }
    finally:
        os.umask(before)
    assert {"made/here/journal.sqlite-wal", "made/here/journal.sqlite-shm"} < modes.keys()
    for name, mode in modes.items():
        assert mode == (0o700 if (tmp_path / name).is_dir() else 0o600), name


def test_an_existing_directory_and_journal_keep_their_modes(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "journal.sqlite"
    Journal.open(path).close()
    path.chmod(0o640)
    Journal.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize(("durability", "synchronous"), [("normal", 1), ("full", 2)])
def test_durability_sets_when_sqlite_waits_for_the_disk(
    path: Path, durability: Any, synchronous: int
) -> None:
    with Journal.open(path, durability=durability) as journal:
        connection = journal._store._connection
        assert connection is not None
        assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_missing_journal_is_not_created_where_that_is_not_wanted(path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="there is no journal at"):
        Journal.open(path, create=False)
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_not_a_journal_is_refused_and_left_alone(path: Path) -> None:
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (a)")
    foreign.close()
    database = path.read_bytes()
    for content in (b"some notes of mine\n" * 100, database):
        path.write_bytes(content)
        with pytest.raises(JournalVersionError, match="journal"):
            Journal.open(path)
        assert path.read_bytes() == content
        assert [file.name for file in path.parent.iterdir()] == ["journal.sqlite"]
    with pytest.raises(JournalVersionError, match="is a directory"):
        Journal.open(path.parent)
    path.write_bytes(b"")
    with pytest.raises(JournalVersionError, match="is empty"):
        Journal.open(path, create=False)


def test_a_creation_that_was_cut_off_is_completed(path: Path) -> None:
    path.touch()
    with Journal.open(path) as journal:
        assert journal.runs() == []


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_a_storage_error(path: Path) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(StorageError, match="cannot create the journal"):
        Journal.open(path)


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot create the journal"):
        Journal.open(tmp_path / "file" / "journal.sqlite")


def test_a_damaged_journal_is_an_error_of_ours(path: Path, run: JournalRun) -> None:
    run._store.close()
    content = bytearray(path.read_bytes())
    page = 4096
    for start in range(page, len(content), page):
        content[start : start + 100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(JournalError) as caught, Journal.open(path) as journal:
        list(journal.outcomes("one"))
    assert not isinstance(caught.value, StorageError)


class TestHold:
    def test_the_second_holder_is_told_who_holds_the_run(self, path: Path, run: JournalRun) -> None:
        script = (
            "import sys; from interlock.kernel.journal import Journal\n"
            "from interlock.errors import RunLockedError\n"
            "try: Journal.open(sys.argv[1]).resume_run('one', config={}, items=None)\n"
            "except RunLockedError as error: print(error.message)\n"
        )
        output = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        )
        assert output.stdout == f"run one is held by process {os.getpid()}\n"

    def test_a_run_is_held_once_even_within_a_process(self, path: Path, run: JournalRun) -> None:
        link = path.with_name("other-name.sqlite")
        link.symlink_to(path)
        for name in (path, link):
            with Journal.open(name) as second:
                with pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
                    second.resume_run("one", config={}, items=None)
                assert second.info("one").state == "running"
                assert second.info("one").holder == f"process {os.getpid()}"
        run.close()
        with Journal.open(link) as second:
            second.resume_run("one", config={}, items=None)

    def test_other_runs_of_the_journal_stay_free(self, path: Path, run: JournalRun) -> None:
        with Journal.open(path) as second:
            other = second.create_run("test", config={}, items=[Item("a")])
            other.record([("a", ACCEPTED)])

    def test_looking_at_a_run_does_not_keep_others_from_resuming_it(
        self, path: Path, run: JournalRun
    ) -> None:
        run.close()
        stop = threading.Event()

        def look() -> None:
            with Journal.open(path) as reader:
                while not stop.is_set():
                    reader.info("one")

        readers = [threading.Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            with Journal.open(path) as journal:
                for _ in range(200):
                    journal.resume_run("one", config={}, items=None).close()
        finally:
            stop.set()
            for reader in readers:
                reader.join()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_neither_keeps_the_lock_nor_may_write(
        self, path: Path, run: JournalRun
    ) -> None:
        context = multiprocessing.get_context("fork")
        answers, go = context.Queue(), context.Event()

        def child() -> None:
            try:
                run.record([("k0", ACCEPTED)])
            except JournalError as error:
                answers.put(error.message)
            run.close()
            go.wait(60)

        process = context.Process(target=child)
        process.start()
        try:
            assert "opened by the parent process" in answers.get(timeout=60)
            # The child's `close` left the parent's lock alone …
            with Journal.open(path) as second, pytest.raises(RunLockedError):
                second.resume_run("one", config={}, items=None)
            run.record([("k0", ACCEPTED)])
            run.close()
            # … and once the parent let go, the living child does not hold it.
            with Journal.open(path) as second:
                second.resume_run("one", config={}, items=None).close()
        finally:
            go.set()
            process.join()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_killing_the_holder_frees_the_run_while_its_child_lives_on(self, path: Path) -> None:
        script = (
            "import os, sys, time; from interlock.kernel.journal import Item, Journal\n"
            "journal = Journal.open(sys.argv[1])\n"
            "run = journal.create_run('t', config={}, items=[Item('a')], run_id='one')\n"
            "child = os.fork()\n"
            "if child: print(child, flush=True)\n"
            "time.sleep(120)\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with Journal.open(path) as journal, pytest.raises(RunLockedError):
                journal.resume_run("one", config={}, items=None)
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            with Journal.open(path) as journal:
                assert journal.info("one").state == "interrupted"
                journal.resume_run("one", config={}, items=None)
        finally:
            os.kill(child, signal.SIGKILL)
            holder.kill()
            holder.wait()
            holder.stdout.close()


class TestReaders:
    def test_other_threads_read_while_one_writes(self, run: JournalRun, path: Path) -> None:
        """Each reader sees every transaction of two whole or not at all."""
        with Journal.open(path) as other:
            wrong: list[str] = []
            stop = threading.Event()

            def read(pending: Any) -> None:
                while not stop.is_set():
                    left = pending()
                    if left % 2:
                        wrong.append(f"{left} pending")

            readers = [
                threading.Thread(target=read, args=(pending,))
                for pending in (
                    lambda: sum(1 for _ in run.pending()),
                    lambda: other.info("one").pending,
                    lambda: sum(run.counts().values()),
                )
            ]
            for reader in readers:
                reader.start()
            for index in range(0, 50, 2):
                run.begin([f"k{index}", f"k{index + 1}"])
                run.record([(f"k{index}", ACCEPTED), (f"k{index + 1}", ACCEPTED)])
            stop.set()
            for reader in readers:
                reader.join()
            assert wrong == []
            assert other.info("one").pending == 0

    def test_processes_may_create_and_fill_one_journal_together(self, path: Path) -> None:
        script = (
            "import sys; from interlock.kernel.journal import Item, Journal\n"
            "from interlock.kernel.outcome import Outcome, Status\n"
            "with Journal.open(sys.argv[1]) as journal:\n"
            "    items = [Item(str(n)) for n in range(20)]\n"
            "    run = journal.create_run('t', config={}, items=items)\n"
            "    for key in run.pending(): run.record([(key, Outcome(Status.FAILED))])\n"
            "    run.finish('done')\n"
        )
        writers = [
            subprocess.Popen([sys.executable, "-c", script, str(path)], stderr=subprocess.PIPE)
            for _ in range(4)
        ]
        for writer in writers:
            assert writer.communicate(timeout=120)[1] == b""
        with Journal.open(path) as journal:
            assert [info.counts[Status.FAILED] for info in journal.runs()] == [20] * 4
            assert {info.state for info in journal.runs()} == {"done"}


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are Unicode there")
def test_a_path_that_is_not_unicode_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "journal.sqlite"
    with Journal.open(path) as journal:
        journal.create_run("test", config={}, items=[Item("a")], run_id="r").close()
    with Journal.open(path) as journal:
        assert journal.info("r").pending == 1


def test_a_path_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "a" / "j", Path("~no-such-user/j"), "a\0b"):
        with pytest.raises(StorageError, match="no journal can be at"):
            Journal.open(path)
