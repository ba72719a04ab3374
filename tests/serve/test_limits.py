"""What a client may not do: too large, too slow, too often, without a token, over other hosts."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serve.conftest import TOKEN
from support import models
from support.serving import Running, serving

from interlock.serve.gate import Tokens
from interlock.serve.settings import Settings

LIMITS: dict[str, Any] = {
    "body_mb": 0.01,
    "header_kb": 4,
    "header_seconds": 1.0,
    "body_seconds": 1.0,
    "send_seconds": 1.0,
    "idle_seconds": 1.0,
}


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("limits")
    (place / "affine.onnx").write_bytes(models.affine())
    tokens = place / "tokens"
    tokens.write_text(f"# of the tests\n{TOKEN}\n")
    tokens.chmod(0o600)
    with serving(
        place, {"affine": {"path": "affine.onnx"}}, tokens_file="tokens", **LIMITS
    ) as running:
        running.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield running


def connect(server: Running) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(30)  # ends a hang of the test
    return connection


def told_until_closed(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


HEAD = f"POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"


def test_a_body_above_the_limit_is_refused_by_its_declared_length(strict_server: Running) -> None:
    with connect(strict_server) as connection:
        connection.sendall(f"{HEAD}content-length: 999999999\r\n\r\n".encode())
        told = told_until_closed(connection)
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in told


def test_a_body_that_grows_above_the_limit_is_refused_as_it_grows(strict_server: Running) -> None:
    with connect(strict_server) as connection:
        connection.sendall(f"{HEAD}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        connection.sendall(chunk * 4)
        assert told_until_closed(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_trickles_is_cut_off(strict_server: Running) -> None:
    with connect(strict_server) as connection:
        connection.sendall(f"{HEAD}content-length: 100\r\n\r\n{{".encode())
        told = told_until_closed(connection)
    assert told.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nx-slow: "])
def test_a_head_that_does_not_come_is_cut_off(strict_server: Running, sent: bytes) -> None:
    with connect(strict_server) as connection:
        connection.sendall(sent)
        assert told_until_closed(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_a_head_above_the_limit_is_refused(strict_server: Running, end: bytes) -> None:
    with connect(strict_server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-large: " + b"a" * 5000 + end)
        assert told_until_closed(connection).startswith(b"HTTP/1.1 431 ")


def test_a_second_head_on_the_same_connection_is_timed_too(strict_server: Running) -> None:
    with connect(strict_server) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        told = b""
        while not told.endswith(b"}"):
            told += connection.recv(65_536)
        assert told.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost:")
        assert told_until_closed(connection).startswith(b"HTTP/1.1 408 ")


def test_two_hundred_idle_connections_do_not_hold_up_a_request(strict_server: Running) -> None:
    idle = [connect(strict_server) for _ in range(200)]
    try:
        assert strict_server.infer("affine", [[1, 2, 3]]).status_code == 200
        assert strict_server.get("/health").status_code == 200
        for connection in idle:
            assert told_until_closed(connection).startswith(b"HTTP/1.1 408 ")
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize(
    "authorization", ["", "Bearer x", "Bearer wrong-token-000000", f"Basic {TOKEN}", TOKEN]
)
@pytest.mark.parametrize("path", ["/v2", "/health", "/metrics", "/v2/models/affine", "/docs"])
def test_without_a_token_only_the_probes_answer(
    strict_server: Running, authorization: str, path: str
) -> None:
    headers = {"authorization": authorization}
    refused = strict_server.get(path, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert strict_server.get("/v2/health/ready", headers=headers).status_code == 200


def test_a_tokens_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As some editors write it: it is no part of the first token."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\r\n", "utf-8-sig")
    tokens.chmod(0o600)
    assert Tokens.of(Settings(tokens_file=str(tokens))).accept(f"Bearer {TOKEN}".encode())


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is compared, by digests of one length, through `hmac.compare_digest`."""
    seen: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        seen.append((len(a), len(b)))
        return bool(compare(a, b))

    monkeypatch.setattr(hmac, "compare_digest", counting)
    tokens = Tokens(["a" * 16, "b" * 20, "c" * 30])
    assert tokens.accept(b"Bearer " + b"a" * 16)
    assert not tokens.accept(b"Bearer x")
    assert seen == [(32, 32)] * 6


def test_no_endpoint_loads_unloads_or_changes_a_model(strict_server: Running) -> None:
    """Where no admin token is set, management is by the configuration alone."""
    paths = strict_server.get("/openapi.json").json()["paths"]
    writing = {
        (method, path)
        for path, operations in paths.items()
        for method in operations
        if method not in ("get", "parameters")
    }
    answers = ("/infer", "/completions", "/v1/scan", "/v1/feedback")
    assert all(path.endswith(answers) for _, path in writing)
    assert strict_server.client.post("/v1/admin/models/affine/reload").status_code == 404
    for path in ("/v2/repository/index", "/v2/repository/models/affine/load"):
        assert strict_server.client.post(path).status_code == 404


