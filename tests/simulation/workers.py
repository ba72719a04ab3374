"""Workers that answer, break, die and deliver as one seed says, and check what they are sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulation.seeds import require
from simulation.store import UNWRITABLE

from interlock.kernel.drive import TICK
from interlock.kernel.errors import (
    DeadlineError,
    EngineCrashError,
    EngineUnavailableError,
    InterlockError,
    MemoryLimitError,
)
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.task import Completed, Task

if TYPE_CHECKING:
    from simulation.world import World


@dataclass
class FakeExecutor:
    """Workers that end in any order, late, not at all, or twice."""

    world: World
    capacity: int = field(init=False)
    tasks: dict[int, Task] = field(default_factory=dict)
    due: dict[int, float] = field(default_factory=dict)
    delivered: list[Completed] = field(default_factory=list)
    cancelled: bool = False

    def __post_init__(self) -> None:
        """Take the capacity from the world."""
        self.capacity = self.world.capacity

    def submit(self, task: Task) -> None:
        """A task is sent: only what may be."""
        world = self.world
        require(not self.cancelled, "a task was sent after the cancellation")
        require(len(self.tasks) < self.capacity, "more tasks were sent than the capacity")
        require(len(task.keys) == len(task.items) <= world.batch, "the group has a wrong size")
        require(
            not (world.requests and world.collected_since_stop), "a task was sent after the stop"
        )
        for key, item in zip(task.keys, task.items, strict=True):
            require(item == f"item of {key}", f"{key} was sent with {item}")
            require(key in world.begun, f"{key} was sent before its attempt was noted")
            require(key not in world.durable, f"{key} was sent though its outcome is recorded")
            require(key not in world.due_outcomes, f"{key} was sent though it had ended")
            world.begun.discard(key)
            world.sent[key] += 1
            world.sent_now.add(key)
            require(
                world.sent[key] - 1 <= world.excused[key],
                f"{key} was sent {world.sent[key]} times with {world.excused[key]} excuses",
            )
        self.tasks[task.id] = task
        slow = world.rng.random() < world.faults.slow
        self.due[task.id] = world.clock.monotonic() + (30.0 if slow else world.rng.random() * 0.3)
        world.point()

    def completed(self, timeout: float | None) -> list[Completed]:
        """What has ended by now, in any order; time passes only here."""
        world = self.world
        world.point()
        self._count_stops()
        require(timeout is not None and 0 <= timeout <= TICK, f"the driver sleeps for {timeout} s")
        assert timeout is not None
        if world.rng.random() < world.faults.broken:
            raise EngineUnavailableError("no worker can be started")
        now = world.clock.monotonic()
        first = min(self.due.values(), default=now + timeout)
        world.clock.advance(min(max(0.0, first - now), timeout))
        ended = [i for i, due in self.due.items() if due <= world.clock.monotonic()]
        world.rng.shuffle(ended)
        done = [self._end(task) for task in ended[: world.rng.randint(1, self.capacity)]]
        if self.delivered and world.rng.random() < world.faults.twice:
            done.append(world.rng.choice(self.delivered))
        self.delivered.extend(done[: len(ended)])
        world.point()
        return done

    def cancel(self) -> None:
        """Nothing more comes."""
        self.cancelled = True
        self.tasks.clear()
        self.due.clear()

    def close(self) -> None:
        """Nothing is held."""

    def _count_stops(self) -> None:
        world = self.world
        if world.requests:
            world.collected_since_stop += 1
        if world.signals > 1:
            world.collected_since_urgent += 1
            require(world.collected_since_urgent <= 3, "the second request does not stop at once")

    def _end(self, task_id: int) -> Completed:
        """What becomes of a task, and therefore must be recorded for its items."""
        world = self.world
        task = self.tasks.pop(task_id)
        del self.due[task_id]
        natures = {world.nature[key] for key in task.keys}
        if "kills" in natures or world.rng.random() < world.faults.lost:
            return self._lose(task, EngineCrashError("the process died"))
        if "hangs" in natures:
            return self._lose(
                task, world.rng.choice((DeadlineError("late"), MemoryLimitError("too much")))
            )
        if "raises" in natures:
            for key in task.keys:
                world.settle(key, "work", "raised ValueError")
            return Completed(task, error="raised ValueError")
        outcomes = tuple(self._outcome(key) for key in task.keys)
        if "misfit" in natures:
            outcomes = world.rng.choice((outcomes[:-1], (*outcomes, outcomes[0])))
            reason = f"the work returned {len(outcomes)} outcomes for {len(task.keys)} items"
            for key in task.keys:
                world.settle(key, "work", reason)
        elif "stranger" in natures:
            outcomes = (*outcomes[:-1], 7)
            for key in task.keys:
                world.settle(key, "work", "the work returned int where an Outcome was due")
        return Completed(task, outcomes)

    def _lose(self, task: Task, error: InterlockError) -> Completed:
        world = self.world
        for key in task.keys:
            world.crashes[key] += 1
            if len(task.keys) == 1 and (
                world.crashes[key] >= world.max_crashes or not error.retryable
            ):
                world.settle(key, "worker", error.code, attempts=world.crashes[key])
            else:
                world.excused[key] += 1
        return Completed(task, lost=error)

    def _outcome(self, key: str) -> Any:
        world = self.world
        nature = world.nature[key]
        if nature == "unwritable":
            world.settle(key, "record", "input")
            return Outcome(Status.ACCEPTED, value=UNWRITABLE)
        status = Status(nature) if nature in ("flagged", "refused", "failed") else Status.ACCEPTED
        value = {"key": key, "draw": world.rng.random()} if status.usable else None
        world.due_outcomes[key] = Outcome(status, value=value)
        return world.due_outcomes[key]
