"""Load on a server over HTTP: clients that ask one after the other, or requests at a set rate.

Plain sockets and a few lines of HTTP, so that the client takes little of the machine that it
measures.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

Ask = tuple[str, bytes]
"""Path and body."""


@dataclass
class Load:
    """What came of a load: seconds of every answer with status 200, and all by status.

    A request that got no whole answer counts as status 0. `cpu` is for the caller: the server's
    CPU seconds a request.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses[200] / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which that share of the answers came."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def median(self) -> float:
        """The median latency in seconds."""
        return statistics.median(self.latencies)


def closed(port: int, ask: Ask, *, clients: int, seconds: float) -> Load:
    """`clients` connections, each asking as soon as it has its answer."""
    return asyncio.run(_closed(port, ask, clients, seconds))


def paced(port: int, ask: Ask, *, rate: float, seconds: float, connections: int) -> Load:
    """`rate` requests a second, whatever the server does; latencies count from the due moment.

    Where all connections wait for answers the request is sent as soon as one is free.
    """
    return asyncio.run(_paced(port, ask, rate, seconds, connections))


async def _closed(port: int, ask: Ask, clients: int, seconds: float) -> Load:
    load = Load()
    until = time.perf_counter() + seconds

    async def client() -> None:
        connection = _Connection(port, ask)
        while (began := time.perf_counter()) < until:
            await connection.ask(load, began)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


async def _paced(port: int, ask: Ask, rate: float, seconds: float, connections: int) -> Load:
    load = Load()
    due: asyncio.Queue[float | None] = asyncio.Queue()

    async def client() -> None:
        connection = _Connection(port, ask)
        while (moment := await due.get()) is not None:
            await connection.ask(load, moment)
        connection.close()

    clients = [asyncio.ensure_future(client()) for _ in range(connections)]
    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        moment = began + number / rate
        if (left := moment - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        due.put_nowait(moment)
    for _ in clients:
        due.put_nowait(None)
    await asyncio.gather(*clients)
    load.seconds = time.perf_counter() - began
    return load


class _Connection:
    def __init__(self, port: int, ask: Ask) -> None:
        path, body = ask
        self._port = port
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, load: Load, since: float) -> None:
        try:
            status = await asyncio.wait_for(self._ask(), 60)
        except (OSError, EOFError, ValueError, TimeoutError):
            self.close()
            status = 0
        load.statuses[status] += 1
        if status == 200:
            load.latencies.append(time.perf_counter() - since)

    async def _ask(self) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        lines = head.split(b"\r\n")
        fields = dict(line.split(b":", 1) for line in lines[1:] if b":" in line)
        if b"content-length" in fields:
            await reader.readexactly(int(fields[b"content-length"]))
        else:
            while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        if fields.get(b"connection", b"").strip() == b"close":
            self.close()
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
