"""A world in which routes run: engines, guards and probes that fail as one seed says.

Each of them notes what it was asked and what it said. From these facts alone, without the route's
own code, the world works out what must become of every row, and compares.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from simulation.route_parts import (
    ACCEPTED_ROW,
    FLAGGED_ROW,
    REFUSED_ROW,
    FakeEngine,
    FakeGuard,
    Probe,
)
from simulation.seeds import require

from interlock.kernel.batch import (
    FAILED,
    FLAGGED,
    NOT_ASKED,
    REFUSED,
    RESULT_CODE,
    STATUS_OF_CODE,
    BatchOutcome,
)
from interlock.kernel.clock import Deadline, ManualClock
from interlock.kernel.limits import NO_RETRY, RetryPolicy
from interlock.kernel.outcome import Evidence, EvidenceKind, Outcome, Status, StepResult, strongest
from interlock.kernel.route import Route, RouteStep


@dataclass
class Facts:
    """What happened at one step of one run."""

    barred: bool = False
    asked: list[int] | None = None
    started: float = 0.0
    ended: float = 0.0
    calls: int = 0
    may_repeat: bool = True
    answer: Any = None
    answered: bool = False
    verdicts: list[dict[int, str]] = field(default_factory=list)
    guard_broke: bool = False
    evidence: tuple[Evidence, ...] = ()


class RouteWorld:
    """One route drawn from a seed, and the facts of the run under way."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.batch = self.rng.random() < 0.5
        self.width = self.rng.choice((None, 2))
        self.trouble = self.rng.choice((0.05, 0.3, 0.6))
        self.serial = 0
        self.steps = tuple(self._step(index) for index in range(self.rng.randint(1, 4)))
        self.route: Route[Any, Any] = Route(
            "simulated",
            self.steps,
            otherwise=self.rng.choice(("refuse", "block", "escalate", "record")),
            clock=self.clock,
            rng=random.Random(self.rng.random()),
        )
        self.new_run()

    def new_run(self) -> None:
        """Forget the run before."""
        self.facts = [Facts() for _ in self.steps]
        self.rows: list[int] = []
        self.at = -1
        self.deadline = Deadline(None, self.clock)

    def happens(self, share: float = 1.0) -> bool:
        """Whether some trouble strikes."""
        return self.rng.random() < self.trouble * share

    def _step(self, index: int) -> RouteStep:
        rng = self.rng
        limited = rng.random() < 0.4
        timed = rng.random() < 0.5
        return RouteStep(
            name=f"step{index}",
            engine=FakeEngine(self, index),
            guards=tuple(FakeGuard(self, index, k) for k in range(rng.choice((0, 1, 1, 2, 3)))),
            available=Probe(self, index, "available") if rng.random() < 0.4 else None,
            size=Probe(self, index, "size") if limited else None,
            size_limit=10.0 if limited else None,
            predicted_seconds=Probe(self, index, "predicted") if timed else None,
            time_limit=rng.choice((0.5, 2.0)) if timed else None,
            retry=rng.choice((NO_RETRY, RetryPolicy(retries=2, first=0.2, longest=1.0))),
            evidence=(Evidence(EvidenceKind.ATTESTED, f"step{index}"),)
            if rng.random() < 0.3
            else (),
        )

    # The facts as they come in.

    def enter(self, index: int) -> Facts:
        """Something of step `index` is called: never an earlier one than before."""
        require(index >= self.at, f"step {index} is asked after step {self.at}")
        self.at = index
        return self.facts[index]

    def ask(self, index: int, rows: list[int]) -> Facts:
        """The engine of step `index` is asked about `rows`."""
        facts = self.enter(index)
        require(not facts.barred, f"step {index} is asked though it is not available")
        require(
            not facts.calls or facts.may_repeat, f"step {index} is asked again without a reason"
        )
        require(facts.calls <= self.steps[index].retry.retries, f"step {index} retries too often")
        if not facts.calls:
            require(not self.deadline.expired, f"step {index} is asked after the deadline")
            facts.started = self.clock.monotonic()
        require(
            rows == [row for row in self.rows if not self.answered_before(row, index)],
            f"step {index} is asked about {rows}, others are waiting",
        )
        facts.calls += 1
        facts.asked = rows
        facts.may_repeat = False
        return facts

    # What must become of each row.

    def malformed(self, index: int) -> bool:
        """Whether the answer of step `index` does not fit its rows or the answers before."""
        answer = self.facts[index].answer
        rows = self.facts[index].asked or []
        if not self.batch:
            return False
        if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "biufc":
            return True
        if answer.shape[:1] != (len(rows),):
            return True
        for earlier in range(index):
            if any(self.verdict(earlier, row) for row in self.facts[earlier].asked or []):
                before = self.facts[earlier].answer
                return bool(
                    before.shape[1:] != answer.shape[1:] or before.dtype.kind != answer.dtype.kind
                )
        return False

    def late(self, index: int) -> bool:
        """Whether step `index` ended after its limit or the deadline."""
        facts, limit = self.facts[index], self.steps[index].time_limit
        over = limit is not None and facts.ended - facts.started >= limit
        return over or (self.deadline.at is not None and facts.ended >= self.deadline.at)

    def judged(self, index: int, row: int) -> str | None:
        """What the guards of step `index` made of its answer to `row`; None for no judgement."""
        facts = self.facts[index]
        if facts.barred or not facts.answered or facts.guard_broke or self.malformed(index):
            return None
        assert facts.asked is not None
        value = facts.answer[facts.asked.index(row)] if self.batch else facts.answer
        if value is None or not np.isfinite(value).all():
            return REFUSED_ROW
        said = [verdict[row] for verdict in facts.verdicts]
        if REFUSED_ROW in said:
            return REFUSED_ROW
        require(
            len(said) == len(self.steps[index].guards),
            f"an answer of step {index} was used that {len(said)} guards saw",
        )
        return FLAGGED_ROW if FLAGGED_ROW in said else ACCEPTED_ROW

    def verdict(self, index: int, row: int) -> str | None:
        """`accepted` or `flagged` where step `index` answers `row`, else None."""
        said = self.judged(index, row)
        return None if said == REFUSED_ROW or self.late(index) else said

    def answered_before(self, row: int, index: int) -> bool:
        """Whether a step before `index` answered `row`."""
        return any(self.verdict(k, row) for k in range(index) if row in (self.facts[k].asked or []))

    def expected(self, row: int) -> tuple[Status, int, Any]:
        """The status that `row` ends in, the step that answers it (-1 for none), its value."""
        refused = False
        for index, facts in enumerate(self.facts):
            if row not in (facts.asked or []):
                continue
            said = self.verdict(index, row)
            if said is not None:
                assert facts.asked is not None
                value = facts.answer[facts.asked.index(row)] if self.batch else facts.answer
                return Status(said), index, value
            # A refusal counts even where it came late: an engine answered, and a guard objected.
            refused = refused or self.judged(index, row) == REFUSED_ROW
        return (Status.REFUSED if refused else Status.FAILED), -1, None

    # Running and comparing.

    def run_once(self) -> None:
        """One item or one batch through the route; BrokenInvariant where a promise breaks."""
        self.new_run()
        self.rows = list(range(self.rng.choice((0, 1, 5, 12)))) if self.batch else [0]
        if self.rng.random() < 0.3:
            self.deadline = Deadline.after(self.rng.uniform(0.0, 4.0), self.clock)
        if self.batch:
            ids = np.array(self.rows, dtype=np.int64)
            inputs = {"id": ids, "x": np.ones((len(ids), 2))}
            outcome = self.route.run_batch(inputs, deadline=self.deadline)
            self.check_batch(outcome)
            return
        self.check_single(self.route.run(0, deadline=self.deadline))

    def check_single(self, outcome: Outcome[Any]) -> None:
        """The outcome is what the facts say."""
        status, index, value = self.expected(0)
        require(outcome.status is status, f"the item is {outcome.status}, not {status}")
        require(outcome.status.usable == (outcome.value is not None), "a value without a status")
        if outcome.status.usable:
            require(
                np.array_equal(np.asarray(outcome.value), np.asarray(value)),
                "the value is not the answer judged",
            )
            require(len(outcome.steps) == index + 1, "steps after the one that answered")
            known = self.facts[index].evidence + self.steps[index].evidence
            require(outcome.steps[-1].evidence == known, "the evidence is another's")
            require(outcome.evidence == strongest(known), "the evidence is not the strongest")
        else:
            require(len(outcome.steps) == len(self.steps), "not every step was tried")
        require((outcome.action is None) == outcome.status.usable, "an action beside an answer")
        for number, step in enumerate(outcome.steps):
            facts = self.facts[number]
            require(step.name == f"step{number}", "the steps are out of order")
            require(step.attempts == facts.calls, "the attempts are miscounted")
            require(
                step.result.answered == (number == index), "a step's result contradicts the outcome"
            )
            require(step.result is StepResult.ACCEPTED or bool(step.reason), "no reason is given")
        read = Outcome.from_json(outcome.to_json())
        require(read.steps == outcome.steps, "JSON changes the steps")

    def check_batch(self, outcome: BatchOutcome) -> None:
        """The arrays are what the facts say, and agree with each other."""
        require(len(outcome) == len(self.rows), "rows are missing")
        require(sum(outcome.counts().values()) == len(self.rows), "the counts do not add up")
        require(outcome.value.shape[:1] == (len(self.rows),), "values are missing")
        for row in self.rows:
            status, index, value = self.expected(row)
            code = int(outcome.status[row])
            require(STATUS_OF_CODE[code] is status, f"row {row} has status {code}, not {status}")
            require(int(outcome.step[row]) == index, f"row {row} names another step")
            if code >= FLAGGED:
                require(np.array_equal(outcome.value[row], value), f"row {row} has another value")
            else:
                require(
                    outcome.value.dtype.kind != "f" or bool(np.isnan(outcome.value[row]).all()),
                    f"row {row} has a value without an answer",
                )
                require(code in (FAILED, REFUSED), f"row {row} has status {code}")
            single = outcome.row(row)
            require(single.status is STATUS_OF_CODE[code], f"row {row} alone has another status")
        for number, step in enumerate(outcome.steps):
            self._check_batch_step(number, step, outcome)
        statuses_found = {STATUS_OF_CODE[int(code)] for code in outcome.status}
        worst = next((s for s in STATUS_OF_CODE if s in statuses_found), Status.ACCEPTED)
        require(outcome.summary().status is worst, "the summary is not the worst status")
        read = BatchOutcome.from_json(outcome.to_json())
        for name in ("value", "status", "step", "results", "reasons"):
            before, after = getattr(outcome, name), getattr(read, name)
            require(before.tobytes() == after.tobytes(), f"JSON changes '{name}'")

    def _check_batch_step(self, number: int, step: Any, outcome: BatchOutcome) -> None:
        waiting = [row for row in self.rows if not self.answered_before(row, number)]
        codes = outcome.results[number]
        asked = [row for row in self.rows if codes[row] != NOT_ASKED]
        require(asked == waiting, f"step {number} saw rows {asked}, {waiting} were waiting")
        require(step.rows == len(waiting), f"step {number} miscounts its rows")
        require(sum(step.counts.values()) == step.rows, f"step {number}: counts do not add up")
        require(sum(step.reasons.values()) == step.rows, f"step {number}: reasons do not add up")
        for result, rows in step.counts.items():
            found = int(np.count_nonzero(codes == RESULT_CODE[StepResult(result)]))
            require(found == rows, f"step {number} counts {rows} {result}, the array has {found}")
        require(step.attempts == self.facts[number].calls, f"step {number} miscounts its attempts")
        used = [row for row in waiting if self.verdict(number, row)] if waiting else []
        known = self.facts[number].evidence + self.steps[number].evidence
        require(step.evidence == (known if used else ()), f"step {number} has other evidence")


def simulate(seed: int) -> RouteWorld:
    """Draw a route and run a few items or batches through it."""
    world = RouteWorld(seed)
    for _ in range(4):
        world.run_once()
    return world
