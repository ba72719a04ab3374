"""A process that streams: the engine's own texts, whatever becomes of the process meanwhile."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.text_models import spoiled_directory, tiny_bundle, tiny_directory

from interlock.engines.chat import Message, Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator, open_text_model
from interlock.engines.generate.stream_process import Event, StreamProcess, Ticket
from interlock.errors import (
    BundleIntegrityError,
    DeadlineError,
    EngineCrashError,
    EngineError,
    EngineUnavailableError,
    InputError,
    InterlockError,
)
from interlock.kernel.clock import Deadline


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_directory(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def process(bundle: Path) -> Iterator[StreamProcess]:
    with_process = StreamProcess(bundle, slots=3)
    with_process.start()
    yield with_process
    with_process.close()


def request(number: int, tokens: int = 40, **changes: object) -> GenerateRequest:
    """A request with a prompt of its own."""
    return GenerateRequest(
        prompt_tokens=(30 + number, 31, 40 + number, 50 + number),
        sampling=Sampling(max_tokens=tokens, temperature=0.9, seed=number),
        **changes,  # type: ignore[arg-type]
    )


class Told:
    """What a ticket was told."""

    def __init__(
        self, process: StreamProcess, asked: GenerateRequest, *, urgent: bool = False
    ) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.pieces: list[str] = []
        self.ticket: Ticket = process.submit(asked, self.events.put, urgent=urgent)

    def piece(self) -> str:
        found = self.events.get(timeout=60)
        assert isinstance(found, str), found
        self.pieces.append(found)
        return found

    def end(self) -> GenerateResult | InterlockError:
        while isinstance(found := self.events.get(timeout=60), str):
            self.pieces.append(found)
        return found

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@contextmanager
def standing_still(process: StreamProcess) -> Iterator[None]:
    """A fast machine would write the texts to their ends before anything is asked of them."""
    [pid] = process.pids
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def until(condition: Callable[[], bool]) -> None:
    """Wait; the time only ends a hang of the test."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def expected(requests: list[GenerateRequest]) -> list[str]:
    """The texts of this process's own engine."""
    with Generator(open_text_model(tiny_bundle())) as generator:
        found = generator.generate(requests)
    assert all(isinstance(each, GenerateResult) for each in found)
    return [each.text for each in found if isinstance(each, GenerateResult)]


def test_many_at_once_get_the_texts_that_they_get_alone(process: StreamProcess) -> None:
    requests = [request(n) for n in range(7)]
    told = [Told(process, each) for each in requests]
    ends = [each.end() for each in told]
    assert [each.text for each in told] == expected(requests)
    assert [e.text for e in ends if isinstance(e, GenerateResult)] == expected(requests)


def test_messages_and_plain_texts_cross(process: StreamProcess) -> None:
    sampling = Sampling(max_tokens=5)
    requests = [
        GenerateRequest(messages=(Message("user", "the thing"),), sampling=sampling),
        GenerateRequest(text="the thing", sampling=sampling),
    ]
    told = [Told(process, each) for each in requests]
    assert [each.end() and each.text for each in told] == expected(requests)


def test_text_with_a_lone_surrogate_is_read_as_in_this_process(process: StreamProcess) -> None:
    """It has no UTF-8 to cross in, and must not cost the others their process."""
    sampling = Sampling(max_tokens=5, stop=("\ud800",))
    requests = [
        request(1),
        GenerateRequest(text="the \ud800 thing", sampling=sampling),
        GenerateRequest(messages=(Message("user", "\udfff"),), sampling=sampling),
    ]
    replaced = process.replaced
    told = [Told(process, each) for each in requests]
    assert [each.end() and each.text for each in told] == expected(requests)
    assert process.replaced == replaced


def test_a_prompt_that_does_not_fit_is_the_callers_mistake(process: StreamProcess) -> None:
    found = Told(process, GenerateRequest(prompt_tokens=(5,) * 600)).end()
    assert isinstance(found, InputError)
    assert "context is 512" in found.message


