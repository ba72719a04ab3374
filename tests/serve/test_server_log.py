"""The server's log: a place that refuses lines costs lines and nothing else."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from interlock.errors import StorageError
from interlock.serve.server_log import LibraryHandler, open_log


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


def test_of_a_library_neither_arguments_nor_a_traceback_are_kept() -> None:
    """uvicorn makes a message of the traceback where the server's end is cut short."""
    kept: list[dict[str, object]] = []
    handler = LibraryHandler(lambda event, **fields: kept.append(fields))
    logger = logging.Logger("uvicorn.error")
    logger.addHandler(handler)
    logger.warning("Cancel %s", "a secret")
    logger.error("Traceback (most recent call last):\n  File ...\nValueError: a secret\n")
    try:
        raise ValueError("a secret")
    except ValueError:
        logger.exception("a secret")
    assert [(one["form"], one["error"]) for one in kept] == [
        ("Cancel %s", None),
        ("Traceback (most recent call last):", None),
        ("", "ValueError"),
    ]
    assert "secret" not in str(kept)
