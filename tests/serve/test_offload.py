"""A large body is read beside the event loop, whatever it is sent to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import Request

from interlock.errors import InterlockError
from interlock.serve import admin, openai_app, scan
from interlock.serve.hosting import Hosting
from interlock.serve.metrics import Metrics
from interlock.serve.offload import INLINE
from interlock.serve.settings import Settings

LARGE = INLINE + 1
CASES: dict[str, tuple[Any, str, str]] = {
    "chat": (
        openai_app,
        "read_chat",
        '{"model": "m", "messages": [{"role": "user", "content": "%s"}]}',
    ),
    "completion": (openai_app, "read_completion", '{"model": "m", "prompt": "%s"}'),
    "scan": (scan, "read_json", '{"text": "%s"}'),
    "line": (scan, "read_json", '{"text": "%s", "model": "m"}'),
    "feedback": (admin, "read_json", '{"labels": [{"label": "%s"}]}'),
}


@pytest.fixture
def endpoints(tmp_path: Path) -> dict[str, Callable[[bytes], Any]]:
    """Of a server without models: each reads its body before it finds that out."""
    settings = Settings()
    metrics = Metrics()
    hosting = Hosting(settings, tmp_path, metrics, lambda *_, **__: None)
    sent: list[bytes] = []

    async def body(request: Request) -> bytes:
        return sent[-1]

    request = Request({"type": "http", "headers": [], "query_string": b"", "state": {}})
    nothing = cast(Any, None)
    texts = openai_app.TextEndpoints(hosting, metrics, body, nothing)
    scans = scan.Scans(
        hosting, nothing, settings, metrics, tmp_path, read_body=body, client_of=nothing,
        look_again=nothing,
    )  # fmt: skip
    labels = admin.Admin(hosting, nothing, tmp_path, body)

    def asked(handler: Callable[[Request], Any]) -> Callable[[bytes], Any]:
        def ask(content: bytes) -> Any:
            sent.append(content)
            return handler(request)

        return ask

    hosted = type("Named", (), {"name": "m"})()
    return {
        "chat": asked(texts.chat),
        "completion": asked(texts.completion),
        "scan": asked(scans.scan),
        "line": lambda content: scans._line(request, hosted, content, 0, "id"),
        "feedback": asked(labels.feedback),
    }


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("case", CASES)
def test_only_a_small_body_is_read_on_the_event_loop(
    endpoints: dict[str, Callable[[bytes], Any]],
    case: str,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, reads, body = CASES[case]
    read = getattr(module, reads)
    threads = []

    def noting(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return read(*arguments)

    monkeypatch.setattr(module, reads, noting)

    async def main() -> int:
        with contextlib.suppress(InterlockError):
            await endpoints[case]((body % ("a" * size)).encode())
        return threading.get_ident()

    loop = asyncio.run(main())
    assert threads
    assert all((thread == loop) == (size < LARGE) for thread in threads)