def test_a_client_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    with serving(tmp_path, {"affine": {"path": "affine.onnx"}}, rate=0.01, burst=3) as running:
        codes = [running.get("/v2").status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        refused = running.get("/v2")
        assert int(refused.headers["retry-after"]) > 1
        assert "Retry-After" in refused.json()["hint"]
        assert running.get("/v2/health/live").status_code == 200


def test_tls_by_file(tmp_path: Path) -> None:
    from support.keys import self_signed

    (tmp_path / "affine.onnx").write_bytes(models.affine())
    self_signed(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(
        tmp_path, {"affine": {"path": "affine.onnx"}}, tls_cert="cert.pem", tls_key="key.pem"
    ) as running:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with (
            socket.create_connection(("127.0.0.1", running.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_reader_that_stops_reading_is_let_go(tmp_path: Path) -> None:
    """The answer is larger than what the sockets buffer; nobody reads it."""
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    with serving(
        tmp_path, {"affine": {"path": "affine.onnx"}}, body_mb=64, send_seconds=1.0
    ) as running:
        rows = 400_000
        tensor = (
            f'{{"inputs":[{{"name":"x","shape":[{rows},3],"datatype":"FP32",'
            f'"parameters":{{"binary_data_size":{rows * 12}}}}}],'
            '"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
        ).encode()
        head = (
            "POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\n"
            f"inference-header-content-length: {len(tensor)}\r\n"
            f"content-length: {len(tensor) + rows * 12}\r\n\r\n"
        )
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", running.port))
        with connection:
            connection.sendall(head.encode() + tensor + bytes(rows * 12))
            until = time.monotonic() + 60
            while not any(event.get("endpoint") == "infer" for event in list(running.log)):
                assert time.monotonic() < until, "the connection is held for ever"
                time.sleep(0.05)
        assert running.get("/v2/health/live").status_code == 200


def test_connections_beyond_the_limit_are_told_to_come_back(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    with serving(tmp_path, {"affine": {"path": "affine.onnx"}}, connections=3) as running:
        held = [connect(running) for _ in range(3)]
        with connect(running) as connection:
            told = told_until_closed(connection)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in told
        for connection in held:
            connection.close()
        until = time.monotonic() + 30
        while True:  # the server notices the closed ones at its next turn
            try:
                assert running.get("/v2/health/live").status_code in (200, 503)
                if running.get("/v2/health/live").status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            assert time.monotonic() < until


def test_another_digest_than_the_expected_one_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    digest = f"sha256:{hashlib.sha256(models.affine()).hexdigest()}"
    named = {
        "right": {"path": "affine.onnx", "expected_digest": digest},
        "wrong": {"path": "affine.onnx", "expected_digest": "sha256:" + "0" * 64},
        "route": {"path": "route:arm", "expected_digest": "sha256:" + "0" * 64},
    }
    with serving(tmp_path, named) as running:
        assert running.get("/v2/models/right/ready").status_code == 200
        assert running.get("/v2/models/right").json()["versions"] == [digest]
        told = {health["model"]: health for health in running.get("/health").json()["models"]}
        for name in ("wrong", "route"):
            assert told[name]["error"].startswith("bundle_integrity: ")
            assert running.get(f"/v2/models/{name}/ready").status_code == 503


UNREAD = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
CHUNKED = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def refused_early(connection: socket.socket, head: bytes) -> None:
    """Send a head without a token; read the refusal, which does not wait for the body."""
    connection.sendall(head)
    told = b""
    while not told.endswith(b"}"):
        part = connection.recv(65_536)
        assert part
        told += part
    assert told.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("rest", [b"x", b"x" * 100], ids=["a part", "all of it"])
def test_a_connection_whose_request_was_refused_before_its_body_came_is_not_held(
    strict_server: Running, rest: bytes
) -> None:
    """Nobody reads that body, so the body's own time limit does not count; no token is needed."""
    with connect(strict_server) as connection:
        refused_early(connection, UNREAD)
        connection.sendall(rest)
        assert told_until_closed(connection) == b""


def test_a_connection_is_of_use_after_a_body_that_nobody_read(strict_server: Running) -> None:
    with connect(strict_server) as connection:
        refused_early(connection, UNREAD)
        asked = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
        for sent in (b"x" * 100 + asked, asked):
            connection.sendall(sent)
            told = b""
            while not told.endswith(b"}"):
                part = connection.recv(65_536)
                assert part
                told += part
            assert told.startswith(b"HTTP/1.1 200 ")


def endless(connection: socket.socket) -> None:
    """Headers of 20 MB, where nobody stops it."""
    for _ in range(5000):
        connection.sendall(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 100)


def test_headers_behind_a_body_have_the_limit_of_those_before_it(strict_server: Running) -> None:
    for head in (CHUNKED, HEAD.encode() + b"transfer-encoding: chunked\r\n\r\n"):
        with connect(strict_server) as connection:
            if head == CHUNKED:
                refused_early(connection, head)
            else:
                connection.sendall(head)
            connection.sendall(b"1\r\n{\r\n0\r\n")
            with pytest.raises(ConnectionError):
                endless(connection)
    assert strict_server.get("/v2").status_code == 200
