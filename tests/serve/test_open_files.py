"""Connections are open files, of which the system allows a process only so many."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.processes import children, gone
from support.serving import Running, serving

from interlock.errors import InputError
from interlock.serve.open_files import check_limit, needed, raise_limit
from interlock.serve.settings import Settings

TOKEN = "token-of-the-admin-0001"
ASKED = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
MODELS = {"affine": {"path": "affine.onnx"}}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    return tmp_path


def limited(limit: str) -> tuple[str, ...]:
    """What starts a process under other limits, as the shell's `ulimit` takes them."""
    return ("sh", "-c", f'ulimit {limit} && exec "$@"', "sh")


@contextmanager
def serving_limited(place: Path, limit: str, connections: int) -> Iterator[Running]:
    with serving(
        place,
        MODELS,
        under=limited(limit),
        connections=connections,
        idle_seconds=600,
        state=str(place / "state"),
        admin_token=TOKEN,
    ) as server:
        yield server


def told(connection: socket.socket) -> bytes:
    """The answer to one request, whose body is a JSON object."""
    found = b""
    while not found.endswith(b"}"):
        part = connection.recv(65_536)
        assert part, "the connection was closed without an answer"
        found += part
    return found


def check_full(server: Running, connections: int) -> None:
    """With all connections open further ones are refused, files are read and workers start."""
    assert server.get("/v2/health/live").status_code == 200  # the first one
    held: list[socket.socket] = []

    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", server.port))
        held.append(connection)
        connection.settimeout(60)  # ends a hang of the test
        return connection

    try:
        for _ in range(connections - 1):
            connection = connect()
            connection.sendall(ASKED)
            assert told(connection).startswith(b"HTTP/1.1 200 ")
        for further in [connect() for _ in range(50)]:
            assert further.recv(65_536).startswith(b"HTTP/1.1 503 ")
        assert server.infer("affine", [[1, 2, 3]]).status_code == 200
        (worker,) = children(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert gone(worker, within=60)
        # What met the process that died is 503; its replacement answers the next one.
        codes = [server.infer("affine", [[1, 2, 3]]).status_code for _ in range(3)]
        assert codes[-1] == 200, codes
        reloaded = server.client.post(
            "/v1/admin/models/affine/reload", headers={"authorization": f"Bearer {TOKEN}"}
        )
        assert reloaded.status_code == 200, reloaded.text
    finally:
        for connection in held:
            connection.close()


def test_the_soft_limit_is_raised_as_far_as_needed(place: Path) -> None:
    with serving_limited(place, "-S -n 128", 300) as server:
        check_full(server, 300)


def check(place: Path, limit: str, connections: int, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the error of `interlock serve`, which must end by itself."""
    config = place / "serve.json"
    settings = {"port": 0, "connections": connections, "models": MODELS}
    config.write_text(json.dumps({"production": settings}))
    ended = subprocess.run(
        [*limited(limit), sys.executable, "-m", "interlock", "serve", str(config), *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.parametrize("arguments", [["--json"], ["--check", "--json"]])
def test_more_connections_than_the_hard_limit_has_room_for_are_refused(
    place: Path, arguments: list[str]
) -> None:
    code, found = check(place, "-n 256", 1024, *arguments)
    assert code == 2
    error = found["error"]
    assert error["code"] == "input"
    assert error["message"].startswith("connections is 1024, ")
    assert error["message"].endswith("the limit of this process is 256")
    assert "set connections to " in error["hint"]
    assert "LimitNOFILE" in error["hint"]


def test_the_number_that_a_refusal_names_has_room(place: Path) -> None:
    _, found = check(place, "-n 256", 1024, "--check", "--json")
    advised = re.search(r"set connections to (\d+) or less", found["error"]["hint"])
    assert advised is not None
    connections = int(advised[1])
    assert check(place, "-n 256", connections + 1, "--check", "--json")[0] == 2
    with serving_limited(place, "-n 256", connections) as server:
        check_full(server, connections)


def test_a_limit_that_the_server_itself_does_not_fit_into_is_no_matter_of_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (32, 32))
    with pytest.raises(InputError) as refused:
        check_limit(Settings(connections=1))
    assert refused.value.hint.startswith("raise the limit of open files to ")


def test_a_limit_that_is_not_raised_though_it_may_be_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    settings = Settings(connections=1024)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    check_limit(settings)
    with pytest.raises(InputError, match=r"the limit of this process is 256$"):
        raise_limit(settings)


def test_a_limit_that_suffices_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(connections=1024)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    for limits in ((needed(settings), 4096), (resource.RLIM_INFINITY,) * 2):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limits=limits: limits)
        raise_limit(settings)
    assert asked == []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    raise_limit(settings)
    assert asked == [(needed(settings), 4096)]
