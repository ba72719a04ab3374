"""What the vendors' wires have in common: a request as read, an answer to be written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """A request for an answer. `prompt` is all of its text; `key` what it came with."""

    model: str
    prompt: str
    key: str
    body: Mapping[str, Any]
    digest: bytes
    number: int

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt, about four characters each."""
        return tokens_of(self.prompt)


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers and body of a response."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says, before a wire wraps it. `kind` is the fault's."""

    text: str
    kind: str = "ok"

    @property
    def output_tokens(self) -> int:
        """Tokens of the text."""
        return tokens_of(self.text)


class Wire(Protocol):
    """One vendor's formats."""

    def call(
        self, path: str, headers: Headers, body: Mapping[str, Any], digest: bytes, number: int
    ) -> Call:
        """The request; raises KeyError, TypeError or ValueError where it is malformed."""
        ...

    def rejects(self, call: Call) -> Reply | None:
        """A 400 for parameters that the model does not take."""
        ...

    def answer(self, call: Call, answer: Answer) -> Reply:
        """A 200."""
        ...

    def error(self, call: Call, kind: str) -> Reply:
        """The vendor's response to a fault that has a status."""
        ...

    def retry(self, wait: float, form: str) -> tuple[Headers, list[Mapping[str, Any]]]:
        """Headers and details of a body that ask for a wait."""
        ...

    def limits(self, found: Mapping[str, tuple[float, float, float]]) -> Headers:
        """Headers that tell limit, what is left and the seconds until it is full again."""
        ...

    def models(self, path: str) -> Reply:
        """The list of models, or one of them."""
        ...


def tokens_of(text: str) -> int:
    """About four characters a token, at least one."""
    return max(1, (len(text) + 3) // 4)


def split_tokens(text: str) -> list[str]:
    """The text in pieces of four characters."""
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def made_text(prompt: str, tokens: int) -> str:
    """An answer that depends on the prompt and nothing else, of about so many tokens."""
    words = hashlib.blake2b(prompt.encode(), digest_size=32).hexdigest()
    text = f"Answer {words[:8]}: " + " ".join(words[i : i + 5] for i in range(8, 60, 5))
    while len(text) < 4 * tokens:
        text += " " + text
    return text[: 4 * tokens].rstrip()


def reply(status: int, value: Any, headers: Headers | None = None) -> Reply:
    """A response of JSON."""
    return Reply(status, json.dumps(value, separators=(",", ":")).encode(), headers or {})


def logprob_of(token: str, rank: int) -> float:
    """A made logarithm of a probability: the same for the same token, lower for a worse rank."""
    return -0.01 - 0.8 * rank - (sum(token.encode()) % 50) / 100
