"""Which version a request meets, what a shadow costs, and when a version may end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from serve.test_lane import Doubling

from interlock.errors import EngineCrashError
from interlock.kernel.batch import BatchOutcome
from interlock.kernel.clock import NO_DEADLINE
from interlock.kernel.outcome import Outcome, Status
from interlock.serve.health import Canary
from interlock.serve.lane import Lane
from interlock.serve.rollout.settings import Mode
from interlock.serve.rollout.sticky import new_salt
from interlock.serve.rollout.traffic import Pick, Traffic, Watch, same, verdicts
from interlock.serve.served import Answer
from interlock.serve.settings import ModelSettings
from interlock.serve.version import Version


class Tripling(Doubling):
    """Another version: three times x."""

    version = "sha256:1"

    def answer_batch(self, inputs: Any, *, deadline: Any) -> Any:
        self.open.wait(30)
        if 13 in inputs["x"]:
            raise EngineCrashError("the process died")
        return type(super().answer_batch({"x": inputs["x"]}, deadline=deadline))(3 * inputs["x"])


def version(served: Doubling) -> Version:
    lane = Lane(served, threads=1, limit=10, batch_rows=8)
    canary = Canary(served, degraded_ms=50, seconds=1)
    return Version(ModelSettings(path="x"), served, lane, canary)


@contextmanager
def traffic(mode: Mode, percent: float = 50, pending: int = 2) -> Iterator[Traffic]:
    stable, candidate = version(Doubling()), version(Tripling())
    watch = Watch("r", mode, 0.05, pending)
    yield Traffic(stable, candidate, percent, new_salt(), watch)
    for one in (stable, candidate):
        one.served.open.set()  # type: ignore[attr-defined]
        one.lane.close(1)


def ask(pick: Pick, *values: float) -> Any:
    x = np.array(values, dtype=np.float64)
    return pick.ask({"x": x}, len(x), NO_DEADLINE)


def picked(found: Traffic, client: str = "") -> Pick:
    pick = found.pick(client, None)
    assert pick is not None
    return pick


def test_a_canary_answers_its_clients_and_both_are_noted() -> None:
    async def main(found: Traffic) -> None:
        for k in range(40):
            pick = picked(found, f"client {k}")
            answer = await ask(pick, 1.0)
            assert answer.outputs["x"].tolist() == [3.0 if pick.candidate else 2.0]
            assert pick.candidate == found.takes(f"client {k}")
            pick.leave()

    with traffic("canary") as found:
        asyncio.run(main(found))
        watch = found.watch
        assert watch is not None
        assert len(watch.seen) == 40 == sum(watch.asked.values())
        assert {seen.candidate for seen in watch.seen} == {True, False}
        assert not any(seen.error for seen in watch.seen)


def test_an_error_of_the_candidate_is_noted_as_its_own() -> None:
    async def main(found: Traffic) -> None:
        client = next(str(k) for k in range(100) if found.takes(str(k)))
        answer = await ask(picked(found, client), 13.0)
        assert answer.lost

    with traffic("canary") as found:
        asyncio.run(main(found))
        assert found.watch is not None
        assert [(seen.candidate, seen.error) for seen in found.watch.seen] == [(True, True)]


def test_a_shadow_is_asked_beside_and_its_answer_compared() -> None:
    async def main(found: Traffic) -> None:
        pick = picked(found)
        answer = await ask(pick, 1.0)
        assert answer.outputs["x"].tolist() == [2.0]
        assert pick.shadow is not None
        assert (await pick.shadow).outputs["x"].tolist() == [3.0]

    with traffic("shadow") as found:
        asyncio.run(main(found))
        watch = found.watch
        assert watch is not None
        assert watch.shadow == {"compared": 1, "same": 0, "dropped": 0, "failed": 0}
        assert [seen.candidate for seen in watch.seen] == [False, True]


def test_a_shadow_that_hangs_holds_up_nobody_and_is_left_out_above_its_limit() -> None:
    async def main(found: Traffic) -> None:
        assert found.candidate is not None
        found.candidate.served.open.clear()  # type: ignore[attr-defined]
        for _ in range(6):
            answer = await ask(picked(found), 1.0)
            assert answer.outputs["x"].tolist() == [2.0]
        found.candidate.served.open.set()  # type: ignore[attr-defined]
        assert found.watch is not None
        await asyncio.gather(*found.watch.tasks)

    with traffic("shadow") as found:
        asyncio.run(main(found))
        assert found.watch is not None
        assert found.watch.shadow["dropped"] >= 4
        assert found.watch.shadow["compared"] <= 2


def test_a_shadow_that_fails_is_counted_and_the_client_gets_its_answer() -> None:
    async def main(found: Traffic) -> None:
        assert found.candidate is not None
        found.candidate.lane.close(0)
        assert (await ask(picked(found), 1.0)).outputs["x"].tolist() == [2.0]
        assert found.watch is not None
        await asyncio.gather(*found.watch.tasks)

    with traffic("shadow") as found:
        asyncio.run(main(found))
        assert found.watch is not None
        assert found.watch.shadow["failed"] == 1
        assert [seen.error for seen in found.watch.seen] == [False, True]


def test_a_version_named_by_its_digest_answers_uncounted() -> None:
    with traffic("canary", percent=0.01) as found:
        for digest, candidate in (("sha256:0", False), ("sha256:1", True)):
            pick = found.pick("", digest)
            assert pick is not None
            assert (pick.version.digest, pick.candidate, pick.watch) == (digest, candidate, None)


def test_a_version_ends_when_the_last_request_has_left_it() -> None:
    one = version(Doubling())
    found = Traffic(one)
    pick = picked(found)
    ended = threading.Event()

    def retire() -> None:
        one.retire(30)
        ended.set()

    thread = threading.Thread(target=retire)
    thread.start()
    while found.pick("", None) is not None:  # entered before the thread got there
        one.leave()
    assert not ended.is_set()
    assert asyncio.run(ask(pick, 4.0)).outputs["x"].tolist() == [8.0]
    pick.leave()
    thread.join(30)
    assert ended.is_set()


def answer(*status: int, **outputs: Any) -> Answer:
    served = Doubling()
    found = served.infer({"x": np.array([0.0] * len(status))}, deadline=NO_DEADLINE)
    assert isinstance(found.outcome, BatchOutcome)
    found.outcome.status[:] = status
    return Answer(found.outcome, {name: np.array(value) for name, value in outputs.items()})


def test_verdicts_by_status_or_by_an_output() -> None:
    failed, refused, flagged, accepted = range(4)
    every = answer(failed, refused, flagged, accepted, y=[1, 1, 0.2, 0.9], z=["true"] * 4)
    assert verdicts(every, None) == bytes([2, 1, 1, 0])
    assert verdicts(every, "y") == bytes([2, 2, 0, 1])
    assert verdicts(every, "z") == bytes([2, 2, 1, 1])
    assert verdicts(every, "gone") == bytes([2, 2, 2, 2])
    single = Answer(Outcome(status=Status.FLAGGED, steps=(), value=1), {"y": np.array([[0.1]])})
    assert verdicts(single, None) == bytes([1])
    assert verdicts(single, "y") == bytes([0])


@pytest.mark.parametrize(
    ("other", "agrees"),
    [
        (answer(3, 3, y=[1.0, 2.0005]), True),
        (answer(3, 3, y=[1.0, 2.1]), False),
        (answer(3, 2, y=[1.0, 2.0]), False),
        (answer(3, 3, z=[1.0, 2.0]), False),
        (answer(3, y=[1.0]), False),
    ],
)
def test_two_answers_agree_by_status_and_value(other: Answer, agrees: bool) -> None:
    assert same(answer(3, 3, y=[1.0, 2.0]), other) == agrees


@pytest.mark.parametrize(
    ("rows", "noted"),
    [
        (2, {"compared": 1, "same": 0, "dropped": 0, "failed": 0}),
        (200_000, {"compared": 0, "same": 0, "dropped": 0, "failed": 0}),
    ],
)
def test_what_is_too_large_to_compare_is_not_said_to_be_the_same(
    rows: int, noted: dict[str, int]
) -> None:
    async def main(found: Traffic) -> None:
        assert found.watch is not None
        await ask(picked(found, "a"), *([1.0] * rows))
        await asyncio.gather(*found.watch.tasks)
        assert found.watch.shadow == noted
        assert found.watch.asked["candidate"] == 1

    with traffic("shadow") as found:
        asyncio.run(main(found))


class Raising(Tripling):
    """A version with a fault of its own, which no error of ours stands for."""

    def infer(self, inputs: Any, *, deadline: Any) -> Answer:
        raise ValueError("a bug")


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_fault_that_is_no_error_of_ours_counts_as_one(mode: Mode) -> None:
    async def main(found: Traffic) -> None:
        client = next(str(k) for k in range(1000) if mode == "shadow" or found.takes(str(k)))
        pick = picked(found, client)
        if mode == "canary":
            with pytest.raises(ValueError, match="a bug"):
                await ask(pick, 1.0)
        else:
            assert (await ask(pick, 1.0)).outputs["x"].tolist() == [2.0]
        assert found.watch is not None
        await asyncio.gather(*found.watch.tasks)

    stable, candidate = version(Doubling()), version(Raising())
    watch = Watch("r", mode, 0.05, 2)
    found = Traffic(stable, candidate, 50, new_salt(), watch)
    try:
        asyncio.run(main(found))
    finally:
        for one in (stable, candidate):
            one.lane.close(1)
    assert [seen.error for seen in watch.seen if seen.candidate] == [True]


def test_whoever_waits_for_a_place_in_the_queue_counts_once_and_as_no_error() -> None:
    async def main(found: Traffic) -> None:
        assert found.candidate is not None
        gate = found.candidate.served.open  # type: ignore[attr-defined]
        client = next(str(k) for k in range(1000) if found.takes(str(k)))
        gate.clear()
        asked = [asyncio.ensure_future(ask(picked(found, client), 1.0))]
        while not found.candidate.lane.running:
            await asyncio.sleep(0.001)
        asked += [asyncio.ensure_future(ask(picked(found, client), 1.0)) for _ in range(10)]
        while found.candidate.lane.waiting < 10:
            await asyncio.sleep(0.001)
        x = {"x": np.array([1.0])}
        patient = asyncio.ensure_future(picked(found, client).ask(x, 1, NO_DEADLINE, patience=30.0))
        await asyncio.sleep(0.3)
        assert not patient.done()
        gate.set()
        await asyncio.gather(*asked, patient)

    with traffic("canary") as found:
        asyncio.run(main(found))
        assert found.watch is not None
        assert [seen.error for seen in found.watch.seen] == [False] * 12
        assert found.watch.asked == {"candidate": 12, "stable": 0}


def test_a_client_that_leaves_a_stream_after_too_long_a_wait_is_a_slow_answer() -> None:
    with traffic("canary") as found:
        assert found.watch is not None
        client = next(str(k) for k in range(1000) if found.takes(str(k)))
        pick = picked(found, client)
        pick.left(found.watch.limit_seconds / 2)
        assert not found.watch.seen
        pick.left(found.watch.limit_seconds * 2)
        assert [(seen.candidate, seen.error) for seen in found.watch.seen] == [(True, False)]


class HalfRefusing(Doubling):
    """Refuses what is negative, and fails on what is 13 beside others."""

    def infer(self, inputs: Any, *, deadline: Any) -> Answer:
        found = super().infer(inputs, deadline=deadline)
        assert isinstance(found.outcome, BatchOutcome)
        found.outcome.status[inputs["x"] < 0] = 1
        found.outcome.status[inputs["x"] > 100] = 0
        return found


def test_of_a_batch_the_share_of_its_rows_is_noted() -> None:
    """One refused row of four is no answer that is refused, nor are four of them one more."""
    stable = version(HalfRefusing())
    watch = Watch("r", "canary", 0.05, 2)
    found = Traffic(stable, stable, 50, new_salt(), watch)
    try:
        for values in ((1, 2, 3, -4), (-1, -2, -3, -4), (1, 2, 3, 200)):
            asyncio.run(ask(picked(found), *values))
    finally:
        stable.lane.close(1)
    assert [(seen.error, seen.refused) for seen in watch.seen] == [(0, 0.25), (0, 1), (0.25, 0)]
