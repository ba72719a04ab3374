"""What clients are told whose requests outlast the time that a stopping server has."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

from support import models
from support.detectors import HARMLESS, write_bundle
from support.serving import Running, serving
from support.text_models import tiny_directory


def connect(server: Running, path: str, *headers: str) -> socket.socket:
    """A connection on which a request to `path` has begun."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(30)  # ends a hang of the test
    head = "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *headers, "", ""])
    connection.sendall(head.encode())
    return connection


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    with connection:
        found = b""
        while part := connection.recv(65_536):
            found += part
        return found


def last_request(server: Running) -> dict[str, Any]:
    return [line for line in server.log if line["event"] == "request"][-1]


def test_a_request_that_outlasts_the_drain_is_told_to_come_back(tmp_path: Path) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    served = {"affine": {"path": "affine.onnx"}}
    with serving(tmp_path, served, drain_seconds=0.2) as server:
        connection = connect(server, "/v2/models/affine/infer", "content-length: 9")
        server.get("/v2")  # the one before has begun
        assert server.stop(signal.SIGTERM) == 0
        head, _, body = rest(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 5" in head
    told = json.loads(body)
    assert (told["code"], told["retryable"]) == ("service", True)
    assert "stopping" in told["error"]
    line = last_request(server)
    assert (line["endpoint"], line["status"], line["code"]) == ("infer", 503, "service")


def test_a_stream_of_lines_that_outlasts_the_drain_says_so_in_its_last_line(tmp_path: Path) -> None:
    write_bundle(tmp_path / "small")
    with serving(tmp_path, {"small": {"path": "small"}}, drain_seconds=0.2) as server:
        connection = connect(
            server,
            "/v1/scan",
            "content-type: application/x-ndjson",
            "transfer-encoding: chunked",
        )
        line = json.dumps({"text": HARMLESS[0]}).encode() + b"\n"
        connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
        found = b""
        while b'"line":0' not in found:
            found += connection.recv(65_536)
        assert server.stop(signal.SIGTERM) == 0
        found += rest(connection)
    assert found.endswith(b"\r\n0\r\n\r\n"), "it is cut"
    lines = [json.loads(part) for part in found.splitlines() if part.startswith(b"{")]
    assert [one["line"] for one in lines] == [0, 1]
    assert (lines[1]["status"], lines[1]["code"]) == ("failed", "service")
    assert lines[1]["retryable"] is True
    assert (last_request(server)["status"], last_request(server)["code"]) == (200, "service")


def test_a_text_that_outlasts_the_drain_ends_in_an_error(tmp_path: Path) -> None:
    tiny_directory(tmp_path / "tiny", max_position_embeddings=1 << 15)
    asked: dict[str, Any] = {"model": "tiny", "prompt": "z", "max_tokens": 30_000, "temperature": 0}
    asked["repetition_penalty"] = 0.5  # it says the same over and over
    with serving(tmp_path, {"tiny": {"path": "tiny"}}, drain_seconds=0.0) as server:
        connections = []
        for stream in (True, False):
            body = json.dumps(asked | {"stream": stream})
            size = f"content-length: {len(body)}"
            connections.append(connect(server, "/v1/completions", size))
            connections[-1].sendall(body.encode())
        found = b""
        while b"data: " not in found:
            found += connections[0].recv(65_536)
        assert server.stop(signal.SIGTERM) == 0
        found += rest(connections[0])
        head, _, body_ = rest(connections[1]).partition(b"\r\n\r\n")
    assert found.endswith(b"\r\n0\r\n\r\n"), "it is cut"
    events = [part for part in found.split(b"\r\n") if part.startswith(b"data: ")]
    error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    assert (error["code"], error["interlock"]["retryable"]) == ("service", True)
    assert b"[DONE]" not in found
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body_)["error"]["type"] == "service_unavailable_error"
    codes = {(line["status"], line["code"]) for line in server.log if line["event"] == "request"}
    assert codes == {(200, "service"), (503, "service")}