def test_a_cancelled_text_makes_room_and_tells_nothing_more(process: StreamProcess) -> None:
    with standing_still(process):
        held = [Told(process, request(n, 400)) for n in range(3)]
        waiting = Told(process, request(9, 2))
        until(lambda: process.load == (1, 3))
        for each in held:
            process.cancel(each.ticket)
    assert isinstance(waiting.end(), GenerateResult)
    for each in held:
        while not each.events.empty():
            assert isinstance(each.events.get(), str)


def test_an_urgent_text_waits_for_no_slot(process: StreamProcess) -> None:
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    def submit(name: str, asked: GenerateRequest, *, urgent: bool = False) -> None:
        def heard(event: Event) -> None:
            if not isinstance(event, str):
                assert isinstance(event, GenerateResult)
                ended.put(name)

        process.submit(asked, heard, urgent=urgent)

    for number in range(3):
        submit("long", request(number, 400))
    submit("waiting", request(7, 1))
    submit("urgent", request(8, 1), urgent=True)
    assert ended.get(timeout=60) == "urgent"
    assert sorted(ended.get(timeout=60) for _ in range(4)) == [*["long"] * 3, "waiting"]


def test_a_deadline_also_ends_what_waits(process: StreamProcess) -> None:
    with standing_still(process):
        held = [Told(process, request(n, 500)) for n in range(3)]
        due = Deadline.after(0.05)
        late = Told(process, request(7, 5, deadline=due))
        until(lambda: due.expired)
    assert isinstance(late.end(), DeadlineError)
    for each in held:
        process.cancel(each.ticket)


def test_streams_go_on_where_they_were_when_the_process_is_killed(bundle: Path) -> None:
    requests = [request(n, 400) for n in range(3)]
    process = StreamProcess(bundle, slots=3)
    process.start()
    try:
        told = [Told(process, each) for each in requests]
        for each in told:
            each.piece()
        [pid] = process.pids
        os.kill(pid, signal.SIGKILL)
        ends = [each.end() for each in told]
        assert all(isinstance(end, GenerateResult) for end in ends), ends
        # Not a piece twice, and none missing.
        assert [each.text for each in told] == expected(requests)
        assert process.replaced == 1
        assert process.pids != (pid,)
    finally:
        process.close()


def test_a_draw_without_a_seed_survives_a_kill_too(bundle: Path) -> None:
    process = StreamProcess(bundle, slots=1)
    process.start()
    try:
        asked = GenerateRequest(text="the", sampling=Sampling(max_tokens=400, temperature=1.0))
        told = Told(process, asked)
        told.piece()
        os.kill(process.pids[0], signal.SIGKILL)
        found = told.end()
        assert isinstance(found, GenerateResult)
        assert found.text == told.text
        assert found.seed is not None
    finally:
        process.close()


@pytest.mark.parametrize("kind", ["fail", "nan"])
def test_a_request_that_the_model_fails_on_costs_itself(tmp_path: Path, kind: str) -> None:
    bundle = spoiled_directory(tmp_path / "bundle", kind, 99)
    process = StreamProcess(bundle, slots=3)
    process.start()
    try:
        sound = [request(n, 10) for n in range(2)]
        told = [Told(process, each) for each in sound]
        bad = Told(process, GenerateRequest(prompt_tokens=(99, 5), sampling=Sampling(max_tokens=4)))
        assert isinstance(bad.end(), EngineError)
        assert all(isinstance(each.end(), GenerateResult) for each in told)
        assert process.replaced == 0
    finally:
        process.close()


def test_text_that_differs_when_asked_again_is_no_answer() -> None:
    events: list[Event] = []
    ticket = Ticket(1, request(0), events.append, urgent=False)
    assert ticket.piece("one ")
    assert ticket.piece("two")
    ticket.start_again()
    assert ticket.piece("one t")
    assert ticket.piece("wo three")
    assert events == ["one ", "two", " three"]
    ticket.start_again()
    assert not ticket.piece("another")


