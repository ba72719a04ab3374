"""Text generation in one process that can be killed, many requests at once, streamed.

The parent asks the process again and again what is new, with what is to be started and cancelled;
the process answers as soon as there is something. So one call is short, and a process that does not
answer one is killed, whatever its model does.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from interlock.engines.generate.processes import plain, received, request_of, sent
from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.engines.generate.sampling import SEED_BITS
from interlock.engines.onnx import CPU
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineUnavailableError,
    InterlockError,
    MemoryLimitError,
)
from interlock.kernel.process import WorkerProcess

Event = str | GenerateResult | InterlockError
"""A piece of a text, or how it ended."""

_TARGET = "interlock.engines.generate.stream_process:serve"
_WAIT = 0.02  # seconds that the process waits for something to tell
_ANSWER = 15.0  # seconds after which a process that tells nothing at all is killed
_LATE = 5.0  # seconds after its deadline at which a request is told that it came, come what may
_RESTART = 120.0
_MOST = 256  # events an answer; what a process may send at once is limited
_LARGE = 1 << 18  # bytes of a result after which an answer goes out


class TextDescription(msgspec.Struct, frozen=True):
    """What the process tells of its model. `chat` says whether it has a template for messages."""

    name: str
    digest: str
    family: str
    weights: str
    context: int
    vocabulary: int
    chat: bool


class Ticket:
    """A submitted request. `cancel` of the process ends it."""

    def __init__(
        self,
        number: int,
        request: GenerateRequest,
        on_event: Callable[[Event], None],
        urgent: bool,
    ) -> None:
        self.number = number
        self.request = request
        self.urgent = urgent
        self.told = ""
        self.repeated = False
        self._again = ""
        self._on_event = on_event

    def start_again(self) -> None:
        """It is asked anew, and what was told already must come first."""
        self.repeated, self._again = True, ""

    def piece(self, text: str) -> bool:
        """Pass on what was not told yet; False where the text differs from what was told."""
        known = self.told[len(self._again) :]
        self._again += text
        if not (known.startswith(text) or text.startswith(known)):
            return False
        fresh = text[len(known) :]
        if fresh:
            self.told += fresh
            self._on_event(fresh)
        return True

    def end(self, outcome: GenerateResult | InterlockError) -> None:
        """It ended."""
        self._on_event(outcome)


class StreamProcess:
    """A text model in a process of its own. Safe across threads.

    source         as for `load_text_model`
    slots          texts under way at the same time; `workers` threads of the process run them
    cache_limit    bytes of the key-value caches; None for no limit
    memory_limit   bytes that the process may use in all; None for no limit
    step_seconds   a step of the model that takes longer is stopped

    A process that dies or hangs is replaced. What it had under way is asked again, one by one, so
    that a request which kills the process is alone when it does so a second time, and is then lost
    alone. The same request gets the same text, so a stream that was cut goes on where it was.

    Requests start in the order of their submission, when one of the slots is free.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        slots: int = 8,
        workers: int = 1,
        cache_limit: int | None = None,
        memory_limit: int | None = None,
        step_seconds: float | None = 60.0,
        providers: tuple[str, ...] = (CPU,),
        expected_digest: str | None = None,
        require_signature: Path | None = None,
        name: str = "text process",
    ) -> None:
        for what, value in (("slots", slots), ("workers", workers)):
            if value < 1:
                raise ConfigError(f"{what} is {value}; it must be 1 or more")
        options = {
            "source": str(source),
            "named": isinstance(source, str),
            # One more, for what is urgent.
            "slots": slots + 1,
            "workers": workers,
            "cache_limit": cache_limit,
            "step_seconds": step_seconds,
            "providers": list(providers),
            "expected_digest": expected_digest,
            "require_signature": None if require_signature is None else str(require_signature),
        }
        self.name = name
        self.slots = slots
        self.replaced = 0
        self._fault = ""
        self._process = WorkerProcess(
            _TARGET, options=options, memory_limit=memory_limit, name=name
        )
        self._changed = threading.Condition()
        self._new: list[Ticket] = []
        self._cancelled: list[int] = []
        self._live: dict[int, Ticket] = {}
        # What was late and is not known to have ended in the process -> when it must have.
        self._stopping: dict[int, float] = {}
        self._step_seconds = step_seconds
        self._again: list[Ticket] = []
        self._numbers = 0
        self._closed = False
        self._seeds = random.SystemRandom()
        self._thread: threading.Thread | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """The process id, where one runs."""
        pid = self._process.pid
        return () if pid is None else (pid,)

    @property
    def rss(self) -> int:
        """Resident bytes of the process; 0 where none runs."""
        return self._process.rss or 0

    @property
    def fault(self) -> str:
        """Why the process cannot be replaced: what it should run is no longer there. Else empty."""
        return self._fault

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all processes so far, as far as the system tells; it never falls."""
        return self._process.cpu_seconds

    @property
    def load(self) -> tuple[int, int]:
        """Requests that wait, and that the process works on."""
        with self._changed:
            return len(self._new) + len(self._again), len(self._live)

    def start(self, deadline: Deadline = NO_DEADLINE) -> TextDescription:
        """Load the model; raises what loading raises."""
        self._process.start(deadline)
        told = self._process.call({"do": "describe"}, deadline=deadline)
        try:
            found = msgspec.convert(told, TextDescription)
        except msgspec.ValidationError:
            raise EngineCrashError(f"{self.name}: it sent no valid description") from None
        # The process that takes over reads the files again, and they may be others by then.
        self._process.amend(expected_digest=found.digest)
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name=f"interlock-{self.name}", daemon=True
                )
                self._thread.start()
        return found

    def submit(
        self,
        request: GenerateRequest,
        on_event: Callable[[Event], None],
        *,
        urgent: bool = False,
    ) -> Ticket:
        """Start a request; `on_event` gets its pieces, then its result or error, on a thread.

        An urgent one, such as a question for the health, waits for no slot. A prompt that does not
        fit is told by an event. Raises EngineUnavailableError before `start` and after `close`.
        """
        sampling = request.sampling
        if sampling.temperature and sampling.seed is None:
            # Known here, so that a process which takes over draws the same text.
            sampling = replace(sampling, seed=self._seeds.getrandbits(SEED_BITS))
            request = replace(request, sampling=sampling)
        with self._changed:
            if self._closed or self._thread is None:
                raise EngineUnavailableError(f"{self.name}: it does not run")
            self._numbers += 1
            ticket = Ticket(self._numbers, request, on_event, urgent)
            self._new.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request; it tells nothing any more. Does nothing once it ended."""
        with self._changed:
            for waiting in (self._new, self._again):
                if ticket in waiting:
                    waiting.remove(ticket)
                    return
            if self._live.pop(ticket.number, None) is not None:
                self._cancelled.append(ticket.number)
                self._changed.notify()

    def close(self) -> None:
        """End the process; what is under way fails."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._process.kill()
        if self._thread is not None:
            self._thread.join(10.0)
        self._process.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (
                    self._closed or self._live or self._new or self._again or self._stopping
                ):
                    # A cancelled request is of no interest to an idle process, but ends its work.
                    if self._cancelled:
                        break
                    self._changed.wait()
                if self._closed:
                    break
                call = self._call()
            try:
                if not self._process.alive:
                    self._process.start(Deadline.after(_RESTART))
                self._fault = ""
                told = self._process.call(call, deadline=Deadline.after(_ANSWER))
                self._deliver(told)
            except InterlockError as error:
                self._lost(error)
            self._end_overdue()
        with self._changed:
            left = [*self._live.values(), *self._new, *self._again]
            self._live.clear()
            self._new.clear()
            self._again.clear()
        for ticket in left:
            ticket.end(EngineUnavailableError(f"{self.name}: it was closed"))

    def _call(self) -> dict[str, Any]:
        """What is to be started and cancelled. What is asked again runs alone, the urgent aside."""
        starting = [ticket for ticket in (*self._again, *self._new) if ticket.urgent]
        self._again = [ticket for ticket in self._again if not ticket.urgent]
        self._new = [ticket for ticket in self._new if not ticket.urgent]
        running = [ticket for ticket in self._live.values() if not ticket.urgent]
        if self._again:
            if not running:
                starting.append(self._again.pop(0))
        elif not any(ticket.repeated for ticket in running):
            free = max(0, self.slots - len(running))
            starting += self._new[:free]
            del self._new[:free]
        for ticket in starting:
            self._live[ticket.number] = ticket
        cancelled, self._cancelled = self._cancelled, []
        return {
            "do": "go",
            "new": [[ticket.number, sent(ticket.request)] for ticket in starting],
            "cancel": cancelled,
            "wait": _WAIT,
        }

    def _deliver(self, told: Any) -> None:
        if not isinstance(told, list):
            raise EngineCrashError(f"{self.name}: it sent something that is no answer")
        for event in told:
            match event:
                case [int(number), str(text)]:
                    ticket = self._live.get(number)
                    if ticket is not None and not ticket.piece(text):
                        self._cancelled.append(number)
                        other = f"{self.name}: asked again, the text was another one"
                        self._end(number, EngineCrashError(other))
                case [int(number), dict() as outcome]:
                    self._stopping.pop(number, None)
                    [found] = received([outcome], 1)
                    self._end(number, found)
                case _:
                    raise EngineCrashError(f"{self.name}: it sent something that is no answer")

    def _end(self, number: int, outcome: GenerateResult | InterlockError) -> None:
        with self._changed:
            ticket = self._live.pop(number, None)
        if ticket is None:
            return
        if isinstance(outcome, GenerateResult) and outcome.text != ticket.told:
            outcome = EngineCrashError(f"{self.name}: the text is not what its pieces were")
        ticket.end(outcome)

    def _lost(self, error: InterlockError) -> None:
        """The process is gone, or cannot start: what it had is asked again once, alone."""
        if isinstance(error, BundleError):
            self._fault = f"{error.code}: {error.message}"
        self._process.kill()
        with self._changed:
            if self._closed:
                return
            self.replaced += 1
            had = list(self._live.values())
            self._live.clear()
            self._cancelled.clear()
            self._stopping.clear()
            alone = [ticket for ticket in had if ticket.repeated]
            again = [ticket for ticket in had if ticket not in alone]
            for ticket in again:
                ticket.start_again()
            self._again += again
        told: InterlockError = error
        if isinstance(error, DeadlineError):
            # It is the process that was late, not the request.
            told = EngineCrashError(f"{self.name}: killed, as it did not answer")
        elif not isinstance(error, EngineCrashError | MemoryLimitError):
            told = EngineUnavailableError(f"{self.name}: {error.message}")
        for ticket in alone:
            ticket.end(told)

    def _end_overdue(self) -> None:
        """Tell what is late. The process is killed where it has not stopped such a request by the
        time that a step may take: a request is only ended between two steps, of any request."""
        now = time.monotonic()
        with self._changed:
            late = [
                ticket
                for ticket in self._live.values()
                if ticket.request.deadline.at is not None
                and ticket.request.deadline.clock.monotonic() > ticket.request.deadline.at + _LATE
            ]
            waiting = [t for t in (*self._new, *self._again) if t.request.deadline.expired]
            for ticket in waiting:
                (self._new if ticket in self._new else self._again).remove(ticket)
            for ticket in late:
                del self._live[ticket.number]
                self._cancelled.append(ticket.number)
                self._stopping[ticket.number] = now + (self._step_seconds or 0.0)
        for ticket in (*late, *waiting):
            ticket.end(DeadlineError(f"{self.name}: no answer by the deadline"))
        if any(now > until for until in self._stopping.values()):
            self._lost(EngineCrashError(f"{self.name}: killed, as its model could not be stopped"))


def serve(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Runs in the process: loads the model, starts and cancels texts, tells what is new."""
    from interlock.engines.generate.generator import Generator
    from interlock.engines.generate.model import load_text_model

    signature = options["require_signature"]
    model = load_text_model(
        options["source"] if options["named"] else Path(options["source"]),
        providers=tuple(options["providers"]),
        expected_digest=options["expected_digest"],
        require_signature=None if signature is None else Path(signature),
        # This process is the one that a hostile graph may have.
        probe=False,
    )
    generator = Generator(
        model,
        slots=options["slots"],
        workers=options["workers"],
        memory_limit=options["cache_limit"],
        step_seconds=options["step_seconds"],
    )
    events: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    running: dict[int, Any] = {}

    def start(number: int, fields: dict[str, Any]) -> None:
        def told(piece: str) -> None:
            events.put([number, piece])

        def ended(outcome: GenerateResult | InterlockError) -> None:
            events.put([number, plain(outcome)])

        try:
            running[number] = generator.submit(request_of(fields), on_text=told, on_end=ended)
        except InterlockError as error:
            events.put([number, plain(error)])

    def answer(payload: Any) -> Any:
        if payload["do"] == "describe":
            return msgspec.to_builtins(
                TextDescription(
                    name=model.name,
                    digest=model.digest,
                    family=model.spec.family,
                    weights=model.spec.weights,
                    context=model.context,
                    vocabulary=model.spec.vocabulary,
                    chat=model.template is not None,
                )
            )
        for number in payload["cancel"]:
            handle = running.pop(number, None)
            if handle is not None:
                handle.cancel()
        for number, fields in payload["new"]:
            start(number, fields)
        found: list[list[Any]] = []
        try:
            found.append(events.get(timeout=payload["wait"]))
            while len(found) < _MOST and not _large(found[-1]):
                found.append(events.get_nowait())
        except queue.Empty:
            pass
        for number, told in found:
            if isinstance(told, dict):
                running.pop(number, None)
        return found

    return answer


def _large(event: list[Any]) -> bool:
    """Whether it is worth an answer of its own: log probabilities may be many megabytes."""
    told = event[1]
    return isinstance(told, dict) and len(told.get("result", b"")) >= _LARGE
