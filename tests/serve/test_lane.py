"""The queue of a model: bounded and merged; late ones are dropped, a poisoned batch split up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from interlock.bundle import TensorSpec
from interlock.errors import DeadlineError, EngineCrashError, ServiceError
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.route import BatchAnswer, BatchVerdict, Route, RouteStep
from interlock.serve.lane import Lane, Ran
from interlock.serve.served import Answer, Workers


class Doubling:
    """Served in this process: twice x, a crash where a row holds 13; held up while not `open`."""

    name, version, platform = "doubling", "sha256:0", "test"
    inputs = outputs = (TensorSpec("x", "float64", ("n",)),)
    diagnostics: frozenset[str] = frozenset()
    by_rows = mergeable = True

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked: list[list[float]] = []
        self._route: Route[Any, Any] = Route("doubling", (RouteStep("twice", self),), "refuse")

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        self.open.wait(30)
        self.asked.append(inputs["x"].tolist())
        if 13 in inputs["x"]:
            raise EngineCrashError("the process died")
        return BatchAnswer(2 * inputs["x"])

    def infer(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> Answer:
        outcome = self._route.run_batch(inputs, deadline=deadline)
        return Answer(outcome, {"x": outcome.value})

    def check(self, inputs: Mapping[str, Array]) -> int:
        return len(inputs["x"])

    def start(self, deadline: Deadline) -> None: ...
    def canary(self, *, deadline: Deadline) -> None: ...
    def close(self) -> None: ...
    def workers(self) -> Workers:
        return Workers()


def ask(lane: Lane, *values: float, deadline: Deadline = NO_DEADLINE) -> Any:
    x = np.array(values, dtype=np.float64)
    return lane.ask({"x": x}, len(x), deadline)


async def busy(lane: Lane) -> None:
    """Until the lane's one thread is at work."""
    while not lane.running:
        await asyncio.sleep(0.001)


def test_waiting_requests_are_answered_together_each_with_its_own_rows() -> None:
    served = Doubling()
    ran: list[Ran] = []

    async def main() -> list[Answer]:
        lane = Lane(served, threads=1, limit=10, batch_rows=8, on_run=ran.append)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 0.0))
        await busy(lane)
        rest = [asyncio.ensure_future(ask(lane, k, k + 0.5)) for k in (1.0, 2.0, 3.0)]
        while lane.waiting < 3:
            await asyncio.sleep(0.001)
        served.open.set()
        found = await asyncio.gather(first, *rest)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)
        return found

    found = asyncio.run(main())
    assert [a.outputs["x"].tolist() for a in found] == [[0], [2, 3], [4, 5], [6, 7]]
    assert served.asked == [[0], [1, 1.5, 2, 2.5, 3, 3.5]]
    assert [(r.rows, r.requests) for r in ran] == [(1, 1), (6, 3)]
    assert all(isinstance(r, Ran) and len(r.waits) == r.requests for r in ran)


def test_a_batch_is_no_larger_than_its_limit_and_of_one_shape() -> None:
    served = Doubling()

    async def main() -> None:
        lane = Lane(served, threads=1, limit=10, batch_rows=3)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 0.0))
        await busy(lane)
        other = lane.ask({"x": np.ones((1, 2))}, 1, NO_DEADLINE)
        rest = [
            asyncio.ensure_future(one)
            for one in (ask(lane, 1.0, 2.0), other, ask(lane, 3.0), ask(lane, 4.0))
        ]
        while lane.waiting < 4:
            await asyncio.sleep(0.001)
        served.open.set()
        await asyncio.gather(first, *rest)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)

    asyncio.run(main())
    assert served.asked == [[0], [1, 2, 3], [[1, 1]], [4]]


def test_one_request_that_crashes_the_model_costs_the_others_nothing() -> None:
    served = Doubling()

    async def main() -> list[Answer]:
        lane = Lane(served, threads=1, limit=10, batch_rows=8)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 0.0))
        await busy(lane)
        rest = [asyncio.ensure_future(ask(lane, k)) for k in (1.0, 13.0, 3.0)]
        while lane.waiting < 3:
            await asyncio.sleep(0.001)
        served.open.set()
        found = await asyncio.gather(first, *rest)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)
        return found

    found = asyncio.run(main())
    assert [answer.lost for answer in found] == [False, False, True, False]
    assert found[3].outputs["x"].tolist() == [6]
    assert found[2].summary.reasons[0].startswith("twice: engine_crash: ")


class Near:
    """Answers with x what is below 10, as its guard says."""

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        return BatchAnswer(1 * inputs["x"])

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        return BatchVerdict(refuse={"far": inputs["x"] >= 10})


def test_one_request_that_breaks_a_later_step_costs_the_others_nothing() -> None:
    served = Doubling()
    near = RouteStep("near", Near(), guards=(Near(),))
    served._route = Route("both", (near, RouteStep("twice", served)), "refuse")

    async def main() -> list[Answer]:
        lane = Lane(served, threads=1, limit=10, batch_rows=8)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 11.0))
        await busy(lane)
        rest = [asyncio.ensure_future(ask(lane, k)) for k in (1.0, 13.0, 12.0)]
        while lane.waiting < 3:
            await asyncio.sleep(0.001)
        served.open.set()
        found = await asyncio.gather(first, *rest)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)
        return found

    _, below, poisoned, above = asyncio.run(main())
    assert served.asked == [[11], [13, 12], [13], [12]]
    assert below.outputs["x"].tolist() == [1]
    assert poisoned.summary.status == "refused"
    assert above.outputs["x"].tolist() == [24]


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    served = Doubling()

    async def main() -> None:
        lane = Lane(served, threads=1, limit=1, batch_rows=8)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 0.0))
        await busy(lane)
        second = asyncio.ensure_future(ask(lane, 1.0))
        while not lane.waiting:
            await asyncio.sleep(0.001)
        with pytest.raises(ServiceError, match="1 requests wait already") as refused:
            await ask(lane, 2.0)
        assert refused.value.wait_seconds
        served.open.set()
        await asyncio.gather(first, second)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)
        with pytest.raises(ServiceError, match="stopping"):
            await ask(lane, 3.0)

    asyncio.run(main())
    assert served.asked == [[0], [1]]


