"""Text generation in processes that can be killed: hard deadlines and memory limits for any model.

Each process holds its own copy of the weights. Threads over one session (`Generator`) cost less;
this is for models that are not trusted, and where a crash must not take the caller along.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from interlock.engines.chat import Message, Sampling
from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.engines.generate.tokenizer import unicode_text
from interlock.engines.onnx import CPU
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    CancelledRequestError,
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineUnavailableError,
    InterlockError,
    MalformedAnswerError,
    MemoryLimitError,
)
from interlock.kernel.process import WorkerProcess
from interlock.kernel.remote_errors import describe, rebuild

_TARGET = "interlock.engines.generate.processes:serve"
# What befell the process and not one request of it.
_LOST = (EngineCrashError, DeadlineError, MemoryLimitError)


class _Fields(msgspec.Struct):
    """A request as it crosses; its deadline crosses as the seconds that are left."""

    prompt_tokens: tuple[int, ...] | None
    messages: tuple[Message, ...] | None
    sampling: Sampling
    key: str
    prefix: int
    text: str | None = None


def serve(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Runs in the process: loads the model, and answers groups of requests."""
    from interlock.engines.generate.generator import Generator
    from interlock.engines.generate.model import load_text_model

    model = load_text_model(
        options["source"] if options["named"] else Path(options["source"]),
        providers=tuple(options["providers"]),
        expected_digest=options["expected_digest"],
    )
    generator = Generator(model, slots=options["slots"])

    def answer(payload: Any) -> Any:
        requests = [request_of(each) for each in payload]
        return [plain(found) for found in generator.generate(requests)]

    return answer


# Built before threads meet there: their first uses of a class at the same time end the process
# (msgspec 0.22).
_RESULT = msgspec.msgpack.Decoder(GenerateResult)


class ProcessGenerator:
    """A model in `size` processes, each answering up to `slots` requests at a time.

    A process that dies, hangs or runs out of memory is replaced. The requests that it had are
    repeated one by one, and one whose process died once more after that, so that only those that
    do it again alone are lost; an answer that is repeated is the same one. Safe across threads.

    source         as for `load_text_model`
    memory_limit   bytes that a process may use in all
    call_seconds   longest time for a group of requests, after which its process is killed
    """

    def __init__(
        self,
        source: str | Path,
        *,
        size: int = 1,
        slots: int = 4,
        memory_limit: int | None = None,
        call_seconds: float | None = None,
        providers: Sequence[str] = (CPU,),
        expected_digest: str | None = None,
    ) -> None:
        for name, value in (("size", size), ("slots", slots)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more")
        if call_seconds is not None and not call_seconds > 0:
            raise ConfigError(f"call_seconds is {call_seconds}; it must be above 0")
        options = {
            "source": str(source),
            "named": isinstance(source, str),
            "slots": slots,
            "providers": list(providers),
            "expected_digest": expected_digest,
        }
        self._slots = slots
        self._call_seconds = call_seconds
        self._closed = False
        self._processes = [
            WorkerProcess(
                _TARGET, options=options, memory_limit=memory_limit, name=f"text process {number}"
            )
            for number in range(size)
        ]

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of those that run."""
        return tuple(p.pid for p in self._processes if p.pid is not None)

    def start(self, deadline: Deadline | None = None) -> None:
        """Load the model in every process. Raises what loading raises."""
        for process in self._processes:
            process.start(Deadline(None) if deadline is None else deadline)

    def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[GenerateResult | InterlockError]:
        """One result or error a request, in their order. One request's error costs no other."""
        if self._closed:
            raise EngineUnavailableError("the text processes are closed")
        found: dict[int, GenerateResult | InterlockError] = {}
        waiting = deque(enumerate(requests))
        lock = threading.Lock()

        def work(process: WorkerProcess) -> None:
            while True:
                with lock:
                    # Spread evenly: a process takes no more than its share of what is left.
                    share = -(-len(waiting) // len(self._processes))
                    group = [waiting.popleft() for _ in range(min(share, self._slots))]
                if not group:
                    return
                answers = self._answers(process, [request for _, request in group])
                found.update(zip((index for index, _ in group), answers, strict=True))

        threads = [threading.Thread(target=work, args=(p,)) for p in self._processes]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            waiting.clear()
            self.kill()
            raise
        return [found[index] for index in range(len(requests))]

    def kill(self) -> None:
        """End the processes at once; what they had fails, and the next call starts fresh ones."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End the processes for good."""
        self._closed = True
        for process in self._processes:
            process.kill()
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answers(
        self, process: WorkerProcess, group: list[GenerateRequest], *, again: bool = True
    ) -> list[GenerateResult | InterlockError]:
        if self._closed:
            return [CancelledRequestError("the text processes were closed")] * len(group)
        try:
            told = process.call([sent(each) for each in group], deadline=self._due(group))
            return received(told, len(group))
        except _LOST as error:
            if len(group) == 1 and again and isinstance(error, EngineCrashError):
                # Whoever killed the process may not have meant the request.
                return self._answers(process, group, again=False)
            if len(group) == 1:
                return [error]
            return [self._answers(process, [each])[0] for each in group]
        except InterlockError as error:
            return [error] * len(group)

    def _due(self, group: list[GenerateRequest]) -> Deadline:
        """The time for a group. One request's own deadline is hard, of several it is soft."""
        due = Deadline.after(self._call_seconds)
        if len(group) > 1:
            return due
        own = group[0].deadline
        left = own.remaining()
        return due if left is None else due.earlier(left)


def sent(request: GenerateRequest) -> dict[str, Any]:
    """The request as it crosses, which lone surrogates cannot: a tokenizer reads none either."""
    messages = None
    if request.messages is not None:
        messages = [{"role": m.role, "content": unicode_text(m.content)} for m in request.messages]
    # No text that is written holds one.
    stop = tuple(text for text in request.sampling.stop if unicode_text(text) == text)
    return {
        "prompt_tokens": request.prompt_tokens,
        "messages": messages,
        "sampling": msgspec.to_builtins(replace(request.sampling, stop=stop)),
        "key": request.key,
        "prefix": request.prefix,
        "text": None if request.text is None else unicode_text(request.text),
        "seconds": request.deadline.remaining(),
    }


def request_of(told: dict[str, Any]) -> GenerateRequest:
    fields = msgspec.convert(
        {name: value for name, value in told.items() if name != "seconds"}, _Fields
    )
    return GenerateRequest(
        prompt_tokens=fields.prompt_tokens,
        messages=fields.messages,
        sampling=fields.sampling,
        key=fields.key,
        prefix=fields.prefix,
        text=fields.text,
        deadline=Deadline.after(told["seconds"]),
    )


def plain(found: GenerateResult | InterlockError) -> Any:
    if isinstance(found, InterlockError):
        return {"error": list(describe(found))}
    # As bytes: log probabilities of a long text exceed what a message may hold beside them.
    return {"result": msgspec.msgpack.encode(found)}


def received(told: Any, count: int) -> list[GenerateResult | InterlockError]:
    """The answers of a process, which is not trusted."""
    malformed = MalformedAnswerError("a text process sent something that is no answer")
    if not isinstance(told, list) or len(told) != count:
        raise malformed
    found: list[GenerateResult | InterlockError] = []
    for each in told:
        try:
            if "error" in each:
                codes, message, hint, extra = each["error"]
                found.append(rebuild(codes, message, hint, extra))
            else:
                found.append(_RESULT.decode(each["result"]))
        except (TypeError, KeyError, ValueError, AttributeError, msgspec.DecodeError):
            found.append(malformed)
    return found
