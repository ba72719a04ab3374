"""Requests behind one another and clients that leave, on both event loops of a server."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
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


class Connection:
    """One connection to a gate with an application behind it.

    left      set when the server has noticed that the connection ended
    received  all that the client was sent
    """

    def __init__(self, *, head_seconds: float = 60.0) -> None:
        self.log: list[dict[str, Any]] = []
        self.metrics = Metrics()
        self.left = asyncio.Event()
        self.received = b""
        self._limits: dict[str, Any] = {
            "head_bytes": 1000,
            "head_seconds": head_seconds,
            "send_seconds": 60.0,
        }

    def _told(self, event: str, **fields: Any) -> None:
        self.log.append({"event": event, **fields})

    async def leaves(self, app: App, sent: bytes) -> list[tuple[int, str]]:
        """Send, and the end; status and code of every request that was begun."""
        async with self._connected(app) as (_, writer):
            writer.write(sent)
            writer.write_eof()
            await self.left.wait()
        return self.requests()

    async def stays(self, app: App, *sent: bytes | asyncio.Event, answers: int = 0) -> None:
        """Send in parts, after what they wait for; read so many answers, or to the end."""
        async with self._connected(app) as (reader, writer):
            for part in sent:
                if isinstance(part, bytes):
                    writer.write(part)
                else:
                    await part.wait()
            with contextlib.suppress(ConnectionError):
                while not answers or self.received.count(b"HTTP/1.1 ") < answers:
                    part = await reader.read(1 << 16)
                    if not part:
                        break
                    self.received += part

    @contextlib.asynccontextmanager
    async def _connected(
        self, app: App
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        gate = Gate(
            app, settings=Settings(), tokens=Tokens(()), metrics=self.metrics, log=self._told
        )
        config = uvicorn.Config(gate, lifespan="off", log_config=None, access_log=False)
        config.load()
        left = self.left

        class Observed(limited_protocol(**self._limits, connections=10)):  # type: ignore[misc]
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                left.set()

        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Observed(config, state, {}), "127.0.0.1", 0)
        async with server, asyncio.timeout(20):  # which ends a hang of the test
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                yield reader, writer
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            await left.wait()
            while state.tasks:
                await asyncio.gather(*state.tasks)

    def requests(self) -> list[tuple[int, str]]:
        """Status and code of every request that was begun."""
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
        leaving = Connection()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()  # as every endpoint with a body does; else nothing more is read
            await leaving.left.wait()
            await json_reply({})(scope, receive, send)

        assert await leaving.leaves(app, REQUEST * requests) == [(499, "client_gone")]
        assert leaving.errors() == ['interlock_errors_total{code="client_gone",model=""} 1.0']

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
@pytest.mark.parametrize("requests", [1, 3])
def test_an_error_of_ours_stays_one_though_the_client_left(
    loop: Callable[[], asyncio.AbstractEventLoop], requests: int
) -> None:
    async def main() -> None:
        leaving = Connection()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()  # as every endpoint with a body does; else nothing more is read
            await leaving.left.wait()
            raise RuntimeError("a fault")

        assert await leaving.leaves(app, REQUEST * requests) == [(503, "internal")]
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
        leaving = Connection()
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await receive()
            heard.append((await receive())["type"])
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        assert await leaving.leaves(app, REQUEST * 3) == [(200, "client_gone")]
        assert heard == ["http.disconnect"]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_requests_behind_one_that_runs_are_kept_up_to_a_number(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        staying = Connection()
        most = MOST_PIPELINED + 1
        await staying.stays(json_reply({}), REQUEST * most, answers=most)
        assert staying.received.count(b"HTTP/1.1 200 ") == most

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


LARGE = b"GET /v2 HTTP/1.1\r\nx-large: " + b"a" * 2000 + b"\r\n\r\n"


@LOOPS
@pytest.mark.parametrize(
    "behind",
    [REQUEST * (MOST_PIPELINED + 1), LARGE, LARGE[:-4], b"no request\r\n\r\n"],
    ids=["too many", "too large", "unfinished and too large", "no request"],
)
def test_what_is_refused_behind_a_request_that_runs_is_not_taken_for_its_answer(
    loop: Callable[[], asyncio.AbstractEventLoop], behind: bytes
) -> None:
    """The connection ends, and nothing behind the first request is begun."""

    async def main() -> None:
        staying = Connection()
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await staying.left.wait()
            await json_reply({})(scope, receive, send)

        await staying.stays(app, REQUEST, begun, behind)
        assert staying.received == b""
        assert staying.requests() == [(499, "client_gone")]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
@pytest.mark.parametrize(
    ("sent", "told"), [(LARGE, b"HTTP/1.1 431 "), (b"no request\r\n\r\n", b"HTTP/1.1 400 ")]
)
def test_what_is_refused_is_not_begun(
    loop: Callable[[], asyncio.AbstractEventLoop], sent: bytes, told: bytes
) -> None:
    async def main() -> None:
        staying = Connection()
        await staying.stays(json_reply({}), sent)
        assert staying.received.startswith(told)
        assert staying.received.count(b"HTTP/1.1 ") == 1
        assert staying.requests() == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
@pytest.mark.parametrize(("before", "told"), [(b"", [b"400"]), (REQUEST, [])])
def test_a_body_that_is_malformed_is_told_so_unless_another_answer_is_owed(
    loop: Callable[[], asyncio.AbstractEventLoop], before: bytes, told: list[bytes]
) -> None:
    async def main() -> None:
        staying = Connection()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await staying.left.wait()

        head = b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        await staying.stays(app, before + head + b"no length\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", staying.received) == told

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_a_head_that_is_late_ends_the_connection_behind_the_answer_that_is_owed(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        staying = Connection(head_seconds=0.05)
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await asyncio.sleep(0.5)
            await json_reply({})(scope, receive, send)

        await staying.stays(app, REQUEST, begun, b"GET /v2 HTTP/1.1\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", staying.received) == [b"200", b"408"]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
