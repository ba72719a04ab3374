"""A file is replaced in one step, or stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interlock.errors import StorageError
from interlock.kernel.replace_file import replace_file


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for data in (b"one", b"", b"three" * 100_000):
        replace_file(path, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    (tmp_path / ".state.json.partial").write_bytes(b"half of someth")
    replace_file(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_link_planted_for_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / ".state.json.partial").symlink_to(other)
    replace_file(tmp_path / "state.json", b"new")
    assert other.read_bytes() == b"precious"
    assert not (tmp_path / "state.json").is_symlink()


def test_where_it_cannot_be_written_the_old_content_stands(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        replace_file(tmp_path / "absent" / "state.json", b"")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "inside").write_bytes(b"kept")
    with pytest.raises(StorageError):
        replace_file(tmp_path / "directory", b"")
    assert (tmp_path / "directory" / "inside").read_bytes() == b"kept"


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, linked: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "link" if linked else pipe
    if linked:
        path.symlink_to(pipe)
    with pytest.raises(StorageError, match="no file but a device"):
        replace_file(path, b"new")
    assert pipe.is_fifo()
    assert path.is_symlink() == linked


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_link_to_an_open_file_is_not_replaced(tmp_path: Path) -> None:
    """`/dev/stdout` is one, wherever the output goes."""
    with (tmp_path / "output").open("wb") as file:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        with pytest.raises(StorageError, match="a link to an open one"):
            replace_file(link, b"new")
        assert link.is_symlink()
    link.unlink()
    link.symlink_to(tmp_path / "output")
    replace_file(link, b"new")
    assert link.read_bytes() == b"new"


def test_the_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "state.json", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o640
