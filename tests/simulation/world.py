"""A world in which the driver runs: one thread, a manual clock, a store and workers that fail.

Every fault is drawn from one seed. Every call that the driver makes is checked against what must
hold, so a broken promise is found at the step that broke it.
"""

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulation.seeds import require
from simulation.store import FakeStore
from simulation.workers import FakeExecutor

from interlock.kernel.clock import ManualClock
from interlock.kernel.drive import RunSummary, drive
from interlock.kernel.errors import (
    EngineUnavailableError,
    InterruptedRunError,
    StorageError,
)
from interlock.kernel.outcome import Outcome, Status, Step, StepResult

STEPS = 20_000
"""Calls that one simulated run may take before it counts as hanging."""

HEALS = 12
"""Starts after which nothing fails any more, so that the run has to end."""


class DriverCrash(BaseException):
    """The driver's process is killed at this very point."""


@dataclass
class Faults:
    """How often each thing goes wrong, drawn once a world."""

    crash: float = 0.0
    signal: float = 0.0
    storage: float = 0.0
    lost: float = 0.0
    slow: float = 0.0
    twice: float = 0.0
    broken: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random) -> "Faults":
        """Each fault is absent, rare or common, so that quiet worlds are tried too."""
        return cls(
            crash=rng.choice((0.0, 0.003, 0.02)),
            signal=rng.choice((0.0, 0.003, 0.02)),
            storage=rng.choice((0.0, 0.01, 0.1)),
            lost=rng.choice((0.0, 0.05, 0.3)),
            slow=rng.choice((0.0, 0.05, 0.3)),
            twice=rng.choice((0.0, 0.1)),
            broken=rng.choice((0.0, 0.0, 0.02)),
        )


NATURES = {
    "accepted": 20,
    "flagged": 2,
    "refused": 2,
    "failed": 2,
    "raises": 1,
    "misfit": 1,
    "stranger": 1,
    "kills": 1,
    "hangs": 1,
    "unloadable": 1,
    "unwritable": 1,
}
"""What an item does to whoever works on it, by weight."""


