"""Where samples are asked: calls on an event loop, batches and runners in threads of their own.

It satisfies `interlock.kernel.executor.Executor`. The driver's thread submits tasks of one sample
each; every model has a lane, and `deal` gives out the next key for a lane that has room, so that a
model which waits for its service holds no other back.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from interlock.experiment.answers import Sample
from interlock.kernel.errors import TransientError
from interlock.kernel.task import Completed, Task


class Lane(Protocol):
    """Asks the samples of one variant."""

    def room(self, promised: int) -> int:
        """How many more samples it takes, when `promised` are on their way to it."""
        ...

    def submit(self, task: Task) -> None:
        """Take on a task of one `Sample`; does not wait for it."""
        ...

    def give_back(self) -> None:
        """Hand back what was not sent yet: the run is stopping."""
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
    """Lanes as one executor.

    on_note     called in the driver's thread with texts to show
    on_starved  called in the driver's thread where nothing is in flight, samples are left, and no
                lane takes one; it should stop the run, or nothing ever ends it
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        mailbox: Mailbox,
        *,
        on_note: Callable[[str], None] = lambda text: None,
        on_starved: Callable[[], None] = lambda: None,
    ) -> None:
        self.lanes = lanes
        self.open = set(lanes)
        """Labels of the lanes that have samples left to deal out."""
        self._mailbox = mailbox
        self._on_note = on_note
        self._on_starved = on_starved
        self._in_flight = 0
        self._promised = dict.fromkeys(lanes, 0)
        self._given_back: dict[str, str] = {}
        self._parked: list[Task] = []
        """Tasks that came back and whose lanes have no room. The driver sends them again at once,
        so they wait here and leave its turns to lanes that can take something."""
        self.unsent: set[str] = set()
        """Keys that were begun, came back unsent, and were not submitted again."""
        self._cancelled = False

    @property
    def capacity(self) -> int:
        """What is in flight or promised, and what the lanes with samples left have room for."""
        self._unpark()
        promised = sum(self._promised.values())
        room = sum(self.room(label) for label in self.open)
        back = Counter(label for label in self._given_back.values() if label not in self.open)
        room += sum(min(count, self.room(label)) for label, count in back.items())
        idle = self._in_flight == len(self._parked)
        if room == 0 and promised == 0 and idle and (self.open or back or self._parked):
            self._on_starved()
        return self._in_flight + promised + room

    def starved(self) -> set[str]:
        """The lanes that have samples left, those included that were given back."""
        parked = {task.items[0].variant.label for task in self._parked}
        return self.open | set(self._given_back.values()) | parked

    def room(self, label: str) -> int:
        """How many more samples the lane of `label` takes."""
        return self.lanes[label].room(self._promised[label])

    def promise(self, label: str) -> None:
        """A sample of this lane was dealt out and will be submitted."""
        self._promised[label] += 1

    def submit(self, task: Task) -> None:
        """Hand the task to its lane."""
        sample: Sample = task.items[0]
        label = sample.variant.label
        returned = self._given_back.pop(task.keys[0], None) is not None
        if not returned:
            self._promised[label] -= 1
        self.unsent.discard(task.keys[0])
        self._in_flight += 1
        if returned and self.room(label) < 1:
            self._parked.append(task)
        else:
            self.lanes[label].submit(task)

    def _unpark(self) -> None:
        waiting, self._parked = self._parked, []
        for task in waiting:
            label = task.items[0].variant.label
            if self.room(label) < 1:
                self._parked.append(task)
            else:
                self.lanes[label].submit(task)

    def _return_parked(self) -> None:
        for task in self._parked:
            self._mailbox.done(given_back(task, sent=False))
        self._parked = []

    def completed(self, timeout: float | None) -> list[Completed]:
        """See `Executor.completed`. Also returns, with nothing, where a lane has room again."""
        if not self._in_flight:
            return []
        found, notes = self._mailbox.take(0.0 if self._cancelled else timeout)
        for text in notes:
            self._on_note(text)
        self._in_flight -= len(found)
        for done in found:
            if done.lost is not None:
                self._given_back[done.task.keys[0]] = done.task.items[0].variant.label
                if isinstance(done.lost, NotAsked) and not done.lost.sent:
                    self.unsent.add(done.task.keys[0])
        return found

    def give_back(self) -> None:
        """Let the lanes hand back what was not sent yet; see `interlock.kernel.drive.drive`."""
        self._return_parked()
        for lane in self.lanes.values():
            lane.give_back()

    def cancel(self) -> None:
        """Drop what waits and what runs on the loop; a batch that a model computes runs on."""
        self._cancelled = True
        self._return_parked()
        for lane in self.lanes.values():
            lane.cancel()

    def close(self) -> None:
        """Release all lanes."""
        for lane in self.lanes.values():
            lane.close()


def deal(executor: ChatExecutor, sources: Mapping[str, Iterator[str]]) -> Iterator[str]:
    """A run's pending keys, each for a lane that has room when the driver asks for it.

    `sources` holds the pending keys of each lane, in order; lanes take turns.
    """
    turns = list(sources)
    while turns:
        # None has room only where the driver looks whether anything is left.
        label = next((name for name in turns if executor.room(name) > 0), turns[0])
        turns.remove(label)
        key = next(sources[label], None)
        if key is None:
            executor.open.discard(label)
            continue
        turns.append(label)
        executor.promise(label)
        yield key


class NotAsked(TransientError):
    """Why a task came back without a result: it stays pending, for this start or a later one."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("not asked")
        self.sent = sent


def given_back(task: Task, *, sent: bool) -> Completed:
    """A task that was not answered; `sent` says whether it was on the wire at some time."""
    return Completed(task, lost=NotAsked(sent=sent))
