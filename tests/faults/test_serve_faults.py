"""A server under faults: killed workers, models that hang or eat memory, a parent that dies."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.counts import count
from support.processes import children, gone, running
from support.serving import Running, serving

HANG, BOMB = 1e18, 1e9


def workers(server: Running) -> list[int]:
    """Ids of the server's worker processes, as the system knows them."""
    return children(server.process.pid)


def until(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Wait; the time only ends a hang of the test."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "steered.onnx").write_bytes(models.steered())
    settings = {
        "path": "steered.onnx",
        "workers": 2,
        "merge": True,
        "call_seconds": 8.0,
        "memory_mb": 512,
    }
    with serving(tmp_path, {"steered": settings}, drain_seconds=20) as found:
        yield found


def test_workers_killed_under_load_cost_their_own_requests_only(server: Running) -> None:
    """Every answer is right, or a clean 503; and the pool is whole again."""
    stop = threading.Event()
    codes: list[int] = []
    wrong: list[Any] = []

    def load(number: int) -> None:
        while not stop.is_set():
            reply = server.infer("steered", [[0, 0, number]])
            codes.append(reply.status_code)
            if reply.status_code == 200:
                data = reply.json()["outputs"][0]["data"]
                if data != [0, 0, 2 * number]:
                    wrong.append(data)
            elif reply.status_code != 503 or not reply.headers.get("retry-after"):
                wrong.append(reply.text)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    rng = random.Random(3)
    for _ in range(count(5, 60)):
        seen = len(codes)
        until(lambda seen=seen: len(codes) > seen + 3)  # type: ignore[misc]
        found = workers(server)
        if found:
            # One that was killed before may be gone since it was looked at.
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(found), signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert codes.count(200) > len(codes) / 2
    until(lambda: server.infer("steered", [[0, 0, 1]]).status_code == 200)
    assert server.get("/v2/health/ready").status_code == 200


def test_a_request_that_hangs_the_model_ends_at_its_deadline(server: Running) -> None:
    reply = server.infer("steered", [[HANG, 0, 0]])
    assert reply.status_code == 504
    assert reply.json()["code"] == "deadline"
    assert server.infer("steered", [[0, 0, 1]]).status_code == 200


def test_a_client_may_ask_for_less_time(server: Running) -> None:
    reply = server.infer("steered", [[HANG, 0, 0]], body={"parameters": {"timeout": 300_000}})
    assert reply.status_code == 504


def test_a_request_that_eats_the_memory_is_refused_and_the_next_is_answered(
    server: Running,
) -> None:
    reply = server.infer("steered", [[0, BOMB, 0]])
    assert reply.status_code == 422
    assert reply.json()["code"] == "memory_limit"
    assert reply.json()["retryable"] is False
    assert server.infer("steered", [[0, 0, 1]]).status_code == 200


def test_a_client_that_leaves_while_it_waits_makes_room(tmp_path: Path) -> None:
    (tmp_path / "steered.onnx").write_bytes(models.steered())
    settings = {"path": "steered.onnx", "call_seconds": 300.0, "queue": 1}
    with serving(tmp_path, {"steered": settings}) as server:
        codes: list[int] = []
        hanging = threading.Thread(
            target=lambda: codes.append(server.infer("steered", [[HANG, 0, 0]]).status_code)
        )
        hanging.start()
        until(lambda: 'running_requests{model="steered"} 1.0' in server.metrics())
        waiting = HTTPConnection("127.0.0.1", server.port)
        ask(waiting, [0, 0, 1])
        until(lambda: 'queue_requests{model="steered"} 1.0' in server.metrics())
        waiting.close()
        until(lambda: any(event.get("code") == "client_gone" for event in list(server.log)))
        assert 'queue_requests{model="steered"} 0.0' in server.metrics()
        assert codes == []  # all this while the model hangs
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        hanging.join(60)
        assert codes == [503]


def test_a_client_that_leaves_behind_a_model_that_was_quick_makes_room(tmp_path: Path) -> None:
    (tmp_path / "steered.onnx").write_bytes(models.steered())
    settings = {"path": "steered.onnx", "call_seconds": 300.0, "queue": 8}
    with serving(tmp_path, {"steered": settings}) as server:
        first, second = (HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(2))
        second.connect()
        for _ in range(30):
            assert ask(first, [0, 0, 1]).getresponse().read()
        # Both arrive while the last answer is news, so the second seems about to be answered.
        ask(first, [HANG, 0, 0])
        ask(second, [0, 0, 1])
        until(lambda: 'queue_requests{model="steered"} 1.0' in server.metrics())
        second.close()
        until(lambda: any(event.get("code") == "client_gone" for event in list(server.log)))
        assert 'queue_requests{model="steered"} 0.0' in server.metrics()
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        assert first.getresponse().status == 503
        first.close()


def ask(connection: HTTPConnection, row: list[float]) -> HTTPConnection:
    """Send a request that sets no deadline to speak of; who wants the answer reads it."""
    asked = {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": row}],
        "parameters": {"timeout": 200_000_000},
    }
    connection.request("POST", "/v2/models/steered/infer", json.dumps(asked))
    return connection


def test_sigterm_answers_what_is_under_way_and_takes_the_workers_along(server: Running) -> None:
    began = threading.Event()
    replies: list[int] = []

    def slow() -> None:
        began.set()
        # Ends at the client's own limit, well within the time to drain.
        reply = server.infer("steered", [[HANG, 0, 0]], body={"parameters": {"timeout": 2e6}})
        replies.append(reply.status_code)

    thread = threading.Thread(target=slow)
    thread.start()
    began.wait(30)
    until(lambda: 'running_requests{model="steered"} 1.0' in server.metrics())
    pids = workers(server)
    assert len(pids) == 2
    code = server.stop()
    thread.join(30)
    assert code == 0
    assert replies == [504]  # answered, not cut off
    assert all(gone(pid) for pid in pids)
    assert [event["event"] for event in server.log[-3:]].count("stopped") == 1


def test_a_server_that_is_killed_takes_its_workers_along(server: Running) -> None:
    pids = workers(server)
    assert len(pids) == 2
    assert all(running(pid) for pid in pids)
    server.process.kill()
    assert all(gone(pid) for pid in pids)


def test_a_server_whose_own_parent_dies_is_the_tests_to_end(tmp_path: Path) -> None:
    """The harness of these tests: nothing outlives a test that is killed."""
    script = Path(__file__).parents[1] / "support" / "serve_process.py"
    process = subprocess.Popen(
        [sys.executable, str(script), "--help"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) in (0, 99)
