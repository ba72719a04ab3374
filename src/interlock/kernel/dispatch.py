"""Which items are sent, which are in flight, and what is final: bookkeeping without I/O.

Memory is bounded by what is in flight, plus, for ordered results, the window that may be ahead of
the oldest unfinished item.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from interlock.kernel.errors import ConfigError, JournalError
from interlock.kernel.outcome import Outcome
from interlock.kernel.task import Completed, Task, failed, misfit, reason_of

WINDOW = 4
"""Ordered results: how many times the in-flight items may be held back behind the oldest one."""


@dataclass(frozen=True, slots=True)
class Result:
    """An item's final outcome. `position` counts the items of this drive from 0."""

    position: int
    key: str
    outcome: Outcome[Any]


@dataclass(frozen=True, slots=True)
class _Item:
    position: int
    key: str
    content: Any
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tasks to submit, and results of the items that could not be loaded."""

    tasks: list[Task]
    unloadable: list[Result]


class Dispatcher:
    """Forms tasks from the pending keys and decides what becomes of each item.

    keys         the pending items, read lazily, each once
    load         gives the item for a key; an exception fails that item, a JournalError the run
    capacity     tasks in flight at most; may be set anew between two calls of `prepare`
    batch        items a task
    max_crashes  workers that an item may lose before it fails; it fails only by a task of its own
    ordered      keep at most a window of items ahead of the oldest unfinished one
    """

    def __init__(
        self,
        keys: Iterator[str],
        load: Callable[[str], Any],
        *,
        capacity: int,
        batch: int = 1,
        max_crashes: int = 2,
        ordered: bool = False,
    ) -> None:
        for name, value in (("capacity", capacity), ("batch", batch), ("max_crashes", max_crashes)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more")
        self._keys = keys
        self._load = load
        self.capacity = capacity
        self._batch = batch
        self._max_crashes = max_crashes
        self._order = InOrder() if ordered else None
        self._window = WINDOW * capacity * batch
        self._ids = itertools.count()
        self._positions = itertools.count()
        self._peeked: deque[str] = deque(maxlen=1)
        self._again: deque[_Item] = deque()
        self._in_flight: dict[int, tuple[_Item, ...]] = {}
        self._last = -1
        self.lost = 0
        """Tasks whose worker died."""

    @property
    def in_flight(self) -> int:
        """Tasks that were prepared and not settled."""
        return len(self._in_flight)

    def exhausted(self) -> bool:
        """Whether nothing is in flight, waits for another try, or is pending."""
        if self._in_flight or self._again:
            return False
        if not self._peeked:
            self._peeked.extend(itertools.islice(self._keys, 1))
        return not self._peeked

    def prepare(self) -> Prepared:
        """Fill the free capacity. Items that lost a worker go first, each in a task of its own."""
        tasks: list[Task] = []
        unloadable: list[Result] = []
        for _ in range(self.capacity - len(self._in_flight)):
            group = (self._again.popleft(),) if self._again else self._next_group(unloadable)
            if not group:
                break
            task = Task(
                next(self._ids),
                tuple(item.key for item in group),
                tuple(item.content for item in group),
            )
            self._in_flight[task.id] = group
            tasks.append(task)
        return Prepared(tasks, unloadable)

    def settle(self, done: Completed) -> list[Result]:
        """The results that a completed task makes final; none for a task that is not in flight.

        The same completion delivered twice therefore counts once.
        """
        group = self._in_flight.pop(done.task.id, None)
        if group is None:
            return []
        if done.lost is not None:
            self.lost += 1
            return self._after_loss(group, done)
        error = done.error
        if error is None:
            error = misfit(done.outcomes or (), len(group))
        if error is not None:
            return [Result(item.position, item.key, failed("work", error)) for item in group]
        assert done.outcomes is not None
        return [
            Result(item.position, item.key, outcome)
            for item, outcome in zip(group, done.outcomes, strict=True)
        ]

    def release(self, results: list[Result]) -> list[Result]:
        """The results to hand out: these ones, or in input order those whose turn has come."""
        return results if self._order is None else self._order.add(results)

    def _after_loss(self, group: tuple[_Item, ...], done: Completed) -> list[Result]:
        lost = done.lost
        assert lost is not None
        results = []
        for item in group:
            crashes = item.crashes + 1
            final = len(group) == 1 and (crashes >= self._max_crashes or not lost.retryable)
            if final:
                outcome = failed("worker", lost.code, attempts=crashes)
                results.append(Result(item.position, item.key, outcome))
            else:
                self._again.append(_Item(item.position, item.key, item.content, crashes))
        return results

    def _next_group(self, unloadable: list[Result]) -> tuple[_Item, ...]:
        group: list[_Item] = []
        # Items that cannot be loaded count too, or a run of them would be read without a pause.
        tried = 0
        while tried < self._batch and not self._ahead():
            key = self._peeked.popleft() if self._peeked else next(self._keys, None)
            if key is None:
                break
            tried += 1
            self._last = next(self._positions)
            try:
                group.append(_Item(self._last, key, self._load(key)))
            except JournalError:
                raise
            except Exception as error:  # noqa: BLE001 - an item that cannot be read is that item's failure
                unloadable.append(Result(self._last, key, failed("load", reason_of(error))))
        return tuple(group)

    def _ahead(self) -> bool:
        """Whether the next item would lie outside the window of ordered results."""
        return self._order is not None and self._last + 1 - self._order.next >= self._window


class InOrder:
    """Holds results back until all earlier ones are there."""

    def __init__(self) -> None:
        self.next = 0
        self._held: dict[int, Result] = {}

    def add(self, results: list[Result]) -> list[Result]:
        """Keep `results`, and return those that are next, in order."""
        for result in results:
            self._held[result.position] = result
        ready = []
        while self.next in self._held:
            ready.append(self._held.pop(self.next))
            self.next += 1
        return ready
