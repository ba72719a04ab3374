"""Two versions of a text model: streams take part in a canary, and a reload cuts none of them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.rollouts import ENVIRON, admin, rollout_of, until
from support.serving import Running, serving
from support.text_models import tiny_directory

MESSAGES = [{"role": "user", "content": "the thin thing"}]
# A version may end at once when its last text has, and after no time besides.
SHORT: dict[str, Any] = {"drain_seconds": 0}
SETTINGS: dict[str, Any] = {
    "call_seconds": 0.01,
    "slots": 1,
    "queue": 1,
    "percent": 50,
    "rollback_p99_ms": 60_000,
    "rollback_memory_mb": 10_000,
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    tiny_directory(place / "old")
    tiny_directory(place / "new", seed=1)
    return place


@pytest.fixture
def server(bundles: Path, tmp_path: Path) -> Iterator[Running]:
    for name in ("old", "new"):
        shutil.copytree(bundles / name, tmp_path / name)
    named = {"m": {"path": "old", **SETTINGS}}
    with serving(tmp_path, named, environ=ENVIRON, state="state", **SHORT) as running:
        yield running


def streamed(server: Running, client: str, **options: Any) -> list[dict[str, Any]]:
    """The pieces of a whole stream."""
    asked = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 8, **options}
    reply = server.client.post("/v1/chat/completions", json=asked, headers={"x-client-id": client})
    assert reply.status_code == 200, reply.text
    # Not splitlines(): a text may hold further signs that Python takes for a line's end.
    lines = reply.text.split("\n")
    *pieces, done = [line[6:] for line in lines if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(piece) for piece in pieces]


def version_of(pieces: list[dict[str, Any]]) -> str:
    """The one version that all pieces are of."""
    (digest,) = {piece["system_fingerprint"] for piece in pieces}
    assert pieces[-1]["interlock"]["digest"] == digest
    return str(digest)


def canary(server: Running) -> tuple[str, str, list[str]]:
    """Start one; the digests of old and new, and clients that meet the new one."""
    told = admin(server, "models/m/rollout", {"path": "new", "mode": "canary"}).json()
    old, new = told["stable"]["digest"], told["rollout"]["candidate"]
    clients = [f"client {k}" for k in range(12)]
    found = {client: version_of(streamed(server, client)) for client in clients}
    assert set(found.values()) == {old, new}
    assert {client: version_of(streamed(server, client)) for client in clients} == found
    return old, new, [client for client in clients if found[client] == new]


def errors(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = rollout_of(server)["rollout"]["evidence"]["triggers"]["errors"]
    return found


def long_stream(server: Running, client: str = "") -> socket.socket:
    """A connection that asked for the longest text and got the first bytes of it."""
    asked = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 480, "seed": 3}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"x-client-id: {client}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(head.encode() + body)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_streams_are_answered_by_one_version_each_and_counted_for_it(server: Running) -> None:
    _, _, theirs = canary(server)
    # An answer is counted after its last byte has left, whichever version wrote it.
    until(lambda: errors(server)["candidate"]["answers"] == 2 * len(theirs))
    until(lambda: errors(server)["stable"]["answers"] == 2 * (12 - len(theirs)))
    assert errors(server)["candidate"]["events"] == 0
    # A text asked for as a whole counts like one that is streamed.
    reply = server.client.post(
        "/v1/completions",
        json={"model": "m", "prompt": "the thing", "max_tokens": 2},
        headers={"x-client-id": theirs[0]},
    )
    assert reply.status_code == 200
    until(lambda: errors(server)["candidate"]["answers"] == 2 * len(theirs) + 1)


def test_a_full_queue_is_the_versions_error_and_a_prompt_that_is_too_long_the_clients(
    server: Running,
) -> None:
    _, _, theirs = canary(server)
    until(lambda: errors(server)["candidate"]["answers"] == 2 * len(theirs))
    asked = {"model": "m", "messages": [{"role": "user", "content": "word " * 600}]}
    headers = {"x-client-id": theirs[0]}
    reply = server.client.post("/v1/chat/completions", json=asked, headers=headers)
    assert reply.status_code == 400
    held = [long_stream(server, theirs[0]) for _ in range(2)]
    try:
        codes = []
        while 503 not in codes:
            reply = server.client.post(
                "/v1/chat/completions",
                json={"model": "m", "messages": MESSAGES, "max_tokens": 1},
                headers=headers,
            )
            codes.append(reply.status_code)
            if len(codes) > 50:
                held += [long_stream(server, theirs[0]) for _ in range(2)]
            assert len(codes) < 500
    finally:
        for connection in held:
            connection.close()

    def refused() -> int:
        return sum(event.get("status") == 503 for event in list(server.log))

    # Of the texts that were to fill the queue some may have been refused as well.
    until(lambda: errors(server)["candidate"]["events"] == refused() > 0)
    assert errors(server)["stable"]["events"] == 0


@pytest.mark.parametrize("way", ["reload", "promote", "rollback"])
def test_a_text_under_way_is_written_to_its_end_by_the_version_that_began_it(
    server: Running, tmp_path: Path, way: str
) -> None:
    client = ""
    before = rollout_of(server)["stable"]["digest"]
    if way != "reload":
        old, new, theirs = canary(server)
        client = theirs[0]
        before = new
        if way == "promote":
            client = next(f"client {k}" for k in range(12) if f"client {k}" not in theirs)
            before = old
    with long_stream(server, client) as connection:
        told = connection.recv(16)  # it has begun
        assert told.startswith(b"HTTP/1.1 200")
        if way == "reload":
            shutil.rmtree(tmp_path / "old")
            shutil.copytree(tmp_path / "new", tmp_path / "old")
            changed = admin(server, "models/m/reload", {})
            assert changed.json()["changed"], changed.text
        else:
            assert admin(server, f"models/m/rollout/{way}", {}).status_code == 200
        after = rollout_of(server)["stable"]["digest"]
        assert after != before
        assert version_of(streamed(server, client)) == after
        told += rest_of(connection)
    lines = [line[6:] for line in told.splitlines() if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]", lines[-1]
    pieces = [json.loads(line) for line in lines[:-1]]
    assert version_of(pieces) == before
    assert pieces[-1]["interlock"]["status"] in ("accepted", "flagged")
    until(lambda: rollout_of(server)["retiring"] == 0)
