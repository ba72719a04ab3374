"""The server's process: HTTP/1.1 on 127.0.0.1, told what to do by its parent.

    python -m support.fake_llm.server LIFETIME_SECONDS

It prints its port, reads plans from paths below /control, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from support.fake_llm.anthropic_wire import AnthropicWire
from support.fake_llm.gemini_wire import GeminiWire
from support.fake_llm.openai_wire import OpenAIWire
from support.fake_llm.plan import Fault, Limits, Plan, Script
from support.fake_llm.wire import Answer, Call, Headers, Reply, Wire, made_text, reply

LARGEST_BODY = 16 << 20
MOST_CONNECTIONS = 4000
CUT = {"reset_before", "reset_after"}
ANSWERS = {"ok", "empty", "refusal", "max_tokens", "content_filter", "prompt_blocked"}
# What a vendor bills: the model ran, whatever came of the connection.
BILLED = (ANSWERS - {"prompt_blocked"}) | {
    "hang",
    "reset_after",
    "truncated",
    "slow_drip",
    "broken_json",
    "html",
}
WIRES: dict[str, Wire] = {
    "openai": OpenAIWire(),
    "anthropic": AnthropicWire(),
    "gemini": GeminiWire(),
}
REASONS = {200: b"OK", 400: b"Bad Request", 429: b"Too Many Requests"}


class State:
    """What is planned, and what happened."""

    def __init__(self) -> None:
        self.start(Plan())

    def start(self, plan: Plan) -> None:
        """Forget everything and follow `plan`."""
        self.plan = plan
        self.script = Script(plan)
        self.limits = Limits(plan)
        self.requests = 0
        self.previews = 0
        self.kinds: Counter[str] = Counter()
        self.seen: Counter[bytes] = Counter()
        self.answered: Counter[bytes] = Counter()
        self.billed: Counter[bytes] = Counter()
        self.open = 0
        self.most_open = 0
        self.tokens = 0
        self.first: float | None = None
        self.last: float | None = None
        self.log: deque[dict[str, Any]] = deque(maxlen=plan.keep)

    def counts(self) -> dict[str, Any]:
        """The figures of `FakeLLM.counts`."""
        first, last = self.first, self.last
        return {
            "requests": self.requests,
            "other": self.previews,
            "kinds": dict(self.kinds),
            "distinct": len(self.seen),
            "repeated": sum(count - 1 for count in self.seen.values()),
            "answered": self.answered.total(),
            "answered_twice": sum(count - 1 for count in self.answered.values()),
            "billed": self.billed.total(),
            "most_open": self.most_open,
            "tokens": self.tokens,
            "seconds": 0.0 if first is None or last is None else last - first,
        }


class Connection(asyncio.Protocol):
    """One connection: requests are answered one after the other."""

    def __init__(self, state: State, connections: set[Connection]) -> None:
        self.state = state
        self.connections = connections
        self.buffer = bytearray()
        self.busy = False
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.dripping: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it, or close it where there are too many."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connections.add(self)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what was to be sent."""
        self.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if self.dripping is not None:
            self.dripping.cancel()
        if self.busy:
            self.busy = False
            self.state.open -= 1
        self.transport = None

    def data_received(self, data: bytes) -> None:
        """Collect a request and take it when it is whole."""
        self.buffer += data
        while not self.busy and self.transport is not None:
            head, found, _ = self.buffer.partition(b"\r\n\r\n")
            if not found:
                if len(self.buffer) > 1 << 16:
                    self.transport.abort()
                return
            lines = bytes(head).decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ", 2)
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            is_call = method == "POST" and not path.startswith("/control")
            if is_call and self.state.script.cuts_next_unread():
                self._count("reset_before")
                self._reset()
                return
            length = int(headers.get("content-length", "0"))
            if length > LARGEST_BODY or "transfer-encoding" in headers:
                self._send(reply(413, {"error": {"message": "give a Content-Length"}}), close=True)
                return
            start = len(head) + 4
            if len(self.buffer) < start + length:
                return
            body = bytes(self.buffer[start : start + length])
            del self.buffer[: start + length]
            self._take(method, path.partition("?")[0], headers, body)

    def _take(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        if path.startswith("/control/"):
            self._send(self._control(path, body))
            return
        vendor, _, rest = path.removeprefix("/").partition("/")
        wire = WIRES.get(vendor)
        if wire is None:
            self._send(reply(404, {"error": {"message": f"nothing at {path}"}}))
        elif method == "GET":
            self.state.previews += 1
            self._send(wire.models("/" + rest))
        else:
            self._call(wire, "/" + rest, headers, body)

    def _call(self, wire: Wire, path: str, headers: dict[str, str], body: bytes) -> None:
        state = self.state
        number = state.requests
        digest = hashlib.blake2b(path.encode() + b"\0" + body, digest_size=16).digest()
        state.seen[digest] += 1
        try:
            call = wire.call(path, headers, json.loads(body), digest, number)
        except (KeyError, TypeError, ValueError) as error:
            self._count("malformed")
            self._send(reply(400, {"error": {"message": f"malformed: {error!r}"}}))
            return
        fault, latency = state.script.next(body, digest)
        answer = _answer(state.plan, call, fault.kind)
        if fault.kind == "ok":
            rejected = wire.rejects(call)
            if rejected is not None:
                self._count("rejected")
                self._later(0.0, lambda: self._send(rejected))
                return
        headers_of_limits: Headers = {}
        if state.plan.rpm or state.plan.tpm:
            now = time.monotonic()
            tokens = call.input_tokens + answer.output_tokens
            wait = state.limits.take(tokens, now)
            headers_of_limits = self._limits(wire)
            if wait:
                self._count("limited", answer)
                told = Fault("rate_limit", retry_after=wait)
                limited = _refused(wire, call, told, headers_of_limits)
                self._send(limited)
                return
        self._count(fault.kind, answer)
        if fault.kind in BILLED:
            state.billed[digest] += 1
        if state.plan.keep:
            state.log.append(
                {
                    "at": time.monotonic(),
                    "path": path,
                    "kind": fault.kind,
                    "headers": headers,
                    "body": body.decode(),
                }
            )
        act = self._action(wire, call, fault, answer, headers_of_limits)
        self._later(latency, act)

    def _action(
        self, wire: Wire, call: Call, fault: Fault, answer: Answer, limits: Headers
    ) -> Callable[[], None]:
        """What to do when the time comes."""
        kind = fault.kind
        if kind in CUT:
            return self._reset
        if kind == "hang":
            return lambda: None
        if kind == "html":
            page = b"<!doctype html><html><title>Sign in</title><body>Sign in</body></html>"
            return lambda: self._send(Reply(200, page, {}, "text/html; charset=utf-8"))
        if kind == "empty_body":
            return lambda: self._send(Reply(200, b""))
        if kind in ANSWERS or kind in ("truncated", "slow_drip", "broken_json"):
            whole = wire.answer(call, answer)
            whole = Reply(whole.status, whole.body, {**whole.headers, **limits})
            half = whole.body[: len(whole.body) // 2]
            if kind == "broken_json":
                return lambda: self._send(Reply(200, half, whole.headers))
            if kind == "truncated":
                return lambda: self._truncate(whole, half)
            if kind == "slow_drip":
                return lambda: self._drip(whole, fault.drip_seconds)

            def send() -> None:
                self.state.answered[call.digest] += 1
                self._send(whole)

            return send
        return lambda: self._send(_refused(wire, call, fault, limits))

    def _count(self, kind: str, answer: Answer | None = None) -> None:
        state = self.state
        state.requests += 1
        state.kinds[kind] += 1
        now = time.monotonic()
        state.first = now if state.first is None else state.first
        state.last = now
        if answer is not None and kind in BILLED:
            state.tokens += answer.output_tokens

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self.busy = True
        self.state.open += 1
        self.state.most_open = max(self.state.most_open, self.state.open)
        if seconds <= 0:
            act()
        else:
            self.timer = asyncio.get_running_loop().call_later(seconds, act)

    def _done(self) -> None:
        if self.busy:
            self.busy = False
            self.state.open -= 1
            if self.buffer:
                asyncio.get_running_loop().call_soon(self.data_received, b"")

    def _send(self, response: Reply, *, close: bool = False) -> None:
        if self.transport is None:
            return
        self.transport.write(_head(response, len(response.body)) + response.body)
        if close:
            self.transport.close()
        self._done()

    def _truncate(self, response: Reply, half: bytes) -> None:
        assert self.transport is not None
        self.transport.write(_head(response, len(response.body)) + half)
        self.transport.close()

    def _drip(self, response: Reply, seconds: float) -> None:
        async def drip() -> None:
            # A lost connection cancels this.
            assert self.transport is not None
            self.transport.write(_head(response, len(response.body)))
            for byte in response.body:
                self.transport.write(bytes((byte,)))
                await asyncio.sleep(seconds)
            self._done()

        self.dripping = asyncio.get_running_loop().create_task(drip())

    def _reset(self) -> None:
        """End the connection with RST, not FIN."""
        if self.transport is None:
            return
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _limits(self, wire: Wire) -> Headers:
        if not self.state.plan.declared:
            return {}
        found = {}
        for name, bucket in (
            ("requests", self.state.limits.requests),
            ("tokens", self.state.limits.tokens),
        ):
            if bucket:
                full = (bucket.size - bucket.left) / bucket.rate
                found[name] = (bucket.rate * 60, max(0.0, bucket.left), full)
        return wire.limits(found)

    def _control(self, path: str, body: bytes) -> Reply:
        if path == "/control/plan":
            self.state.start(Plan.from_json(json.loads(body)))
            return reply(200, {})
        if path == "/control/counts":
            return reply(200, self.state.counts())
        if path == "/control/log":
            return reply(200, list(self.state.log))
        return reply(404, {})


def _answer(plan: Plan, call: Call, kind: str) -> Answer:
    if kind in ("empty", "empty_body", "prompt_blocked"):
        return Answer("", kind)
    if kind == "refusal":
        return Answer("I cannot help with that.", kind)
    return Answer(plan.answer or made_text(call.prompt, plan.tokens), kind)


def _refused(wire: Wire, call: Call, fault: Fault, limits: Headers) -> Reply:
    """An error's response, with the wait that it asks for."""
    response = wire.error(call, fault.kind)
    headers = {**response.headers, **limits}
    body = response.body
    wait = fault.retry_after
    if wait is not None:
        if fault.retry_form == "seconds":
            headers["retry-after"] = f"{wait:.3f}".rstrip("0").rstrip(".")
        elif fault.retry_form == "ms":
            headers["retry-after-ms"] = str(round(wait * 1000))
        elif fault.retry_form == "date":
            headers["date"] = formatdate(time.time(), usegmt=True)
            headers["retry-after"] = formatdate(time.time() + wait, usegmt=True)
        more, details = wire.retry(wait, fault.retry_form)
        headers |= more
        if details:
            value = json.loads(body)
            value["error"].setdefault("details", []).extend(details)
            body = json.dumps(value).encode()
    return Reply(response.status, body, headers, response.content_type)


def _head(response: Reply, length: int) -> bytes:
    reason = REASONS.get(response.status, b"Said")
    lines = [
        b"HTTP/1.1 %d %s" % (response.status, reason),
        b"content-type: " + response.content_type.encode(),
        b"content-length: %d" % length,
    ]
    lines += [f"{name}: {value}".encode() for name, value in response.headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def serve(lifetime: float) -> None:
    """Serve until the time is over."""
    state = State()
    connections: set[Connection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(state, connections), "127.0.0.1", 0, backlog=2048
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(lifetime)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(serve(float(sys.argv[1])))
