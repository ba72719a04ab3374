"""The queue in front of one model: bounded, with deadlines, requests merged into batches."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import DeadlineError, EngineError, ServiceError
from interlock.serve.overload import Overload
from interlock.serve.served import Answer, Served

# Weight of the last batch in the running mean of a request's service time.
_WEIGHT = 0.1
_LONGEST_WAIT = 60.0
_LONG = 0.02


@dataclass(eq=False)
class _Waiting:
    inputs: Mapping[str, Array]
    rows: int
    deadline: Deadline
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answer]
    key: tuple[object, ...]
    since: float = field(default_factory=time.monotonic)
    cancelled: bool = False


@dataclass(frozen=True)
class Ran:
    """One inference that the lane made: its rows, requests, their waits and its own seconds."""

    rows: int
    requests: int
    waits: tuple[float, ...]
    seconds: float


class Lane:
    """Requests to one model, answered by as many threads as it has processes.

    A merged inference that no engine answered is made again request by request, so that one
    that crashes or hangs the model costs the others at most half of their time. A request that
    is cancelled or late while it waits is dropped.

    limit       requests that may wait
    standing    requests that may wait in a lasting overload (see `Overload`), None for `limit`.
                A burst may fill the queue; a lasting overload may not keep it full, which would
                make every request late and answer no more of them
    batch_rows  rows of a merged inference
    batch_wait  seconds that the first request of a batch may wait for further ones
    on_run      told of every inference, from the lane's threads
    """

    def __init__(
        self,
        served: Served,
        *,
        threads: int,
        limit: int,
        batch_rows: int,
        batch_wait: float = 0.0,
        standing: int | None = None,
        on_run: Callable[[Ran], None] = lambda ran: None,
    ) -> None:
        self.served = served
        self._limit = limit
        self._standing = limit if standing is None else min(standing, limit)
        self._overload = Overload()
        self._batch_rows = batch_rows
        self._batch_wait = batch_wait
        self._on_run = on_run
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._closed = False
        self._mean = 0.01  # seconds a request
        self._moved = time.monotonic()  # when a batch was last answered
        self._threads = [
            threading.Thread(target=self._work, name=f"interlock-lane-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return self._running

    @property
    def full(self) -> bool:
        """Whether a further request would be refused now, whatever its deadline."""
        return len(self._queue) >= (self._standing if self._overload.lasting else self._limit)

    def check_room(self) -> None:
        """Raise ServiceError, with the seconds after which to come back, where it is full."""
        if self.full:
            self._overload.arrived()
            raise self._refusal()

    async def ask(self, inputs: Mapping[str, Array], rows: int, deadline: Deadline) -> Answer:
        """The answer to checked inputs.

        Raises ServiceError, with the seconds after which to come back, where the queue is full
        or the wait would outlast the deadline, and DeadlineError where it did.
        """
        loop = asyncio.get_running_loop()
        # The names are in one order, so that equal requests have equal keys.
        key = tuple((name, a.shape[1:], a.dtype.str) for name, a in sorted(inputs.items()))
        item = _Waiting(inputs, rows, deadline, loop, loop.create_future(), key)
        with self._changed:
            if self._closed:
                raise ServiceError(f"{self.served.name}: stopping", wait_seconds=1.0)
            self.check_room()
            self._overload.arrived()
            left = deadline.remaining()
            if left is not None and self.expected_wait() > left:
                raise self._refusal()
            self._queue.append(item)
            self._changed.notify()
        try:
            return await item.future
        except asyncio.CancelledError:
            item.cancelled = True
            with self._changed, contextlib.suppress(ValueError):
                self._queue.remove(item)
            raise

    @property
    def busy(self) -> bool:
        """Whether a further request would wait."""
        return len(self._queue) + self._running >= len(self._threads)

    @property
    def waits_long(self) -> bool:
        """Whether a further request may wait for more than a few milliseconds."""
        if not self.busy:
            return False
        ahead = self._mean * (len(self._queue) + self._running) / len(self._threads)
        return ahead > _LONG or time.monotonic() - self._moved > _LONG

    def expected_wait(self) -> float:
        """Seconds that a request would wait now, by the mean of those answered of late."""
        return self._mean * len(self._queue) / len(self._threads)

    def _refusal(self) -> ServiceError:
        return ServiceError(
            f"{self.served.name}: {len(self._queue)} requests wait already",
            wait_seconds=min(_LONGEST_WAIT, max(0.1, self.expected_wait())),
        )

    def close(self, wait: float = 0.0) -> None:
        """Take no more; what waits is answered, for up to `wait` seconds, then refused."""
        until = time.monotonic() + wait
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            left, self._queue = list(self._queue), deque()
        for item in left:
            _settle(item, ServiceError(f"{self.served.name}: stopped", wait_seconds=1.0))

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            began = time.monotonic()
            self._run(batch)
            seconds = time.monotonic() - began
            with self._changed:
                self._moved = time.monotonic()
                self._running -= len(batch)
                self._mean += _WEIGHT * (seconds / len(batch) - self._mean)
            waits = tuple(began - item.since for item in batch)
            self._on_run(Ran(sum(item.rows for item in batch), len(batch), waits, seconds))

    def _next(self) -> list[_Waiting] | None:
        """The next batch; None where the lane is closed and nothing waits."""
        waited = 0.0
        with self._changed:
            while True:
                while not self._queue:
                    if self._closed:
                        return None
                    began = time.monotonic()
                    self._changed.wait()
                    waited += time.monotonic() - began
                first = self._queue.popleft()
                if self._usable(first):
                    break
            batch, rows = [first], first.rows
            if self.served.mergeable:
                until = time.monotonic() + self._batch_wait
                while True:
                    rows = self._gather(batch, rows)
                    left = until - time.monotonic()
                    if rows >= self._batch_rows or left <= 0 or self._closed:
                        break
                    self._changed.wait(left)
            self._running += len(batch)
            crowded = 2 * (len(self._queue) + len(batch)) >= self._limit
            self._overload.taken(len(batch), waited, crowded=crowded)
            return batch

    def _gather(self, batch: list[_Waiting], rows: int) -> int:
        """Move what fits from the queue to the batch, in order; the rows it then has."""
        passed: list[_Waiting] = []
        while self._queue and rows < self._batch_rows:
            item = self._queue.popleft()
            if not self._usable(item):
                continue
            if item.key == batch[0].key and rows + item.rows <= self._batch_rows:
                batch.append(item)
                rows += item.rows
            else:
                passed.append(item)
        self._queue.extendleft(reversed(passed))
        return rows

    def _usable(self, item: _Waiting) -> bool:
        if item.cancelled:
            return False
        if item.deadline.expired:
            _settle(item, DeadlineError(f"{self.served.name}: no process was free in time"))
            return False
        return True

    def _run(self, batch: list[_Waiting]) -> None:
        if len(batch) == 1:
            self._run_alone(batch[0])
            return
        # Half of the time, so that each can still be asked alone where this comes to nothing.
        left = min((item.deadline.remaining() or np.inf for item in batch), default=np.inf)
        deadline = batch[0].deadline if left == np.inf else Deadline.after(left / 2)
        try:
            merged = {
                name: np.concatenate([item.inputs[name] for item in batch])
                for name in batch[0].inputs
            }
            answer = self.served.infer(merged, deadline=deadline)
            if answer.lost:
                raise EngineError("no engine answered the merged requests")
            at = 0
            parts = []
            for item in batch:
                parts.append(answer.part(at, at + item.rows))
                at += item.rows
        except Exception:  # noqa: BLE001 - whatever it was, it may be of one request only
            for item in batch:
                self._run_alone(item)
            return
        for item, part in zip(batch, parts, strict=True):
            if part.broken:
                self._run_alone(item)
            else:
                _settle(item, part)

    def _run_alone(self, item: _Waiting) -> None:
        try:
            _settle(item, self.served.infer(item.inputs, deadline=item.deadline))
        except Exception as error:  # noqa: BLE001 - the thread must outlive what a model raises
            _settle(item, error)


def _settle(item: _Waiting, result: Answer | Exception) -> None:
    def settle() -> None:
        if item.future.done():
            return
        if isinstance(result, Answer):
            item.future.set_result(result)
        else:
            item.future.set_exception(result)

    # The loop may be gone when the server was ended in a hurry.
    with contextlib.suppress(RuntimeError):
        item.loop.call_soon_threadsafe(settle)
