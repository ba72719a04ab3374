"""The executor: lanes that hold no other back, samples that are given back, batches that fill."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted_chat import Scripted, ScriptedBatches, say

from interlock.engines.chat import ChatAnswer
from interlock.experiment.account import Account
from interlock.experiment.answers import Sample
from interlock.experiment.config import parse_config
from interlock.experiment.executor import ChatExecutor, Mailbox, deal, given_back
from interlock.experiment.lane_async import AsyncLane, LoopThread
from interlock.experiment.lane_batch import BatchLane, RunnerLane
from interlock.experiment.ledger import Ledger
from interlock.experiment.pacing import AccountLimits
from interlock.experiment.plan import Variant, request, sample_key, variants
from interlock.experiment.prompts import Prompt
from interlock.kernel.drive import drive
from interlock.kernel.errors import (
    ConnectionLostError,
    EngineCrashError,
    InterruptedRunError,
    ServiceError,
)
from interlock.kernel.executor import Executor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.limits import RetryPolicy
from interlock.kernel.outcome import Status
from interlock.kernel.task import Task

NO_WAIT = RetryPolicy(retries=3, first=0.0, longest=0.0)


def variant(name: str = "m", **model: Any) -> Variant:
    """A model at one temperature."""
    entry = {"name": name, "type": "one", "temperature": 0.0, **model}
    return variants(parse_config({"models": [entry]}))[0]


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    found = LoopThread()
    yield found
    found.close()


class World:
    """A journalled run of `count` prompts by the lanes that `make` gives for a mailbox."""

    def __init__(
        self, tmp_path: Path, chosen: list[Variant], make: Callable[[Mailbox], dict[str, Any]]
    ) -> None:
        self.by_label = {each.label: each for each in chosen}
        self.mailbox = Mailbox()
        self.notes: list[str] = []
        self.lanes = make(self.mailbox)
        self.executor = ChatExecutor(self.lanes, self.mailbox, on_note=self.notes.append)
        self.tmp_path = tmp_path
        self.begun: list[str] = []

    def sample(self, key: str) -> Sample:
        label, prompt_id, _ = key.split("|")
        found, prompt = self.by_label[label], Prompt(prompt_id, f"Question {prompt_id}?")
        return Sample(found, prompt, 0, request(found, prompt, 0, 1), 1, "r")

    def run(self, count: int, **options: Any) -> dict[str, Any]:
        executor: Executor = self.executor
        items = [
            Item(sample_key(each, f"p{n}", 0))
            for each in self.by_label.values()
            for n in range(count)
        ]
        with (
            Journal.open(self.tmp_path / "journal.db") as journal,
            journal.create_run("lanes", config={}, items=items, run_id="r") as run,
        ):
            sources = {label: run.pending(f"{label}|") for label in self.by_label}

            begun = self.begun

            class Log:
                run_id = "r"
                record, finish = run.record, run.finish

                def begin(self, keys: Any) -> None:
                    begun.extend(keys)
                    run.begin(keys)

                def pending(self) -> Iterator[str]:
                    return dealt

            dealt = deal(self.executor, sources)
            try:
                drive(Log(), self.sample, executor, max_crashes=1 << 40, **options)
            finally:
                self.executor.close()
            return dict(journal.outcomes("r"))


def lane(
    loop: LoopThread, provider: Any, chosen: Variant, mailbox: Mailbox, **limits: Any
) -> AsyncLane:
    """An asynchronous lane with an account of its own."""
    account = Account("a", AccountLimits(**limits))
    return AsyncLane(chosen, provider, account, loop, mailbox, retry=NO_WAIT)


def test_calls_run_side_by_side_up_to_the_declared_concurrency(
    tmp_path: Path, loop: LoopThread
) -> None:
    one, chosen = Scripted(seconds=0.005), variant()
    world = World(
        tmp_path, [chosen], lambda box: {chosen.label: lane(loop, one, chosen, box, concurrency=7)}
    )
    found = world.run(60)
    assert one.most == 7
    assert {outcome.status for outcome in found.values()} == {Status.ACCEPTED}


def test_a_lane_that_waits_holds_no_other_back(tmp_path: Path, loop: LoopThread) -> None:
    """The first model answers nothing until the second one has answered everything."""
    first, second = variant("first"), variant("second")
    slow, fast = Scripted(), Scripted()
    done = threading.Event()

    async def answer(request: Any, *, deadline: Any) -> ChatAnswer:
        while not done.is_set():
            await asyncio.sleep(0.001)
        return say(request)

    slow.answer = answer  # type: ignore[method-assign]
    world = World(
        tmp_path,
        [first, second],
        lambda box: {
            first.label: lane(loop, slow, first, box, concurrency=2),
            second.label: lane(loop, fast, second, box, concurrency=2),
        },
    )

    def seen(key: str, outcome: Any) -> None:
        if len(fast.asked) == 30:
            done.set()

    assert len(world.run(30, on_result=seen)) == 60


def test_retries_are_the_lanes_and_end_as_one_record(tmp_path: Path, loop: LoopThread) -> None:
    chosen = variant()
    one = Scripted(lambda r, n: ServiceError("503") if n < 3 else say(r))
    world = World(tmp_path, [chosen], lambda box: {chosen.label: lane(loop, one, chosen, box)})
    found = world.run(5)
    assert set(one.asked.values()) == {3}
    assert [outcome.steps[0].attempts for outcome in found.values()] == [3] * 5
    assert world.notes.count("Retry 1/3 after 0s: Service error") == 5


def test_a_call_that_outlives_its_deadline_ends(tmp_path: Path, loop: LoopThread) -> None:
    """A provider that forgets its deadline is ended from outside."""
    chosen = variant(timeout=0.01)
    one = Scripted(seconds=1000)
    account = Account("a", AccountLimits())
    world = World(
        tmp_path,
        [chosen],
        lambda box: {
            chosen.label: AsyncLane(
                chosen, one, account, loop, box, retry=NO_WAIT, retry_timeouts=False
            )
        },
    )
    (found,) = world.run(1).values()
    assert (found.status, found.steps[0].reason) == (Status.FAILED, "deadline")


def test_what_was_under_way_when_a_run_stops_stays_pending(
    tmp_path: Path, loop: LoopThread
) -> None:
    chosen, stop = variant(), threading.Event()
    one = Scripted(seconds=1000)

    async def answer(request: Any, *, deadline: Any) -> ChatAnswer:
        one.asked[request.key] += 1
        stop.set()
        await asyncio.sleep(1000)
        raise AssertionError

    one.answer = answer  # type: ignore[method-assign]
    world = World(
        tmp_path, [chosen], lambda box: {chosen.label: lane(loop, one, chosen, box, concurrency=3)}
    )
    with pytest.raises(InterruptedRunError):
        world.run(5, stop=stop, grace=0.05)
    with Journal.open(tmp_path / "journal.db") as journal:
        info = journal.info("r")
    assert (info.pending, info.counts[Status.FAILED]) == (5, 0)
    assert info.open_attempts == 3


def test_a_stop_gives_back_what_waits_for_its_turn_or_a_retry_at_once(
    tmp_path: Path, loop: LoopThread
) -> None:
    """One call is on the wire and ends; one waits an hour for its retry, and others for a turn."""
    chosen, stop = variant(), threading.Event()
    on_wire = threading.Event()

    async def answer(request: Any, *, deadline: Any) -> ChatAnswer:
        if "p0?" in request.messages[0].content:
            while not on_wire.is_set():
                await asyncio.sleep(0.001)
            raise ServiceError("503", wait_seconds=3600.0)
        on_wire.set()
        while not stop.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        return say(request)

    one = Scripted()
    one.answer = answer  # type: ignore[method-assign]
    # Two pass at once, the third would wait for a minute.
    account = Account("a", AccountLimits(requests=2, burst=2, concurrency=4))
    world = World(
        tmp_path,
        [chosen],
        lambda box: {
            chosen.label: AsyncLane(
                chosen, one, account, loop, box, retry=RetryPolicy(retries=3, longest=3600.0)
            )
        },
    )

    def stop_when_both_are_there() -> None:
        on_wire.wait(60)
        while not world.notes:
            threading.Event().wait(0.001)
        stop.set()

    threading.Thread(target=stop_when_both_are_there, daemon=True).start()
    with pytest.raises(InterruptedRunError):
        world.run(5, stop=stop, grace=600.0)
    with Journal.open(tmp_path / "journal.db") as journal:
        info = journal.info("r")
        outcomes = dict(journal.outcomes("r"))
    assert list(outcomes) == ["m_temp0.0|p1|0"]
    assert info.pending == 4
    # One was on the wire before it waited for its retry; the others never were.
    assert "m_temp0.0|p0|0" not in world.executor.unsent
    assert world.executor.unsent == set(world.begun) - {"m_temp0.0|p0|0", "m_temp0.0|p1|0"}


def test_batches_fill_and_each_sample_has_its_own_record(tmp_path: Path) -> None:
    chosen = variant()
    batches = ScriptedBatches(
        lambda r, n: (
            EngineCrashError("died") if n == 1 and "p3?" in r.messages[0].content else say(r)
        )
    )
    world = World(
        tmp_path,
        [chosen],
        lambda box: {chosen.label: BatchLane(chosen, batches, box, batch_size=8, retries=1)},
    )
    found = world.run(40)
    assert {outcome.status for outcome in found.values()} == {Status.ACCEPTED}
    assert max(batches.sizes) == 8
    assert found["m_temp0.0|p3|0"].steps[0].attempts == 2
    assert sum(batches.asked.values()) == 41


def test_a_batch_provider_that_raises_fails_its_batch_alone(tmp_path: Path) -> None:
    chosen = variant()
    batches = ScriptedBatches(lambda r, n: RuntimeError("prompt text"))
    world = World(
        tmp_path,
        [chosen],
        lambda box: {chosen.label: BatchLane(chosen, batches, box, batch_size=4)},
    )
    found = world.run(6)
    assert {outcome.status for outcome in found.values()} == {Status.FAILED}
    assert "prompt text" not in str(found)


def test_a_runner_that_raises_fails_its_sample(tmp_path: Path) -> None:
    chosen = variant()

    def ask(sample: Sample) -> Any:
        raise KeyError("prompt text")

    world = World(tmp_path, [chosen], lambda box: {chosen.label: RunnerLane(ask, box, workers=3)})
    found = world.run(6)
    assert {outcome.steps[0].reason for outcome in found.values()} == {"raised KeyError"}


def test_a_lost_connection_lowers_the_level(tmp_path: Path, loop: LoopThread) -> None:
    chosen = variant()
    account = Account("a", AccountLimits(concurrency=16))
    one = Scripted(lambda r, n: ConnectionLostError("cut") if n == 1 else say(r))
    AsyncLane(chosen, one, account, loop, Mailbox(), retry=NO_WAIT)
    assert account.room(0) == 16
    account.failed(ConnectionLostError("cut"), account.clock.monotonic())
    assert account.room(0) == 8


def test_the_ledger_holds_whatever_the_answers_cost() -> None:
    ledger = Ledger(1.0)
    assert ledger.room(0.3) == 3
    assert all(ledger.reserve(0.3) for _ in range(3))
    assert not ledger.reserve(0.3)
    ledger.release(0.3, spent=0.05)
    ledger.release(0.3, uncertain=0.3)
    assert ledger.room(0.3) == 1
    ledger.release(0.3, spent=0.3)
    read = ledger.read()
    assert read.spent == pytest.approx(0.35)
    assert read.uncertain == pytest.approx(0.3)
    assert read.at_stake == pytest.approx(0.0, abs=1e-9)
    assert Ledger().room(1e9) == float("inf")


class Purse:
    """A lane with room for so many samples, which hands back what it is given without room."""

    def __init__(self, mailbox: Mailbox, free: int) -> None:
        self.mailbox = mailbox
        self.free = free
        self.given: list[str] = []

    def room(self, promised: int) -> int:
        return max(0, self.free - promised)

    def submit(self, task: Task) -> None:
        self.given.append(task.keys[0])
        if not self.free:
            self.mailbox.done(given_back(task, sent=False))

    def give_back(self) -> None:
        pass

    cancel = close = give_back


def test_what_came_back_waits_for_room_and_takes_no_other_lanes_turn(tmp_path: Path) -> None:
    chosen = [variant("poor"), variant("rich")]
    starved: list[set[str]] = []
    world = World(tmp_path, chosen, lambda mailbox: {})
    poor, rich = Purse(world.mailbox, 1), Purse(world.mailbox, 3)
    labels = [each.label for each in chosen]
    executor = ChatExecutor(
        dict(zip(labels, (poor, rich), strict=True)),
        world.mailbox,
        on_starved=lambda: starved.append(executor.starved()),
    )
    key = sample_key(chosen[0], "p0", 0)
    task = Task(0, (key,), (world.sample(key),))
    executor.promise(labels[0])
    poor.free = 0
    executor.submit(task)
    (back,) = executor.completed(5.0)
    assert back.lost is not None
    # The driver sends it again at once; it must not go to and fro while the other lane waits.
    executor.submit(task)
    assert poor.given == [key]
    assert executor.capacity == 1 + rich.free
    assert starved == []
    rich.free = 0
    assert executor.capacity == 1
    assert starved == [set(labels)]
    poor.free = 1
    assert executor.capacity == 2
    assert poor.given == [key, key]


def test_a_sample_that_waits_for_room_is_given_back_when_the_run_stops(tmp_path: Path) -> None:
    chosen = [variant("poor")]
    world = World(tmp_path, chosen, lambda mailbox: {})
    poor = Purse(world.mailbox, 0)
    executor = ChatExecutor({chosen[0].label: poor}, world.mailbox)
    key = sample_key(chosen[0], "p0", 0)
    task = Task(0, (key,), (world.sample(key),))
    executor.promise(chosen[0].label)
    executor.submit(task)
    executor.completed(5.0)
    executor.submit(task)
    executor.give_back()
    (back,) = executor.completed(5.0)
    assert back.lost is not None
    assert executor.unsent == {key}
