"""A chat provider over bare sockets that speaks OpenAI's wire: no SDK, so that it starts at once.

For tests and benchmarks against the fake server; it knows no fault but a lost connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from interlock.engines.chat import Capabilities, ChatAnswer, ChatRequest, StopReason, Usage
from interlock.engines.chat_registry import register_chat_provider
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import ConnectionLostError, RateLimitError, ServiceError

SAMPLING = frozenset(["max_tokens", "temperature", "seed", "top_p", "stop"])


class PlainOpenAI:
    """Keeps its connections open and uses each for one request at a time."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port or 80
        self._path = f"{parts.path}/chat/completions"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def capabilities(self, model: str) -> Capabilities:
        return Capabilities(sampling=SAMPLING)

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        sampling = request.sampling
        body = json.dumps(
            {
                "model": request.model,
                "messages": [{"role": m.role, "content": m.content} for m in request.messages],
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "seed": sampling.seed,
            }
        ).encode()
        status, headers, answer = await self._post(body)
        if status == 429:
            wait = headers.get("retry-after")
            raise RateLimitError("429", wait_seconds=float(wait) if wait else None)
        if status != 200:
            raise ServiceError(str(status))
        value = json.loads(answer)
        choice, usage = value["choices"][0], value["usage"]
        return ChatAnswer(
            text=choice["message"]["content"],
            stop=StopReason.END,
            model_version=value["model"],
            usage=Usage(input=usage["prompt_tokens"], output=usage["completion_tokens"]),
            applied={
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "seed": sampling.seed,
            },
        )

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: {self._host}\r\nauthorization: Bearer k\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            answer = await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionLostError(type(error).__name__) from None
        self._idle.append((reader, writer))
        return int(lines[0].split()[1]), headers, answer

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def register() -> None:
    """Make it the model type `plain`."""

    def make(options: Mapping[str, Any], *, base: Path) -> PlainOpenAI:
        return PlainOpenAI(options["base_url"])

    register_chat_provider("plain", make)
