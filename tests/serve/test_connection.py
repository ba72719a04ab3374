"""What becomes of requests whose client leaves, on both event loops that a server may have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from interlock.serve.connection import MOST_PIPELINED, limited_protocol
from interlock.serve.gate import Gate, Tokens
from interlock.serve.metrics import Metrics
from interlock.serve.replies import json_reply
from interlock.serve.settings import Settings

uvloop = pytest.importorskip("uvloop")
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
REQUEST = b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"

App = Callable[[Scope, Receive, Send], Any]


class Leaving:
    """A client that sends requests and its end; the application goes on once that is noticed.

    stays  it does not send its end, and takes what it is sent
    """

    def __init__(self, requests: int, *, stays: bool = False) -> None:
        self.sent = REQUEST * requests
        self.stays = stays
        self.answers = 0
        self.log: list[dict[str, Any]] = []
        self.metrics = Metrics()
        self.left = asyncio.Event()

    def told(self, event: str, **fields: Any) -> None:
        self.log.append({"event": event, **fields})

    async def ask(self, app: App) -> list[tuple[int, str]]:
        """Status and code of every request that was begun."""
        gate = Gate(
            app, settings=Settings(), tokens=Tokens(()), metrics=self.metrics, log=self.told
        )
        config = uvicorn.Config(gate, lifespan="off", log_config=None, access_log=False)
        config.load()
        limits: dict[str, Any] = {"head_bytes": 1000, "head_seconds": 60.0, "send_seconds": 60.0}
        left = self.left

        class Observed(limited_protocol(**limits, connections=10)):  # type: ignore[misc]
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                left.set()

        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Observed(config, state, {}), "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(self.sent)
                if not self.stays:
                    writer.write_eof()
                    await left.wait()
                wanted = len(self.sent) // len(REQUEST)
                while self.stays and self.answers < wanted:
                    line = await reader.readline()
                    if not line:
                        break
                    self.answers += b"HTTP/1.1 200" in line
                while state.tasks:
                    await asyncio.gather(*state.tasks)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        return [(e["status"], e["code"]) for e in self.log if e["event"] == "request"]

    def errors(self) -> list[str]:
        text = self.metrics.text().decode()
        return [line for line in text.splitlines() if line.startswith("interlock_errors_total{")]


@LOOPS
@pytest.mark.parametrize("requests", [1, 2, 5])
def test_a_client_that_left_before_its_answer_counts_as_gone_and_not_as_our_error(
    loop: Callable[[], asyncio.AbstractEventLoop], requests: int
) -> None:
    async def main() -> None:
        leaving = Leaving(requests)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()  # as every endpoint with a body does; else nothing more is read
            await leaving.left.wait()
            await json_reply({})(scope, receive, send)

        assert await leaving.ask(app) == [(499, "client_gone")]
        assert leaving.errors() == ['interlock_errors_total{code="client_gone",model=""} 1.0']

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
@pytest.mark.parametrize("requests", [1, 3])
def test_an_error_of_ours_stays_one_though_the_client_left(
    loop: Callable[[], asyncio.AbstractEventLoop], requests: int
) -> None:
    async def main() -> None:
        leaving = Leaving(requests)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()  # as every endpoint with a body does; else nothing more is read
            await leaving.left.wait()
            raise RuntimeError("a fault")

        assert [code for _, code in await leaving.ask(app)] == ["internal"]
        assert [e["error"] for e in leaving.log if e["event"] == "internal_error"] == [
            "RuntimeError"
        ]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_an_answer_under_way_is_known_to_be_nobodys(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """What waits for the client's end hears of it, though further requests are behind its own."""

    async def main() -> None:
        leaving = Leaving(3)
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await receive()
            heard.append((await receive())["type"])
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        assert await leaving.ask(app) == [(200, "client_gone")]
        assert heard == ["http.disconnect"]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_requests_behind_one_that_runs_are_kept_up_to_a_number(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        leaving = Leaving(MOST_PIPELINED + 1, stays=True)
        await leaving.ask(json_reply({}))
        assert leaving.answers == MOST_PIPELINED + 1

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_a_connection_with_more_of_them_is_ended_and_what_waits_is_not_begun(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """They would be held in memory before a token or a rate is asked for."""

    async def main() -> None:
        leaving = Leaving(MOST_PIPELINED + 2, stays=True)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await leaving.left.wait()
            await json_reply({})(scope, receive, send)

        with contextlib.suppress(ConnectionError):
            await leaving.ask(app)
        await leaving.left.wait()
        assert leaving.answers == 0
        assert [e["code"] for e in leaving.log if e["event"] == "request"] == ["client_gone"]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