@dataclass
class World:
    """The truth about one simulated run: what was sent, what is durable, what was acknowledged."""

    seed: int
    rng: random.Random = field(init=False)
    clock: ManualClock = field(default_factory=ManualClock)
    stop: threading.Event = field(default_factory=threading.Event)
    durable: dict[str, Outcome[Any]] = field(default_factory=dict)
    acknowledged: dict[str, Outcome[Any]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    state: str = "running"
    steps: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        """Draw the world from its seed."""
        rng = self.rng = random.Random(self.seed)
        self.capacity = rng.randint(1, 5)
        self.batch = rng.choice((1, 1, 2, 3, 7))
        self.ordered = rng.random() < 0.5
        self.max_crashes = rng.randint(1, 3)
        self.grace = rng.choice((0.0, 0.5, 10.0))
        self.faults = Faults.draw(rng)
        self.keys = [f"k{n}" for n in range(rng.choice((0, 1, 5, 30, 60)))]
        self.place = {key: n for n, key in enumerate(self.keys)}
        natures = rng.choices(list(NATURES), weights=list(NATURES.values()), k=len(self.keys))
        plain = rng.random() < 0.3
        self.nature = {
            key: "accepted" if plain else nature
            for key, nature in zip(self.keys, natures, strict=True)
        }
        self.new_start()

    def new_start(self) -> None:
        """Forget what lived in the driver's process."""
        self.stop.clear()
        self.read: set[str] = set()
        self.begun: set[str] = set()
        self.sent_now: set[str] = set()
        self.crashes: Counter[str] = Counter()
        self.due_outcomes: dict[str, Outcome[Any]] = {}
        self.recorded_now: list[str] = []
        self.handed: list[str] = []
        self.requests = 0
        self.signals = 0
        self.collected_since_stop = 0
        self.collected_since_urgent = 0
        self.storage_failed = False

    # What the driver calls, apart from store and executor.

    def load(self, key: str) -> str:
        """The item of a key."""
        self.point()
        if self.nature[key] == "unloadable":
            self.settle(key, "load", "raised LookupError")
            raise LookupError("no such input, and its text must not be kept")
        return f"item of {key}"

    def on_result(self, key: str, outcome: Outcome[Any]) -> None:
        """A result is handed out: after it was recorded, once, and in order where asked for."""
        require(key in self.acknowledged, f"{key} was handed out before it was recorded")
        require(self.acknowledged[key] is outcome, f"{key} was handed out with another outcome")
        require(key not in self.handed, f"{key} was handed out twice")
        if self.ordered and self.handed:
            require(
                self.place[key] > self.place[self.handed[-1]],
                f"{key} was handed out after {self.handed[-1]}",
            )
        self.handed.append(key)
        self.point()

    def advance(self, counts: Mapping[Status, int]) -> None:
        """Progress is told of every recorded item."""
        require(sum(counts.values()) > 0, "progress was told of nothing")
        self.point()

    def note(self, text: str) -> None:
        """Progress is told that the run stops."""
        require(self.requests > 0, "the driver says that it stops, but nobody asked")

    # Faults.

    def point(self) -> None:
        """A place where the driver may be killed or asked to stop."""
        self.steps += 1
        require(self.steps < STEPS, "the run does not end")
        self.check()
        if self.rng.random() < self.faults.crash:
            raise DriverCrash
        if self.rng.random() < self.faults.signal:
            self.ask_to_stop()

    def ask_to_stop(self) -> None:
        """Ctrl-C, SIGTERM, or another thread's request."""
        how = self.rng.choice((signal.SIGINT, signal.SIGTERM, None))
        if self.signals == 2:
            # A third one would raise KeyboardInterrupt, which is the crash that is tried anyway.
            return
        if how is None:
            self.requests = max(self.requests, 1)
            self.stop.set()
        elif signal.getsignal(how) not in (signal.default_int_handler, signal.SIG_DFL):
            self.requests += 1
            self.signals += 1
            signal.raise_signal(how)

    # What must hold.

    def settle(self, key: str, step: str, reason: str, attempts: int = 1) -> None:
        """The driver has learnt that the item failed, and must record just that."""
        self.due_outcomes[key] = Outcome(
            Status.FAILED, steps=(Step(step, StepResult.ERROR, reason, attempts=attempts),)
        )

    def unrecorded(self) -> set[str]:
        """Items that this start sent and that are not durable."""
        return {key for key in self.sent_now if key not in self.durable}

    def check(self) -> None:
        """What holds at every step."""
        for key, outcome in self.acknowledged.items():
            require(self.durable.get(key) is outcome, f"{key} was acknowledged and is lost")
        require(
            len(self.unrecorded()) <= self.capacity * self.batch,
            "more items are at risk than may be in flight",
        )
        require(len(self.handed) <= len(self.recorded_now), "more was handed out than recorded")

    def end_of_start(self) -> None:
        """The driver is gone: what it had sent and not recorded may be sent once more."""
        self.check()
        for key in self.unrecorded():
            self.excused[key] += 1

    def check_done(self, summary: RunSummary) -> None:
        """What holds when the driver says that the run is done."""
        self.check()
        require(self.state == "done", f"the run is done, but the store says {self.state}")
        missing = [key for key in self.keys if key not in self.durable]
        require(not missing, f"the run is done without an outcome of {missing}")
        require(
            set(self.durable) == set(self.keys), "there are outcomes of items that do not exist"
        )
        require(summary.recorded == len(self.recorded_now), "the summary counts other items")
        counts = Counter(self.durable[key].status for key in self.recorded_now)
        require(
            {status: n for status, n in summary.counts.items() if n} == dict(counts),
            "the summary counts other statuses",
        )
        require(sorted(self.handed) == sorted(self.recorded_now), "not every result was handed out")
        for key, outcome in self.durable.items():
            require(
                outcome.status.usable == (outcome.value is not None),
                f"{key} is {outcome.status} with the value {outcome.value}",
            )


def simulate(seed: int, store: Callable[[World], FakeStore] = FakeStore) -> World:
    """Start and restart a run until it is done; raises BrokenInvariant where a promise breaks."""
    world = World(seed)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    while True:
        world.new_start()
        executor = FakeExecutor(world)
        summary: RunSummary | None = None
        try:
            summary = drive(
                store(world),
                world.load,
                executor,
                batch=world.batch,
                ordered=world.ordered,
                max_crashes=world.max_crashes,
                progress=world,
                stop=world.stop,
                grace=world.grace,
                clock=world.clock,
                on_result=world.on_result,
            )
            require(not world.storage_failed, "a failed write was passed over")
        except (DriverCrash, StorageError) as error:
            require(
                isinstance(error, DriverCrash) or world.storage_failed, "a write failed by itself"
            )
        except EngineUnavailableError:
            require(executor.cancelled or not executor.tasks, "tasks were left running")
        except InterruptedRunError:
            require(world.requests > 0, "interrupted, but nobody asked")
            require(world.state == "interrupted", f"interrupted, the store says {world.state}")
        after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        require(after == before, "the signal handlers were not restored")
        world.end_of_start()
        if summary is not None:
            world.check_done(summary)
            return world
        world.starts += 1
        if world.starts >= HEALS:
            world.faults = Faults()
