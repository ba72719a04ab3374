"""Where samples are asked: calls on an event loop, batches and runners in threads of their own.

It satisfies `interlock.kernel.executor.Executor`. The driver's thread submits tasks of one sample
each; every model has a lane, and `Keys` deals out the next key for a lane that has room, so that a
model which waits for its service holds no other back.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from interlock.experiment.answers import Sample
from interlock.kernel.errors import InterlockError, TransientError
from interlock.kernel.task import Completed, Task


class Lane(Protocol):
    """Asks the samples of one variant."""

    def room(self, promised: int) -> int:
        """How many more samples it takes, when `promised` are on their way to it."""
        ...

    def submit(self, task: Task) -> None:
        """Take on a task of one `Sample`; does not wait for it."""
        ...

    def cancel(self) -> None:
        """Drop what waits and, where that can be done, what runs."""
        ...

    def close(self) -> None:
        """Release the model and its connections."""
        ...


class Mailbox:
    """What lanes hand to the driver's thread: ended tasks, texts to show, and wake-ups."""

    def __init__(self) -> None:
        # SimpleQueue, since its put never blocks an event loop.
        self._queue: queue.SimpleQueue[Completed | str | None] = queue.SimpleQueue()
        self._woken = False

    def done(self, completed: Completed) -> None:
        """A task ended."""
        self._queue.put(completed)

    def note(self, text: str) -> None:
        """Something that a person should see."""
        self._queue.put(text)

    def wake(self) -> None:
        """A lane has room again."""
        if not self._woken:
            self._woken = True
            self._queue.put(None)

    def take(self, timeout: float | None) -> tuple[list[Completed], list[str]]:
        """All that is there; waits for the first of it."""
        found: list[Completed] = []
        notes: list[str] = []
        wait = True
        while True:
            try:
                item = self._queue.get(block=wait, timeout=timeout if wait else None)
            except queue.Empty:
                return found, notes
            wait = False
            if item is None:
                self._woken = False
            elif isinstance(item, str):
                notes.append(item)
            else:
                found.append(item)


class ChatExecutor:
    """Lanes as one executor. `on_note` is called in the driver's thread."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        mailbox: Mailbox,
        *,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.lanes = lanes
        self.promised = dict.fromkeys(lanes, 0)
        self.open = set(lanes)
        """Labels of the lanes that have samples left to deal out."""
        self._mailbox = mailbox
        self._on_note = on_note
        self._in_flight = 0
        self._cancelled = False

    @property
    def capacity(self) -> int:
        """What is in flight or promised, and what the lanes with samples left have room for."""
        room = sum(self.room(label) for label in self.open)
        return self._in_flight + sum(self.promised.values()) + room

    def room(self, label: str) -> int:
        """How many more samples the lane of `label` takes."""
        return self.lanes[label].room(self.promised[label])

    def submit(self, task: Task) -> None:
        """Hand the task to its lane."""
        sample: Sample = task.items[0]
        label = sample.variant.label
        self.promised[label] = max(0, self.promised[label] - 1)
        self._in_flight += 1
        self.lanes[label].submit(task)

    def completed(self, timeout: float | None) -> list[Completed]:
        """See `Executor.completed`. Also returns, with nothing, where a lane has room again."""
        if not self._in_flight:
            return []
        found, notes = self._mailbox.take(0.0 if self._cancelled else timeout)
        for text in notes:
            self._on_note(text)
        self._in_flight -= len(found)
        return found

    def cancel(self) -> None:
        """Drop what waits and what runs on the loop; a batch that a model computes runs on."""
        self._cancelled = True
        for lane in self.lanes.values():
            lane.cancel()

    def close(self) -> None:
        """Release all lanes."""
        for lane in self.lanes.values():
            lane.close()


class Keys:
    """A run's pending keys, dealt out for lanes that have room.

    sources      the pending keys of each lane, in order
    on_shortage  called where nothing is in flight and yet no lane has room; its error says why
    """

    def __init__(
        self,
        executor: ChatExecutor,
        sources: Mapping[str, Iterator[str]],
        *,
        on_shortage: Callable[[], InterlockError | None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._executor = executor
        self._sources = dict(sources)
        self._on_shortage = on_shortage
        self._stop = stop
        self.shortage: InterlockError | None = None

    def __iter__(self) -> Iterator[str]:
        """The next key each time that the driver asks for one."""
        turns = list(self._sources)
        while turns:
            label = next((name for name in turns if self._executor.room(name) > 0), None)
            if label is None:
                # Only where the driver looks whether anything is left.
                self.shortage = self._on_shortage()
                if self.shortage is not None and self._stop is not None:
                    self._stop.set()
                label = turns[0]
            key = next(self._sources[label], None)
            turns.remove(label)
            if key is None:
                self._executor.open.discard(label)
                continue
            turns.append(label)
            self._executor.promised[label] += 1
            yield key


def given_back(task: Task) -> Completed:
    """A task that was not asked: its sample stays pending, for this start or a later one."""
    return Completed(task, lost=TransientError("not asked"))
