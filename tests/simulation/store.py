"""The record of a run that lives in memory, fails on demand and checks what it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from simulation.seeds import require

from interlock.kernel.dispatch import WINDOW
from interlock.kernel.errors import InputError, StorageError
from interlock.kernel.outcome import Outcome

if TYPE_CHECKING:
    from simulation.world import World

UNWRITABLE = object()


class FakeStore:
    """A RunLog in memory. What `record` returned from is durable and was acknowledged."""

    run_id = "simulated"

    def __init__(self, world: World) -> None:
        self.world = world

    def pending(self) -> Iterator[str]:
        """Keys without an outcome, page by page."""
        world = self.world
        size = world.rng.randint(1, 9)
        start = 0
        while start < len(world.keys):
            page = [k for k in world.keys[start : start + size] if k not in world.durable]
            start += size
            for key in page:
                world.point()
                world.read.add(key)
                held = len([k for k in world.read if k not in world.durable])
                window = WINDOW * world.capacity * world.batch if world.ordered else 0
                require(
                    held <= 2 * world.capacity * world.batch + window + 1,
                    f"{held} items are held in memory",
                )
                yield key

    def begin(self, keys: Sequence[str]) -> None:
        """Note attempts."""
        world = self.world
        self.fault()
        require(bool(keys), "an empty transaction")
        for key in keys:
            require(key not in world.begun, f"{key} was begun twice")
            world.begun.add(key)
        world.point()

    def record(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        """Write all or none."""
        world = self.world
        require(bool(results), "an empty transaction")
        if any(outcome.value is UNWRITABLE for _, outcome in results):
            raise InputError("a value of type object cannot be written as JSON")
        self.fault()
        world.point()
        for key, outcome in results:
            require(key not in world.durable, f"{key} was recorded twice")
            expected = world.due_outcomes.get(key)
            require(expected is not None, f"{key} was recorded, but nothing became of it")
            require(outcome == expected, f"{key} was recorded as {outcome}, it was {expected}")
        self.commit(results)
        # Killed here, the outcomes are durable though nobody was told.
        world.point()
        world.acknowledged.update(results)

    def commit(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        """Make outcomes durable."""
        self.world.durable.update(results)
        self.world.recorded_now.extend(key for key, _ in results)

    def finish(self, state: Literal["done", "interrupted"]) -> None:
        """Note the end."""
        world = self.world
        self.fault()
        world.point()
        require(state != "interrupted" or world.requests > 0, "interrupted, but nobody asked")
        world.state = state

    def fault(self) -> None:
        """Perhaps the disk is full."""
        if self.world.rng.random() < self.world.faults.storage:
            self.world.storage_failed = True
            raise StorageError("the disk is full")
