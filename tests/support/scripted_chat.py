"""A chat provider in this process that answers as told, for tests of what asks providers."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interlock.engines.chat import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    StopReason,
    Usage,
)
from interlock.engines.chat_registry import CHAT_PROVIDERS
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import InterlockError

Reply = ChatAnswer | Exception
Script = Callable[[ChatRequest, int], Reply]
"""What becomes of a request, the n-th with this key, from 1."""

ALL = frozenset(["max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"])


def say(request: ChatRequest, text: str | None = None, **fields: Any) -> ChatAnswer:
    """An answer that depends on the request's content and seed alone."""
    asked = f"{request.messages[-1].content} {request.sampling.seed}"
    text = f"answer {hashlib.sha256(asked.encode()).hexdigest()[:12]}" if text is None else text
    sampling = request.sampling
    applied = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }
    fields.setdefault("stop", StopReason.END)
    fields.setdefault("usage", Usage(input=20, output=10))
    fields.setdefault("applied", {k: v for k, v in applied.items() if v is not None})
    return ChatAnswer(text=text, model_version=f"{request.model}-001", **fields)


class Scripted:
    """Answers on the event loop. `asked` counts the requests by key."""

    def __init__(
        self,
        script: Script = lambda request, attempt: say(request),
        *,
        seconds: float = 0.0,
        paid: bool = True,
        sampling: frozenset[str] = ALL,
        not_with: Mapping[str, str] | None = None,
        most_temperature: float = 2.0,
    ) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.requests: list[ChatRequest] = []
        self.most = self.open = 0
        self.closed = 0
        self._seconds = seconds
        self._capabilities = Capabilities(
            sampling=sampling,
            paid=paid,
            not_with=not_with or {},
            most_temperature=most_temperature,
        )

    async def capabilities(self, model: str) -> Capabilities:
        return self._capabilities

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        self.asked[request.key] += 1
        self.requests.append(request)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(self._seconds)
            reply = self.script(request, self.asked[request.key])
            if isinstance(reply, Exception):
                raise reply
            return reply
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed += 1


class ScriptedBatches:
    """Answers in the calling thread, together. `sizes` are those of the batches."""

    def __init__(self, script: Script = lambda request, attempt: say(request)) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.closed = 0

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(sampling=ALL, batches=True, paid=False)

    def answer_batch(
        self, requests: Sequence[ChatRequest], *, deadline: Deadline
    ) -> list[ChatAnswer | InterlockError]:
        self.sizes.append(len(requests))
        found: list[ChatAnswer | InterlockError] = []
        for request in requests:
            self.asked[request.key] += 1
            reply = self.script(request, self.asked[request.key])
            if isinstance(reply, Exception) and not isinstance(reply, InterlockError):
                raise reply
            found.append(reply)
        return found

    def close(self) -> None:
        self.closed += 1


@contextmanager
def registered(**providers: Scripted | ScriptedBatches) -> Iterator[None]:
    """Put the providers under their names as model types."""

    def factory(provider: Any) -> Any:
        def make(options: Mapping[str, Any], *, base: Path) -> Any:
            return provider

        return make

    for name, provider in providers.items():
        CHAT_PROVIDERS.register(name, factory(provider))
    try:
        yield
    finally:
        for name in providers:
            CHAT_PROVIDERS.unregister(name)
