"""Chat providers against the fake server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from support.fake_llm import FakeLLM

from interlock.engines.chat import ChatProvider, ChatRequest, Message, Sampling
from interlock.engines.chat_registry import make_chat_provider

KEY = "sk-canary-5f2a9c"
PROMPT = "canary prompt: does CVE-2021-44228 exist?"


@dataclass(frozen=True)
class Vendor:
    """A model type, the package of its SDK, and a model that takes every parameter."""

    name: str
    package: str
    model: str

    def url(self, server: FakeLLM) -> str:
        """The server's base URL for this vendor's wire."""
        urls = {"claude": server.anthropic, "gemini": server.gemini, "openai": server.openai}
        return urls[self.name]

    def provider(self, server: FakeLLM, **options: Any) -> ChatProvider:
        """A provider that asks the server."""
        given = {"api_key": KEY, "base_url": self.url(server)} | options
        return cast(ChatProvider, make_chat_provider(self.name, given, base=Path()))

    def request(self, prompt: str = PROMPT, **sampling: Any) -> ChatRequest:
        """A request for the vendor's model."""
        asked = {"max_tokens": 64, "temperature": 0.0} | sampling
        return ChatRequest(self.model, (Message("user", prompt),), Sampling(**asked))


VENDORS = (
    Vendor("claude", "anthropic", "claude-3-5-sonnet-20241022"),
    Vendor("gemini", "google.genai", "gemini-2.0-flash"),
    Vendor("openai", "openai", "gpt-4o-mini"),
)
