"""The seam: another place to run items plugs in by the Protocol alone. Here, an event loop."""

import asyncio
import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from interlock.kernel.drive import drive
from interlock.kernel.errors import InterruptedRunError
from interlock.kernel.executor import Executor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.task import Completed, Task, reason_of

ITEMS = 60


class LoopExecutor:
    """Runs each task as a coroutine on an event loop in a thread of its own."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.most = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._ended: queue.SimpleQueue[Completed] = queue.SimpleQueue()
        self._running: dict[int, Any] = {}

    def submit(self, task: Task) -> None:
        self._running[task.id] = asyncio.run_coroutine_threadsafe(self._run(task), self._loop)
        self.most = max(self.most, len(self._running))

    def completed(self, timeout: float | None) -> list[Completed]:
        found: list[Completed] = []
        while self._running:
            try:
                found.append(self._ended.get(block=not found, timeout=timeout))
            except queue.Empty:
                break
            self._running.pop(found[-1].task.id)
        return found

    def cancel(self) -> None:
        for future in self._running.values():
            future.cancel()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _run(self, task: Task) -> None:
        try:
            outcomes = tuple([await self._answer(item) for item in task.items])
        except ValueError as error:
            self._ended.put(Completed(task, error=reason_of(error)))
        else:
            self._ended.put(Completed(task, outcomes))

    async def _answer(self, item: int) -> Outcome[int]:
        await asyncio.sleep(0.001 * (item % 3))
        if item == 7:
            raise ValueError("seven")
        return Outcome(Status.ACCEPTED, value=-item)


def test_an_event_loop_serves_a_journalled_run(tmp_path: Path) -> None:
    loop = LoopExecutor(capacity=8)
    executor: Executor = loop
    stop = threading.Event()
    items = [Item(f"k{n}", n) for n in range(ITEMS)]
    seen: list[str] = []

    def stop_at_twenty(key: str, outcome: Outcome[Any]) -> None:
        seen.append(key)
        if len(seen) == 20:
            stop.set()

    with Journal.open(tmp_path / "journal.db") as journal:
        with journal.create_run("loop", config={}, items=items, run_id="r") as run:
            with pytest.raises(InterruptedRunError):
                drive(run, run.payload, executor, ordered=True, stop=stop, on_result=stop_at_twenty)
            before = len(dict(journal.outcomes("r")))
            # What was in flight ended within the grace, so the executor serves the rest too.
            assert drive(run, run.payload, executor).recorded == ITEMS - before
        outcomes = dict(journal.outcomes("r"))
    executor.close()
    assert 1 < loop.most <= 8
    assert outcomes["k7"].reasons == ("work: raised ValueError",)
    assert {k: o.value for k, o in outcomes.items() if o.status.usable} == {
        f"k{n}": -n for n in range(ITEMS) if n != 7
    }


def test_an_executor_may_find_its_level_while_it_runs(tmp_path: Path) -> None:
    """One task in flight at first; each one that ends makes room for one more, up to six."""

    class Growing(LoopExecutor):
        def completed(self, timeout: float | None) -> list[Completed]:
            found = super().completed(timeout)
            assert len(self._running) + len(found) <= self.capacity
            self.capacity = min(6, self.capacity + len(found))
            return found

    growing = Growing(capacity=1)
    items = [Item(f"k{n}", n) for n in range(ITEMS)]
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        journal.create_run("loop", config={}, items=items, run_id="r") as run,
    ):
        assert drive(run, run.payload, growing).recorded == ITEMS
    growing.close()
    assert growing.most == 6
