"""`interlock rollout`: against a running server, with its token out of sight."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import models
from support.keys import self_signed
from support.rollouts import ADMIN, ENVIRON, until
from support.rollouts import write_versions as versions
from support.serving import Running, serving

from interlock.cli.app import run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("rollout")
    versions(place)
    (place / "r.onnx").write_bytes(models.shifted(0))
    named: dict[str, dict[str, Any]] = {"m": {"path": "v0.onnx"}, "r": {"path": "r.onnx"}}
    named["small"] = {"path": "v0.onnx", "rollback_errors": 0.004}
    named["waits"] = named["back"] = named["paths"] = {"path": "v0.onnx"}
    with serving(place, named, environ=ENVIRON, state="state") as running:
        yield running


@pytest.fixture(autouse=True)
def environment(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_URL", server.url)
    monkeypatch.setenv("INTERLOCK_ADMIN_TOKEN", ADMIN)


@contextmanager
def answering(reply: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of something that answers every connection alike, and what it was sent."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65_536))
                    connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["rollout", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_start_to_end(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    started = told(capsys, "start", "m", "v1.onnx", "--mode", "canary", "--percent", "20")
    assert started["rollout"]["percent"] == 20
    assert run(["rollout", "status"]) == 0
    shown = capsys.readouterr().out
    assert "canary 20% of sha256:" in shown
    assert "false_positives" in shown
    promoted = told(capsys, "promote", "m", "--reason", "release")
    assert promoted["stable"]["path"] == "v1.onnx"
    assert told(capsys, "rollback", "m")["stable"]["path"] == "v0.onnx"
    assert run(["rollout", "status", "m"]) == 0
    assert "reverted: asked for" in capsys.readouterr().out
    assert len(told(capsys, "status")["models"]) == 6


def test_a_rollback_after_one_says_how_to_return_to_the_version_before(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "start", "back", "v1.onnx", "--mode", "canary")
    assert told(capsys, "promote", "back")["stable"]["path"] == "v1.onnx"
    told(capsys, "start", "back", "r.onnx", "--mode", "canary")
    assert told(capsys, "rollback", "back")["stable"]["path"] == "v1.onnx"
    assert run(["rollout", "rollback", "back"]) == 1
    refused = capsys.readouterr().err
    assert "was rolled back already" in refused
    assert "--previous" in refused
    assert told(capsys, "rollback", "back", "--previous")["stable"]["path"] == "v0.onnx"


def test_a_status_says_what_a_shadow_found_and_what_it_waits_for(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "start", "waits", "v1.onnx", "--mode", "shadow")
    until(
        lambda: (
            server.infer("waits", [[1, 2, 3]]).status_code == 200
            and told(capsys, "status", "waits")["rollout"]["evidence"]["answers"] > 0
        )
    )
    assert run(["rollout", "status", "waits"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"shadow of sha256:\w+, since 20\d\d-\d\d-\d\d", shown)
    assert re.search(r"compared [1-9]\d*, same 0, dropped \d+, failed 0", shown)
    assert re.search(r"[1-9] answers of the candidate; nothing is decided below 100", shown)


def test_a_reload(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rollout", "reload", "r"]) == 0
    assert "nothing changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["promote", "m"], 1, "no rollout is under way"),
        (["promote", "gone"], 1, "there is no model 'gone'"),
        (["start", "m", "../v1.onnx"], 1, "leads out of the directory"),
        (["start", "m", "v1.onnx", "--mode", "all"], 2, "all"),
        (["start", "m", "v1.onnx", "--percent", "200"], 2, "200"),
        (["status", "--url", "ftp://x"], 2, "must start with http"),
        (["status", "--url", "http://203.0.113.7:8000"], 2, "would let others read the token"),
        (["status", "--url", "http://127.0.0.1:1"], 1, "cannot be asked"),
        (["status", "--url", "http://[::1"], 2, "must start with http"),
        (["status", "--url", "http://127.0.0.1:port"], 2, "must start with http"),
        (["status", "--url", "https://me:secret@localhost:1"], 2, "names a user"),
        (["status", "--timeout", "-1"], 2, "--timeout"),
        (["status", "--timeout", "nan"], 2, "--timeout"),
        (["status", "--token-file", "nowhere"], 2, "--token-file nowhere"),
    ],
)
def test_a_mistake_is_one_message(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rollout", *arguments]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert ADMIN not in shown.err + shown.out
    assert shown.out == ""


def test_the_token_comes_from_the_environment_or_a_file_and_must_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_ADMIN_TOKEN", "token-that-is-wrong-01")
    assert run(["rollout", "status"]) == 1
    assert "a valid admin token is needed" in capsys.readouterr().err
    (tmp_path / "token").write_text(f"# admin\n{ADMIN}\n")
    assert run(["rollout", "status", "--token-file", str(tmp_path / "token")]) == 0
    monkeypatch.delenv("INTERLOCK_ADMIN_TOKEN")
    assert run(["rollout", "status"]) == 2
    assert "set INTERLOCK_ADMIN_TOKEN" in capsys.readouterr().err


def test_the_token_goes_to_the_server_alone(
    server: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy of the environment nor a place that is redirected to gets to see it."""
    with answering(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n") as (proxy, asked):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert run(["rollout", "status"]) == 0
        moved = b"HTTP/1.1 302 Found\r\nlocation: " + proxy.encode() + b"/\r\n\r\n"
        with answering(moved) as (url, _):
            assert run(["rollout", "status", "--url", url]) == 1
        assert "answered 302" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    "told", [b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
def test_what_answers_no_http_is_no_server(told: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(told) as (url, _):
        assert run(["rollout", "status", "--url", url]) == 1
    assert "cannot be asked" in capsys.readouterr().err


@pytest.mark.parametrize(("retryable", "shown"), [("true", True), ("false", False)])
def test_what_a_server_says_of_trying_again_is_passed_on(
    retryable: str, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f'{{"error": "not now", "code": "storage", "hint": "", "retryable": {retryable}}}'
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-length: {len(body)}\r\n\r\n"
    with answering((head + body).encode()) as (url, _):
        assert run(["rollout", "status", "--url", url, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["retryable"] is shown
    assert told["server_code"] == "storage"


def test_a_server_without_tls_that_is_asked_for_it(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.url.replace("http:", "https:")
    assert run(["rollout", "status", "--url", url]) == 1
    assert "http://" in capsys.readouterr().err


def test_a_status_names_the_paths(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "start", "paths", "v1.onnx", "--mode", "canary", "--percent", "20")
    assert run(["rollout", "status", "paths"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^paths  sha256:\w+  v0\.onnx$", shown, re.M)
    assert re.search(r"canary 20% of sha256:\w+, since \S+, from v1\.onnx$", shown, re.M)
    assert "started (canary 20% of v1.onnx): asked for" in shown
    told(capsys, "rollback", "paths")


def test_limits_are_shown_as_they_are(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "start", "small", "v1.onnx", "--mode", "canary")
    assert run(["rollout", "status", "small"]) == 0
    (errors,) = [line for line in capsys.readouterr().out.splitlines() if " errors " in line]
    assert errors.split()[-1] == "0.4%"
    told(capsys, "rollback", "small")


def test_a_server_without_an_admin_api_and_over_tls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions(tmp_path)
    self_signed(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(
        tmp_path, {"m": {"path": "v0.onnx"}}, tls_cert="cert.pem", tls_key="key.pem"
    ) as server:
        url = f"https://localhost:{server.port}"
        assert run(["rollout", "status", "--url", url]) == 1
        shown = capsys.readouterr().err
        assert "certificate" in shown
        assert "--ca" in shown
        assert run(["rollout", "status", "--url", url.replace("https", "http")]) == 1
        assert "https" in capsys.readouterr().err
        assert run(["rollout", "status", "--url", url, "--ca", str(tmp_path / "cert.pem")]) == 1
        assert "the server has no admin API" in capsys.readouterr().err
