"""One request under way: what waits for its text, and how its text grows."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np

from interlock.engines.chat import StopReason, TokenLogprob, Usage
from interlock.engines.generate.decoder import check_finite
from interlock.engines.generate.model import TextModel
from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.engines.generate.sampling import Floats, Sampler, likeliest
from interlock.engines.generate.tokenizer import TextStream
from interlock.kernel.clock import Clock
from interlock.kernel.errors import CancelledRequestError, DeadlineError, InterlockError


class RequestHandle:
    """A submitted request. Iterating it gives the text piece by piece; `result` waits for all."""

    def __init__(
        self,
        request: GenerateRequest,
        prompt: list[int],
        model: TextModel,
        clock: Clock,
        on_text: Callable[[str], None] | None,
        on_end: Callable[[GenerateResult | InterlockError], None] | None = None,
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.model = model
        self.clock = clock
        self.cached = 0
        # The last token's own keys and values are never needed.
        self.most = min(len(prompt) + request.sampling.max_tokens - 1, model.context)
        self.submitted_at = clock.monotonic()
        self.started_at = self.submitted_at
        self.cancelled = False
        self._on_text = on_text
        self._on_end = on_end
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._outcome: GenerateResult | InterlockError | None = None

    def __iter__(self) -> Iterator[str]:
        """Pieces of the text as they come; together they are the result's text.

        No piece splits a character, and what may be the start of a stop text is held back. Raises
        what `result` raises, after the pieces that came before. To be iterated once.
        """
        while (piece := self._pieces.get()) is not None:
            yield piece
        self.result()

    def result(self, timeout: float | None = None) -> GenerateResult:
        """The answer, waited for up to `timeout` seconds; DeadlineError where it is not there.

        Raises the request's own error: DeadlineError, MemoryLimitError, CancelledRequestError,
        EngineUnavailableError while the circuit breaker is open, EngineError where the model
        failed.
        """
        if not self._ended.wait(timeout):
            raise DeadlineError(f"the answer was not there within {timeout:g} s")
        found = self.outcome()
        if isinstance(found, InterlockError):
            raise found
        return found

    def outcome(self) -> GenerateResult | InterlockError:
        """The answer or the request's own error, waited for."""
        self._ended.wait()
        assert self._outcome is not None
        return self._outcome

    def cancel(self) -> None:
        """Stop it at the next token. Does nothing once it ended."""
        self.cancelled = True

    @property
    def done(self) -> bool:
        """Whether it ended, well or not."""
        return self._ended.is_set()

    def started(self) -> None:
        """Its prompt is being read from here on."""
        self.started_at = self.clock.monotonic()

    def emit(self, piece: str) -> None:
        """A piece of the text. Raises CancelledRequestError where `on_text` raised."""
        self._pieces.put(piece)
        if self._on_text is None:
            return
        try:
            self._on_text(piece)
        except Exception as error:  # noqa: BLE001 - the caller's own function
            raise CancelledRequestError(f"on_text raised {type(error).__name__}") from None

    def finish(self, result: GenerateResult) -> None:
        """It ended well."""
        self._end(result)

    def fail(self, error: InterlockError) -> None:
        """It ended without an answer."""
        self._end(error)

    def _end(self, outcome: GenerateResult | InterlockError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._ended.set()
            self._pieces.put(None)
            if self._on_end is not None:
                # The worker's thread must outlive the caller's own function.
                with contextlib.suppress(Exception):
                    self._on_end(outcome)


class Row:
    """The text of one request, token by token.

    token  the last one drawn, which the next step feeds to the model
    read   tokens of the prompt that the cache holds
    """

    def __init__(self, handle: RequestHandle) -> None:
        self.handle = handle
        self.token = -1
        self.read = 0
        sampling = handle.request.sampling
        self._sampling = sampling
        self._sampler = Sampler(sampling, handle.prompt)
        # An answer to messages begins a text, and what continues one does not.
        after = None if handle.request.text is None else handle.prompt[-1]
        self._stream = TextStream(handle.model.tokenizer, sampling.stop, after)
        self._ends = frozenset(handle.model.spec.end_tokens)
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._logprob_sum = 0.0
        self._logprobs: list[TokenLogprob] = []
        self._stop = StopReason.OTHER
        self._first_at: float | None = None

    def add(self, logits: Floats, log_sum: float) -> bool:
        """Draw a token from (vocabulary,) logits; True where it was the last one.

        Raises EngineError where the logits are not finite.
        """
        error = check_finite(logits)
        if error is not None:
            raise error
        if self._first_at is None:
            self._first_at = self.handle.clock.monotonic()
        token = self._sampler.draw(logits)
        self.token = token
        self._tokens.append(token)
        logprob = float(logits[token]) - log_sum
        self._logprob_sum += logprob
        self._note(token, logprob, logits, log_sum)
        if token in self._ends:
            self._stop = StopReason.END
        else:
            self._emit(self._stream.add(token))
            if self._stream.stopped:
                self._stop = StopReason.STOP_TEXT
            elif (
                len(self._tokens) >= self._sampling.max_tokens
                or len(self.handle.prompt) + len(self._tokens) >= self.handle.model.context
            ):
                self._stop = StopReason.MAX_TOKENS
        if self._stop is StopReason.OTHER:
            return False
        if self._stop is not StopReason.STOP_TEXT:
            self._emit(self._stream.end())
            if self._stream.stopped:
                self._stop = StopReason.STOP_TEXT
        return True

    def result(self) -> GenerateResult:
        """The answer, once `add` said that it ended."""
        handle = self.handle
        assert self._first_at is not None
        return GenerateResult(
            text="".join(self._text),
            tokens=tuple(self._tokens),
            stop=self._stop,
            usage=Usage(input=len(handle.prompt), output=len(self._tokens), cached=handle.cached),
            logprobs=None if self._sampling.logprobs is None else tuple(self._logprobs),
            mean_logprob=self._logprob_sum / len(self._tokens),
            waiting_seconds=handle.started_at - handle.submitted_at,
            prompt_seconds=self._first_at - handle.started_at,
            seconds=handle.clock.monotonic() - handle.submitted_at,
            seed=self._sampler.seed,
            key=handle.request.key,
        )

    def _emit(self, piece: str) -> None:
        if piece:
            self._text.append(piece)
            self.handle.emit(piece)

    def _note(self, token: int, logprob: float, logits: Floats, log_sum: float) -> None:
        wanted, most = self._sampling.logprobs, self._sampling.logprob_tokens
        if wanted is None or (most is not None and len(self._logprobs) >= most):
            return
        name = self.handle.model.tokenizer.name
        top = likeliest(logits, wanted) if wanted else np.empty(0, np.int64)
        self._logprobs.append(
            TokenLogprob(
                name(token),
                logprob,
                tuple((name(int(t)), float(logits[t]) - log_sum) for t in top),
            )
        )
