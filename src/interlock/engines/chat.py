"""What a chat model is asked and what it answers, whoever serves it.

One file a provider implements `ChatProvider`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import InputError, InterlockError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn, as asked for; None leaves a choice to the provider.

    max_tokens          most tokens of the answer
    temperature         0 is greedy
    top_p, top_k, min_p cut the tail of the distribution: by mass, by rank, by a share of the best
    repetition_penalty  divides the logits of tokens that occurred; 1 changes nothing
    seed                makes a draw repeatable where the provider can
    stop                texts that end the answer and are not part of it
    logprobs            alternatives to report a token, the drawn one aside; None for no logprobs
    logprob_tokens      tokens to report logprobs for, from the start; None for all
    """

    max_tokens: int = 2048
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logprob_tokens: int | None = 50

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        ranges: tuple[tuple[str, float, float], ...] = (
            ("max_tokens", 1, 1 << 31),
            ("temperature", 0.0, 2.0),
            ("top_p", 0.0, 1.0),
            ("top_k", 1, 1 << 31),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.01, 100.0),
            ("seed", 0, (1 << 63) - 1),
            ("logprobs", 0, 100),
            ("logprob_tokens", 0, 1 << 31),
        )
        for name, least, most in ranges:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                # Whole numbers in full: a seed's bound cut to six digits is another number.
                last = most if isinstance(most, int) else f"{most:g}"
                raise InputError(f"{name} is {value}; it must lie in {least:g} … {last}")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question. `key` names it in journals, for providers that can pass such a name on."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    key: str = ""


class StopReason(StrEnum):
    """Why the answer ended."""

    END = "end"
    """The model ended its turn."""
    STOP_TEXT = "stop_text"
    """One of the stop texts came up."""
    MAX_TOKENS = "max_tokens"
    """The limit of tokens, or the context's end: the answer is cut."""
    REFUSAL = "refusal"
    """The model, or a classifier of its vendor, declined to answer."""
    CONTENT_FILTER = "content_filter"
    """A filter held back the answer or a part of it."""
    OTHER = "other"
    """Something that the provider names and this release does not know."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the provider counted; None where it did not say."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    """Those of `input` that came from a cache."""
    reasoning: int | None = None
    """Those of `output` that were thought and not shown."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the answer: natural logarithms of probabilities, most likely first in `top`."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What a model answered, and what the provider says of it.

    model_version  the model that the provider reports, which may be more exact than the one asked
    applied        sampling parameters that were sent or used, by their name in `Sampling`
    not_applied    parameters that were asked for and not used -> why
    request_id     the provider's name for the request
    raw_stop       the provider's own word for the stop reason
    """

    text: str
    stop: StopReason
    model_version: str
    usage: Usage = field(default_factory=Usage)
    applied: Mapping[str, Any] = field(default_factory=dict)
    not_applied: Mapping[str, str] = field(default_factory=dict)
    logprobs: tuple[TokenLogprob, ...] | None = None
    request_id: str | None = None
    raw_stop: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do with one model, as far as it is known before the first request.

    sampling          names of `Sampling`'s fields that it applies
    logprobs          most alternatives a token that it reports, None where it reports no logprobs
    batches           it answers requests together on this machine, and gains by it
    paid              requests cost money
    not_with          fields of `sampling` that it does not apply beside another -> that other one
    most_temperature  the highest that it takes
    """

    sampling: frozenset[str]
    logprobs: int | None = None
    batches: bool = False
    paid: bool = True
    not_with: Mapping[str, str] = field(default_factory=dict)
    most_temperature: float = 2.0


# Providers implement the Protocols below. A change here breaks them; add an optional attribute
# to a dataclass above before changing a method.


class ChatProvider(Protocol):
    """Answers one request at a time, many at once, on an event loop.

    Retries, pacing and budgets are the caller's: a provider sends each request exactly once.
    """

    async def capabilities(self, model: str) -> Capabilities:
        """What it can do with `model`; may ask the provider, never for money.

        Raises EngineError where the model cannot be used, and says why.
        """
        ...

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        """The answer. A refusal or a cut answer is an answer, told by its `stop`.

        Raises an EngineError of `interlock.errors` for everything else, `TransientError` and its
        kind where a later attempt may succeed, DeadlineError when the time ran out. No message
        holds prompt text or keys.
        """
        ...

    async def close(self) -> None:
        """Release connections, models and processes."""
        ...


class BatchChatProvider(Protocol):
    """Answers requests together, in the calling thread; for models on this machine."""

    def capabilities(self, model: str) -> Capabilities:
        """As `ChatProvider.capabilities`."""
        ...

    def answer_batch(
        self, requests: Sequence[ChatRequest], *, deadline: Deadline
    ) -> list[ChatAnswer | InterlockError]:
        """One answer or error a request, in their order. One request's error costs no other."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...