def test_late_and_cancelled_requests_are_not_asked() -> None:
    served = Doubling()

    async def main() -> None:
        lane = Lane(served, threads=1, limit=10, batch_rows=1)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 0.0))
        await busy(lane)
        late = asyncio.ensure_future(ask(lane, 1.0, deadline=Deadline.after(0.05)))
        left = asyncio.ensure_future(ask(lane, 2.0))
        last = asyncio.ensure_future(ask(lane, 3.0))
        while lane.waiting < 3:
            await asyncio.sleep(0.001)
        left.cancel()
        await asyncio.sleep(0.1)
        served.open.set()
        with pytest.raises(DeadlineError, match="no process was free"):
            await late
        await asyncio.gather(first, last)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)

    asyncio.run(main())
    assert served.asked == [[0], [3]]


def test_what_waits_when_the_lane_closes_is_refused_not_forgotten() -> None:
    served = Doubling()

    async def main() -> None:
        lane = Lane(served, threads=1, limit=10, batch_rows=1)
        served.open.clear()
        first = asyncio.ensure_future(ask(lane, 0.0))
        await busy(lane)
        second = asyncio.ensure_future(ask(lane, 1.0))
        while not lane.waiting:
            await asyncio.sleep(0.001)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 0.0)
        with pytest.raises(ServiceError, match="stopped"):
            await second
        served.open.set()
        await first

    asyncio.run(main())


class OneByOne(Doubling):
    """Answers as often as it was let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Semaphore(0)

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        self.let.acquire(timeout=30)
        return super().answer_batch(inputs, deadline=deadline)


def test_a_burst_may_fill_the_queue_but_a_lasting_overload_may_not() -> None:
    served = OneByOne()

    async def main() -> list[int]:
        lane = Lane(served, threads=1, limit=8, standing=1, batch_rows=1)
        asked: list[asyncio.Future[Answer]] = []

        async def fill() -> int:
            """How many more requests are taken."""
            before = len(asked)
            while not lane.full:
                asked.append(asyncio.ensure_future(ask(lane, 1.0)))
                await asyncio.sleep(0)
                await busy(lane)
            return len(asked) - before

        async def answer(count: int) -> None:
            """Let so many be answered, and wait until the next ones are at work."""
            waiting = max(0, lane.waiting - count)
            served.let.release(count)
            while lane.waiting > waiting:
                await asyncio.sleep(0.001)

        def refuse() -> None:
            """Three more ask in vain."""
            for _ in range(3):
                with pytest.raises(ServiceError) as refused:
                    lane.check_room()
                assert refused.value.retryable

        found = [await fill()]
        for _ in range(80):
            await answer(1)
            await fill()
            refuse()
        assert lane.waiting == 1
        found.append(await fill())
        await answer(1)

        async def after_a_pause(seconds: float = 0.001) -> None:
            """Let all be answered; the thread then has to wait for the next one."""
            served.let.release(lane.running + lane.waiting)
            while lane.running or lane.waiting:
                await asyncio.sleep(0.001)
            await asyncio.sleep(seconds)
            asked.append(asyncio.ensure_future(ask(lane, 1.0)))
            await busy(lane)

        for _ in range(20):
            await after_a_pause()
            assert await fill() == 1  # the overload goes on as long as most are refused
            refuse()
        for _ in range(150):
            await after_a_pause()
        found.append(await fill())
        for _ in range(80):
            await answer(1)
            while lane.waiting > 1:
                await answer(1)
            await fill()
            refuse()
        await after_a_pause(seconds=1.1)
        found.append(await fill())
        served.let.release(len(asked))
        await asyncio.gather(*asked)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)
        return found

    # One at work and eight that wait; none more than one in a lasting overload; after quieter times
    # as before, and after a pause at once.
    assert asyncio.run(main()) == [9, 0, 8, 8]


def test_a_lasting_overload_is_told_though_a_batch_empties_the_queue() -> None:
    served = OneByOne()

    async def main() -> int:
        lane = Lane(served, threads=1, limit=8, standing=1, batch_rows=8)
        asked = [asyncio.ensure_future(ask(lane, 1.0))]
        await busy(lane)
        for _ in range(100):
            while not lane.full:
                asked.append(asyncio.ensure_future(ask(lane, 1.0)))
                await asyncio.sleep(0)
            for _ in range(16):
                with pytest.raises(ServiceError):
                    lane.check_room()
            served.let.release()
            while lane.waiting:
                await asyncio.sleep(0.001)
        found = 0
        while not lane.full:
            asked.append(asyncio.ensure_future(ask(lane, 1.0)))
            await asyncio.sleep(0)
            found += 1
        served.let.release(len(asked))
        await asyncio.gather(*asked)
        await asyncio.get_running_loop().run_in_executor(None, lane.close, 10.0)
        return found

    assert asyncio.run(main()) == 1