def test_a_process_that_was_closed_says_so(bundle: Path) -> None:
    process = StreamProcess(bundle, slots=1)
    with pytest.raises(EngineUnavailableError):
        process.submit(request(0), lambda event: None)
    process.start()
    with standing_still(process):
        told = Told(process, request(0, 500))
        process.close()
    assert isinstance(told.end(), EngineUnavailableError | EngineCrashError)
    with pytest.raises(EngineUnavailableError):
        process.submit(request(0), lambda event: None)


def test_a_tampered_bundle_never_starts(tmp_path: Path) -> None:
    bundle = tiny_directory(tmp_path / "tiny")
    with (bundle / "model.onnx").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    process = StreamProcess(bundle)
    with pytest.raises(BundleIntegrityError):
        process.start()
    process.close()


def test_an_urgent_text_does_not_wait_for_what_is_asked_again(tmp_path: Path) -> None:
    # Else a model that answers would count as ill while a long text is written once more.
    process = StreamProcess(tiny_directory(tmp_path / "tiny", max_position_embeddings=8192))
    process.start()
    try:
        sampling = Sampling(max_tokens=8000, repetition_penalty=0.01)
        long = Told(process, GenerateRequest(prompt_tokens=(30, 31, 40), sampling=sampling))
        long.piece()
        [pid] = process.pids
        os.kill(pid, signal.SIGKILL)
        until(lambda: process.replaced == 1)
        urgent = Told(process, request(1, 2), urgent=True)
        assert isinstance(urgent.end(), GenerateResult)
        process.cancel(long.ticket)
        while not long.events.empty():
            assert isinstance(long.events.get(), str), "it had ended before"
    finally:
        process.close()


def test_a_deadline_within_another_requests_step_costs_no_process(tmp_path: Path) -> None:
    # A large model reads a piece of a prompt for longer than 5 s, in which no request is ended.
    step = StreamProcess(spoiled_directory(tmp_path / "hang", "hang", 77), step_seconds=8.0)
    step.start()
    try:
        slow = Told(step, GenerateRequest(prompt_tokens=(77,)))
        late = Told(step, request(1, deadline=Deadline.after(0.2)))
        assert isinstance(late.end(), DeadlineError)
        assert isinstance(slow.end(), DeadlineError)
        assert isinstance(Told(step, request(2)).end(), GenerateResult)
        assert step.replaced == 0
    finally:
        step.close()


def test_a_step_that_nothing_stops_costs_the_process(tmp_path: Path) -> None:
    process = StreamProcess(spoiled_directory(tmp_path / "hang", "hang", 77), step_seconds=None)
    process.start()
    try:
        endless = Told(process, GenerateRequest(prompt_tokens=(77,)))
        # One that is late before it reached the process stops nothing, and one that comes when
        # the process is being replaced may be answered.
        ends: list[object] = []
        end = time.monotonic() + 60
        while process.replaced == 0 and time.monotonic() < end:
            ends.append(Told(process, request(1, deadline=Deadline.after(0.5))).end())
        assert process.replaced
        assert any(isinstance(each, DeadlineError) for each in ends)
        process.cancel(endless.ticket)
    finally:
        process.close()


def test_an_answer_with_many_log_probabilities_costs_no_process(tmp_path: Path) -> None:
    asked = GenerateRequest(
        prompt_tokens=(30, 31, 40),
        # What was written is the likeliest to come again, so that the text has no end of its own.
        sampling=Sampling(
            max_tokens=4000, repetition_penalty=0.01, logprobs=100, logprob_tokens=None
        ),
    )
    process = StreamProcess(tiny_directory(tmp_path / "tiny", max_position_embeddings=8192))
    process.start()
    try:
        found = Told(process, asked).end()
        assert isinstance(found, GenerateResult), found
        assert found.logprobs is not None
        assert [len(each.top) for each in found.logprobs] == [100] * 4000
        assert process.replaced == 0
    finally:
        process.close()
