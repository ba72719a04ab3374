"""The event log: a line an event, none torn for a reader, none lost with the process."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from interlock.errors import InputError, StorageError
from interlock.kernel.events import JsonlLogger, read_events

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def logger(path: Path) -> JsonlLogger:
    """A log whose clock stands still."""
    return JsonlLogger(path, now=lambda: NOON)


def test_an_event_is_one_line_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    log = logger(path)
    assert path.read_bytes() == b""
    log({"event": "drift", "count": np.int64(3), "rate": np.float32(0.5), "note": "a\nb"})
    log({"event": "other", "time": "yesterday"})
    first, second = path.read_text().splitlines()
    assert json.loads(first) == {
        "event": "drift",
        "count": 3,
        "rate": 0.5,
        "note": "a\nb",
        "time": "2026-01-02T12:00:00.000+00:00",
    }
    assert json.loads(second)["time"] == "yesterday"
    assert [event["event"] for event in read_events(path)] == ["drift", "other"]


def test_a_torn_last_line_stops_no_reader_and_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = logger(path)
    log({"event": "whole"})
    whole = path.read_bytes()
    # Longer than the block that is looked at when the end of the last whole line is sought.
    for torn in (b"{", b'{"event": "torn", "time": ""}', b'{"event": "' + b"x" * 200_000):
        path.write_bytes(whole + torn)
        assert [event["event"] for event in read_events(path)] == ["whole"]
        JsonlLogger(path)
        assert path.read_bytes() == whole
    path.write_bytes(whole + b"{")
    log({"event": "whole"})
    assert path.read_bytes() == whole + whole
    path.write_bytes(b"{")
    JsonlLogger(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("content", [b"no line at all", b"a line\n\x80\x00", b'{"schema":1,"n":0}'])
def test_what_is_no_log_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path, log = tmp_path / "state.json", logger(tmp_path / "state.json")
    path.write_bytes(content)
    with pytest.raises(StorageError, match="something else than a log"):
        JsonlLogger(path)
    with pytest.raises(StorageError, match="something else than a log"):
        log({"event": "e"})
    assert path.read_bytes() == content


def test_a_damaged_line_within_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "one"}\n[1]\n{"event": "three"}\n')
    events = read_events(path)
    assert next(events)["event"] == "one"
    with pytest.raises(InputError, match="line 2"):
        next(events)


def test_threads_share_one_log(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    logs = [logger(path), logger(path)]

    def write(thread: int) -> None:
        for index in range(50):
            logs[thread % 2]({"event": "e", "thread": thread, "index": index, "pad": "x" * 5_000})

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [(event["thread"], event["index"]) for event in read_events(path)]
    assert sorted(seen) == [(k, index) for k in range(4) for index in range(50)]


def test_a_log_that_is_renamed_away_is_followed_by_a_fresh_one(tmp_path: Path) -> None:
    path, old = tmp_path / "events.jsonl", tmp_path / "events.1.jsonl"
    log = logger(path)
    log({"event": "before"})
    path.rename(old)
    log({"event": "after"})
    assert [event["event"] for event in read_events(old)] == ["before"]
    assert [event["event"] for event in read_events(path)] == ["after"]


def test_what_json_cannot_carry_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = logger(path)
    for value in (object(), np.zeros(3), {1j: 2}, "\ud800"):
        with pytest.raises(InputError):
            log({"event": "e", "value": value})
    assert path.read_bytes() == b""


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        JsonlLogger(tmp_path)
    with pytest.raises(StorageError):
        list(read_events(tmp_path / "absent.jsonl"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        JsonlLogger(tmp_path / "file" / "events.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_not_a_silent_loss(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(StorageError):
        JsonlLogger(path)({"event": "e"})


def test_a_log_is_no_program(tmp_path: Path) -> None:
    JsonlLogger(tmp_path / "log.jsonl")
    assert not (tmp_path / "log.jsonl").stat().st_mode & 0o111
