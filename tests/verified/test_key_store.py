"""The store of circuits and keys."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from interlock.errors import EngineError, StorageError
from interlock.verified.key_store import KeyStore
from interlock.verified.proof_system import (
    COMPILED,
    GRAPH,
    PROVING_KEY,
    SETTINGS,
    VERIFYING_KEY,
)

FILES = (GRAPH, SETTINGS, COMPILED, VERIFYING_KEY, PROVING_KEY)


def build(directory: Path, size: int = 100) -> tuple[int, int, str]:
    for name in FILES:
        (directory / name).write_bytes(name.encode().ljust(size, b"."))
    return 7, 9, "srs"


def digest(number: int) -> str:
    return f"{number:064x}"


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    calls = []

    def counted(directory: Path) -> tuple[int, int, str]:
        calls.append(directory)
        return build(directory)

    about = store.make(digest(1), counted)
    assert store.make(digest(1), counted) == about == store.about(digest(1))
    assert len(calls) == 1
    assert (about.rows, about.logrows, about.srs_sha256) == (7, 9, "srs")
    with store.use(digest(1)) as entry:
        assert entry is not None
        assert (entry / GRAPH).read_bytes().startswith(GRAPH.encode())


def test_many_threads_make_an_entry_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    ready = threading.Barrier(6)

    def counted(directory: Path) -> tuple[int, int, str]:
        calls.append(directory)
        return build(directory)

    def work() -> None:
        ready.wait()
        KeyStore(tmp_path).make(digest(1), counted)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    assert store.about(digest(1)) is None
    with store.use(digest(1)) as entry:
        assert entry is None


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> tuple[int, int, str]:
        (directory / GRAPH).write_bytes(b"half")
        raise EngineError("no")

    store = KeyStore(tmp_path)
    with pytest.raises(EngineError, match="no"):
        store.make(digest(1), fail)
    assert store.about(digest(1)) is None
    assert list(tmp_path.glob(".*.partial")) == []
    store.make(digest(1), build)
    assert store.about(digest(1)) is not None


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_counts_as_absent_and_is_made_again(
    tmp_path: Path, name: str
) -> None:
    store = KeyStore(tmp_path)
    store.make(digest(1), build)
    os.truncate(store.path(digest(1)) / name, 50)
    assert store.about(digest(1)) is None
    store.make(digest(1), build)
    assert store.about(digest(1)) is not None


def test_what_a_dead_process_left_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / f".{digest(1)}.partial").mkdir(parents=True)
    (tmp_path / f".{digest(1)}.partial" / GRAPH).write_bytes(b"half")
    KeyStore(tmp_path).make(digest(1), build)
    assert list(tmp_path.glob(".*.partial")) == []


def test_what_a_dead_process_left_of_another_entry_goes_too(tmp_path: Path) -> None:
    """It would count against no size, and nobody may ask for that entry again."""
    store = KeyStore(tmp_path)
    left, made = (tmp_path / f".{digest(number)}.partial" for number in (1, 2))
    for directory in (left, made):
        directory.mkdir()
        (directory / GRAPH).write_bytes(b"half")
    with FileLock(made.with_suffix(".making")):  # somebody is at work on this one
        store.make(digest(3), build)
    assert not left.exists()
    assert made.exists()


def test_an_entry_that_another_process_removes_meanwhile_does_not_stop_the_trimming(
    tmp_path: Path,
) -> None:
    store = KeyStore(tmp_path, size=1)
    for number in (1, 2):
        store.make(digest(number), build)
    store.make(digest(3), build)
    (store.path(digest(3)) / "used").unlink()
    assert store.trim() == [digest(3)]


def test_the_least_recently_used_entries_go(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, size=1200)
    for number in (1, 2):
        store.make(digest(number), build)
    os.utime(store.path(digest(2)) / "used", ns=(1, 1))
    store.make(digest(3), build)
    assert store.about(digest(2)) is None
    assert store.about(digest(1)) is not None
    assert store.about(digest(3)) is not None


def test_an_entry_in_use_stays(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, size=600)
    store.make(digest(1), build)
    with store.use(digest(1)):
        store.make(digest(2), build)
        assert store.about(digest(1)) is not None
    assert digest(1) in store.trim(keep=digest(2))


def test_one_entry_larger_than_the_store_is_kept(tmp_path: Path) -> None:
    store = KeyStore(tmp_path, size=10)
    store.make(digest(1), build)
    assert store.about(digest(1)) is not None


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def full(directory: Path) -> tuple[int, int, str]:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device") as caught:
        KeyStore(tmp_path).make(digest(1), full)
    assert "cache directory" in caught.value.hint
    assert list(tmp_path.glob(".*.partial")) == []


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write keys"):
        KeyStore(tmp_path / "file").make(digest(1), build)
