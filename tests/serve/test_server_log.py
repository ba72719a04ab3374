"""The server's log: a place that refuses lines costs lines and nothing else."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from interlock.errors import StorageError
from interlock.serve.server_log import open_log


def test_a_file_that_cannot_be_written_loses_lines_and_says_how_many(tmp_path: Path) -> None:
    place = tmp_path / "log"
    log = open_log(str(place))
    log("first")
    place.rename(tmp_path / "old")
    place.mkdir()  # in its way, as a full disk would be
    for _ in range(3):
        log("lost", secret="x")
    place.rmdir()
    log("last", number=1)
    told = [json.loads(line) for line in place.read_text().splitlines()]
    assert [(one["event"], one.get("lines"), one.get("number")) for one in told] == [
        ("log_lost", 3, None),
        ("last", None, 1),
    ]


def test_a_stream_that_nobody_reads_any_more_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.RawIOBase):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    log = open_log("stderr")
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(buffer=Broken()))
    log("request", status=200)
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(buffer=kept))
    log("request", status=201)
    assert [json.loads(line)["event"] for line in kept.getvalue().splitlines()] == [
        "log_lost",
        "request",
    ]


def test_a_place_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        open_log(str(tmp_path / "file" / "log"))
