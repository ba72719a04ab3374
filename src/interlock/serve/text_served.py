"""Text models behind HTTP: one killable process each, many texts at once, streamed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interlock.bundle.metadata import TensorSpec
from interlock.engines.chat import Message, Sampling, StopReason
from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.engines.generate.stream_process import (
    Event,
    StreamProcess,
    TextDescription,
    Ticket,
)
from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    BundleContractError,
    DeadlineError,
    EngineError,
    InterlockError,
    ServiceError,
)
from interlock.kernel.outcome import Evidence, EvidenceKind, Outcome, Status, Step, StepResult
from interlock.serve.opening import STORED
from interlock.serve.served import Answer, Workers, check_inputs
from interlock.serve.settings import ModelSettings

PROMPT, TEXT = "prompt", "text"
_STEP = "text"
_CANARY = "1, 2, 3, 4,"
# Weight of the last text in the running mean of a text's service time.
_WEIGHT = 0.1
_LONGEST_WAIT = 60.0


@dataclass
class TextServed:
    """A text model. Fields and methods as in `Served`, and `ask` for streams.

    By the Open Inference Protocol it takes one `prompt` and gives one `text`: greedy, through the
    model's chat template where it has one.
    """

    name: str
    process: StreamProcess
    settings: ModelSettings
    version: str = ""
    platform: str = "interlock_text"
    inputs: tuple[TensorSpec, ...] = (TensorSpec(PROMPT, "string", (1,)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec(TEXT, "string", (1,)),)
    diagnostics: frozenset[str] = frozenset()
    by_rows: bool = False
    mergeable: bool = False
    described: TextDescription | None = None
    _canary: tuple[int, ...] = ()
    _mean: float = 1.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self, deadline: Deadline) -> None:
        """See `Served.start`: the canary's tokens must be the same twice."""
        self.described = self.process.start(deadline)
        self.version = self.described.digest
        self._canary = self._try(deadline).tokens
        self.canary(deadline=deadline)

    @property
    def chat(self) -> bool:
        """Whether it takes messages."""
        return self.described is not None and self.described.chat

    def check(self, inputs: Mapping[str, Array]) -> int:
        """See `Served.check`."""
        return check_inputs(self.inputs, inputs, self.by_rows)

    def infer(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> Answer:
        """See `Served.infer`."""
        prompt = str(inputs[PROMPT][0])
        sampling = Sampling(max_tokens=self.settings.answer_tokens)
        began = time.perf_counter()
        try:
            found = self._wait(self.request(prompt, sampling, deadline), deadline)
        except InterlockError as error:
            return Answer(failed(self.name, error, time.perf_counter() - began), {})
        outcome = outcome_of(self.name, self.version, found)
        return Answer(outcome, {TEXT: np.array([found.text], dtype=object)})

    def request(
        self, prompt: str | tuple[Message, ...], sampling: Sampling, deadline: Deadline
    ) -> GenerateRequest:
        """What is asked of the process; a text is a message where the model takes messages."""
        if isinstance(prompt, str) and self.chat:
            prompt = (Message("user", prompt),)
        if isinstance(prompt, str):
            return GenerateRequest(text=prompt, sampling=sampling, deadline=deadline)
        return GenerateRequest(messages=prompt, sampling=sampling, deadline=deadline)

    def ask(self, request: GenerateRequest, on_event: Callable[[Event], None]) -> Ticket:
        """Start a text; pieces, then the result or error, go to `on_event` on another thread.

        Raises ServiceError, with the seconds after which to come back, where the queue is full or
        the wait would outlast the deadline, and EngineUnavailableError where it is closed.
        """
        slots = self.settings.slots
        waiting = max(0, sum(self.process.load) - slots)
        wait = self._mean * waiting / slots
        left = request.deadline.remaining()
        if waiting >= self.settings.queue or (left is not None and waiting and wait > left):
            raise ServiceError(
                f"{self.name}: {waiting} requests wait already",
                wait_seconds=min(_LONGEST_WAIT, max(0.1, wait)),
            )

        def told(event: Event) -> None:
            if isinstance(event, GenerateResult):
                with self._lock:
                    self._mean += _WEIGHT * (event.seconds - event.waiting_seconds - self._mean)
            on_event(event)

        return self.process.submit(request, told)

    def canary(self, *, deadline: Deadline) -> None:
        """See `Served.canary`: a few tokens, which are known since the start."""
        if self._try(deadline).tokens != self._canary:
            raise BundleContractError(f"{self.name}: the canary's text is another one")

    def workers(self) -> Workers:
        """See `Served.workers`."""
        process = self.process
        waiting, running = process.load
        return Workers(
            process.pids,
            process.rss,
            process.cpu_seconds,
            process.replaced,
            waiting=waiting,
            running=running,
            largest=process.rss,
            fault=process.fault,
        )

    def close(self) -> None:
        """See `Served.close`."""
        self.process.close()

    def _try(self, deadline: Deadline) -> GenerateResult:
        request = GenerateRequest(text=_CANARY, sampling=Sampling(max_tokens=2), deadline=deadline)
        return self._wait(request, deadline, urgent=True)

    def _wait(
        self, request: GenerateRequest, deadline: Deadline, *, urgent: bool = False
    ) -> GenerateResult:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self.process.submit(request, events.put, urgent=urgent)
        try:
            while isinstance(event := events.get(timeout=deadline.remaining()), str):
                pass
        except queue.Empty:
            self.process.cancel(ticket)
            raise DeadlineError(f"{self.name}: no answer by the deadline") from None
        if isinstance(event, InterlockError):
            raise event
        return event


def outcome_of(name: str, digest: str, found: GenerateResult) -> Outcome[Any]:
    """The outcome of a text: accepted, or flagged where a limit of tokens cut it."""
    cut = found.stop is StopReason.MAX_TOKENS
    evidence = Evidence(EvidenceKind.ATTESTED, _STEP, {"digest": digest, "seed": found.seed})
    step = Step(
        _STEP,
        StepResult.FLAGGED if cut else StepResult.ACCEPTED,
        "cut at the limit of tokens" if cut else "",
        found.seconds,
        1,
        (evidence,),
    )
    status = Status.FLAGGED if cut else Status.ACCEPTED
    return Outcome(status, found.text, (step,), evidence, route=name)


def failed(name: str, error: InterlockError, seconds: float) -> Outcome[Any]:
    """The outcome of a text that did not come."""
    late = isinstance(error, DeadlineError)
    result = StepResult.OVER_TIME if late else StepResult.ERROR
    reason = f"{error.code}: {error.message}" if isinstance(error, EngineError) else error.code
    step = Step(_STEP, result, reason, seconds, 1)
    return Outcome(Status.FAILED, steps=(step,), route=name, action="refuse")


def text_served(name: str, settings: ModelSettings, source: str) -> TextServed:
    """The text model in the bundle at `source`, or of that name in the user's store."""
    stored = source.startswith(STORED)
    signature = settings.require_signature
    process = StreamProcess(
        source.removeprefix(STORED) if stored else Path(source),
        slots=settings.slots,
        workers=settings.workers,
        cache_limit=settings.cache_mb << 20,
        # The system counts what a cache may take from the start, so its limit comes on top.
        memory_limit=(settings.memory_mb and settings.memory_mb + settings.cache_mb) << 20 or None,
        expected_digest=settings.expected_digest,
        require_signature=None if signature is None else Path(signature),
        name=name,
    )
    return TextServed(name=name, process=process, settings=settings)
