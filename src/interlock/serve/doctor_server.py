"""What the doctor finds out from a real server with the deployment's settings, on the loopback."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from interlock.serve.checklist import Finding, Result, passed
from interlock.serve.config_file import PREFIX
from interlock.serve.opening import DETECTOR, REGISTERED, STORED
from interlock.serve.settings import Settings

_ENDED = "it ended before it listened"
_STOP_SECONDS = 60.0


def examine(settings: Settings, base: Path) -> Iterator[Finding]:
    """The findings: health, metrics, and that nothing a client sends is kept.

    A server of its own is started for this, on a free port, with one process a model and without
    the deployment's state, so that one that runs already is left alone.
    """
    with tempfile.TemporaryDirectory(prefix="interlock-doctor-") as directory:
        place = Path(directory)
        token = secrets.token_urlsafe(24)
        config = place / "serve.json"
        config.write_bytes(_configuration(settings, base, place / "log", token))
        config.chmod(0o600)
        environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        environ |= {"INTERLOCK_ENVIRONMENT": "production"}
        process = subprocess.Popen(
            [sys.executable, "-m", "interlock", "serve", str(config), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
        )
        late = threading.Timer(settings.start_seconds + _STOP_SECONDS, process.kill)
        late.start()
        try:
            told = _started(process)
            if told is None:
                yield Finding("integration", "the server starts", "fail", _ENDED)
                return
            yield Finding("integration", "the server starts", "pass", "on a free port")
            server = _Server(told["port"], token, settings.tls_cert is not None)
            yield from _health(server)
            yield from _kept(server, sorted(settings.models), place / "log")
            process.send_signal(signal.SIGTERM)
            code = process.wait(settings.drain_seconds + _STOP_SECONDS)
            ended = passed(code in (0, 1))
            yield Finding("integration", "it stops when told to", ended, f"exit code {code}")
        except subprocess.TimeoutExpired:
            yield Finding("integration", "it stops when told to", "fail", "it did not end")
        except (OSError, http.client.HTTPException, ValueError) as error:
            yield Finding("integration", "the server answers", "fail", type(error).__name__)
        finally:
            late.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _configuration(settings: Settings, base: Path, log: Path, token: str) -> bytes:
    document: dict[str, Any] = msgspec.to_builtins(settings)
    document |= {"host": "127.0.0.1", "port": 0, "log": str(log), "token": token}
    document |= {"state": None, "otlp_endpoint": None, "rate": 0.0}
    for own in document["models"].values():
        own["workers"] = 1
        for name in ("policy", "calibration"):
            if own[name] is not None:
                own[name] = str((base / own[name]).resolve())
        if not own["path"].startswith((REGISTERED, DETECTOR, STORED)):
            own["path"] = str((base / own["path"]).resolve())
    return msgspec.json.encode({"production": document})


def _started(process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """What the server says when it listens; None where it ended."""
    assert process.stdout is not None
    told = b""
    for line in process.stdout:
        told += line
        if line.rstrip() == b"}":
            found: dict[str, Any] = json.loads(told)
            return found if "port" in found else None
    return None


class _Server:
    def __init__(self, port: int, token: str, tls: bool) -> None:
        self._port = port
        self._token = token
        self._context = ssl._create_unverified_context() if tls else None  # its own loopback

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        if self._context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        else:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=60, context=self._context
            )
        sent = {"authorization": f"Bearer {self._token}", **(headers or {})}
        try:
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


def _health(server: _Server) -> Iterator[Finding]:
    status, _ = server.ask("GET", "/v2/health/ready")
    ready = passed(status == 200)
    yield Finding("integration", "every model is ready", ready, f"/v2/health/ready says {status}")
    status, body = server.ask("GET", "/health")
    found = json.loads(body)
    word = str(found["status"])
    detail = f"/health says {word}, {found.get('latency_ms', 0.0):.3g} ms"
    result: Result = "warn" if word == "degraded" else passed(word == "healthy")
    yield Finding("integration", "health is asked by an inference", result, detail)
    status, body = server.ask("GET", "/metrics")
    count = body.count(b"# TYPE interlock_")
    told = passed(status == 200 and count > 0)
    yield Finding("integration", "metrics are there", told, f"{count} of them at /metrics")
    status, _ = server.ask("GET", "/v2/models", headers={"authorization": "Bearer none"})
    told = passed(status == 401)
    yield Finding("security", "a wrong token is refused", told, f"status {status}")


def _kept(server: _Server, models: list[str], log: Path) -> Iterator[Finding]:
    """Send a secret through answers and errors, and look for it in what the server keeps."""
    secret = f"interlock-doctor-{secrets.token_hex(8)}"
    header = {"x-secret": secret, "content-type": "application/json"}
    texts: dict[str, Any] = {"text": secret, "inputs": [], "id": secret}
    unknown = {"name": secret, "shape": [1], "datatype": "BYTES", "data": [secret]}
    statuses = []
    for path, body in [
        *((f"/v2/models/{model}/infer", {"inputs": [unknown], "id": secret}) for model in models),
        *((f"/v2/models/{model}/infer", {"inputs": secret}) for model in models),
        ("/v1/scan", texts),
        (f"/v2/models/{secret}/infer", texts),
        (f"/{secret}?{secret}", texts),
    ]:
        status, _ = server.ask("POST", path, json.dumps(body).encode(), header)
        statuses.append(status)
    _, metrics = server.ask("GET", "/metrics")
    item = "no text of a request in the log or the metrics"
    written = log.read_bytes() if log.exists() else b""
    if not written:
        yield Finding("security", item, "fail", "no log was written")
        return
    hits = (written + metrics).count(secret.encode())
    result = passed(not hits)
    detail = f"{len(statuses)} requests with a secret, {hits} traces of it"
    yield Finding("security", item, result, detail)
    broken = [status for status in statuses if status >= 500 and status != 503]
    result = passed(not broken)
    told = f"they got {', '.join(map(str, sorted(set(statuses))))}"
    yield Finding("function", "malformed requests are refused", result, told)
