"""What a text engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from interlock.engines.chat import Message, Sampling, StopReason, TokenLogprob, Usage
from interlock.engines.generate.tokenizer import unicode_text
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import InputError


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One text to write. Exactly one of `prompt_tokens`, `text` and `messages` is given.

    prompt_tokens  token ids of the whole prompt, special tokens among them; none is added
    text           to be continued; the model's start token comes first where it wants one
    messages       a conversation, put through the model's own chat template
    sampling       how tokens are drawn; what it leaves open is greedy
    key            names the request in errors
    prefix         how many tokens at the prompt's start are shared with other requests; their
                   part of the cache is computed once and copied. The answer does not depend on
                   whether it was there already
    deadline       when the answer is due; the request is cancelled then
    """

    prompt_tokens: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    key: str = ""
    prefix: int = 0
    deadline: Deadline = NO_DEADLINE
    text: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError for a request that cannot be meant."""
        given = (self.prompt_tokens, self.text, self.messages)
        if sum(each is not None for each in given) != 1:
            raise InputError("a request takes one of prompt_tokens, text and messages")
        if self.messages is not None and not self.messages:
            raise InputError("messages is empty; a request needs at least one")
        if self.prompt_tokens is not None and not self.prompt_tokens:
            raise InputError("prompt_tokens is empty; a request needs at least one token")
        for token in (
            (min(self.prompt_tokens), max(self.prompt_tokens)) if self.prompt_tokens else ()
        ):
            # No vocabulary has such an id, and no message to a process can carry a larger one.
            if not 0 <= token < 1 << 31:
                raise InputError(f"prompt_tokens holds {token}; ids are 0 to {(1 << 31) - 1}")
        if unicode_text(self.key) != self.key:
            raise InputError(f"key is {self.key!r}, which is not Unicode text")
        if self.prefix < 0:
            raise InputError(f"prefix is {self.prefix}; it must be 0 or more")


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """A text, and how it came about.

    text             the answer, without the stop text that ended it
    tokens           ids of all drawn tokens, the end-of-turn token and a stop text's included
    stop             why it ended
    usage            tokens of the prompt and of the answer; `cached` are those of a shared prefix
                     that another request had computed
    logprobs         of the tokens that `Sampling.logprobs` asked for, else None
    mean_logprob     mean natural log probability of all drawn tokens under the unmodified
                     distribution (before temperature and cuts); None where none was drawn
    waiting_seconds  from submission to the start of the prompt's work
    prompt_seconds   from there to the first token
    seconds          from submission to the end
    seed             of the draws, the system's where none was asked for; None for a greedy answer
    key              the request's
    """

    text: str
    tokens: tuple[int, ...]
    stop: StopReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] | None
    mean_logprob: float | None
    waiting_seconds: float
    prompt_seconds: float
    seconds: float
    seed: int | None = None
    key: str = ""


class Handle(Protocol):
    """A submitted request."""

    request: GenerateRequest

    def __iter__(self) -> Iterator[str]:
        """Pieces of the text as they come; together they are the result's text.

        No piece splits a character, and what may be the start of a stop text is held back. Raises
        what `result` raises, after the pieces that came before.
        """
        ...

    def result(self, timeout: float | None = None) -> GenerateResult:
        """The answer, waited for up to `timeout` seconds.

        Raises the request's own error: DeadlineError, MemoryLimitError, CancelledRequestError,
        InputError for a prompt that does not fit, EngineError where the model failed.
        """
        ...

    def cancel(self) -> None:
        """Stop it at the next token. Does nothing once it ended."""
        ...

    @property
    def done(self) -> bool:
        """Whether it ended, well or not."""
        ...
