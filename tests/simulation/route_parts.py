"""Engines, guards and probes that fail as one seed says, and note what they were asked and said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from simulation.seeds import require

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError, InterlockError, TransientError
from interlock.kernel.outcome import Evidence, EvidenceKind, StepResult
from interlock.kernel.route import BatchAnswer, BatchVerdict, Verdict

if TYPE_CHECKING:
    from simulation.route_world import Facts, RouteWorld

ACCEPTED_ROW, FLAGGED_ROW, REFUSED_ROW = "accepted", "flagged", "refused"
VERDICT = {
    ACCEPTED_ROW: StepResult.ACCEPTED,
    FLAGGED_ROW: StepResult.FLAGGED,
    REFUSED_ROW: StepResult.REFUSED,
}


@dataclass
class Probe:
    """A step's check before its engine is asked."""

    world: RouteWorld
    index: int
    kind: str

    def __call__(self, *item: Any) -> Any:
        """A reason, a size or a forecast; sometimes above the limit, sometimes broken."""
        facts = self.world.enter(self.index)
        require(not facts.calls, "a step is checked after it was asked")
        if not self.world.happens():
            return None if self.kind == "available" else 0.1
        facts.barred = True
        if self.world.happens():
            raise OSError("the probe broke")
        if self.kind == "available":
            return "it is being serviced"
        return self.world.rng.choice((11.0, float("nan"), float("inf")))


@dataclass
class FakeEngine:
    """Answers with numbers that occur once, so that each can be traced; or does not."""

    world: RouteWorld
    index: int

    def answer(self, item: Any, *, deadline: Deadline) -> Any:
        """One answer."""
        facts = self.world.ask(self.index, [item])
        self._work(facts)
        facts.answer = self._numbers(1)[0]
        if self.world.happens(0.5):
            bad = (None, float("nan"), np.full(2, np.inf))
            facts.answer = self.world.rng.choice(bad)
        facts.answered = True
        facts.ended = self.world.clock.monotonic()
        return facts.answer

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """One answer a row."""
        rows = [int(row) for row in inputs["id"]]
        require(inputs["x"].shape == (len(rows), 2), "the inputs disagree")
        facts = self.world.ask(self.index, rows)
        self._work(facts)
        value: Any = self._numbers(len(rows))
        rng = self.world.rng
        if self.world.happens(0.5):
            value = value.astype(np.float32)
        if self.world.happens():
            value[[rng.random() < 0.4 for _ in rows]] = rng.choice((np.nan, np.inf))
        if self.world.happens(0.3):
            value = rng.choice(
                (
                    self._numbers(len(rows) + 1),
                    np.array(1.0),
                    value.tolist(),
                    np.ones((len(rows), 3)),
                    np.full(len(rows), "text"),
                    np.arange(len(rows)),
                    None,
                )
            )
        facts.answer, facts.answered = value, True
        facts.ended = self.world.clock.monotonic()
        return BatchAnswer(value)

    def _work(self, facts: Facts) -> None:
        """Take time; perhaps fail."""
        world = self.world
        world.clock.advance(world.rng.choice((0.0, 0.125, 0.375)))
        if world.happens(0.5):
            world.clock.advance(world.rng.choice((0.75, 1.75)))
        if world.happens(0.7):
            error: Exception = world.rng.choice(
                (
                    ValueError("text that must not be kept"),
                    EngineError("no answer"),
                    TransientError("busy"),
                    TransientError("busy", wait_seconds=0.3),
                )
            )
            facts.may_repeat = isinstance(error, InterlockError) and error.retryable
            raise error

    def _numbers(self, rows: int) -> Array:
        width = self.world.width
        shape = (rows,) if width is None else (rows, width)
        size = rows * (width or 1)
        first = self.world.serial
        self.world.serial += size
        return np.arange(first, first + size, dtype=np.float64).reshape(shape)


@dataclass
class FakeGuard:
    """Accepts, flags, refuses or breaks."""

    world: RouteWorld
    index: int
    number: int

    def check(self, item: Any, answer: Any) -> Verdict:
        """The verdict on one answer."""
        facts = self._look(answer)
        said = self._say()
        facts.verdicts.append({item: said})
        evidence = self._evidence() if said != REFUSED_ROW else ()
        facts.evidence += evidence
        return Verdict(VERDICT[said], f"{said} by guard {self.number}", evidence)

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """The verdict on each row."""
        facts = self._look(answer.value)
        rows = [int(row) for row in inputs["id"]]
        require(rows == facts.asked, "a guard sees other rows than its engine")
        said = {row: self._say() for row in rows}
        facts.verdicts.append(said)
        masks: dict[str, Any] = {
            kind: np.array([said[row] == kind for row in rows], dtype=np.bool_)
            for kind in (REFUSED_ROW, FLAGGED_ROW)
        }
        if self.world.happens(0.2):
            facts.guard_broke = True
            masks[REFUSED_ROW] = self.world.rng.choice(
                (masks[REFUSED_ROW].astype(np.int64), np.zeros(len(rows) + 1, np.bool_), [True])
            )
        evidence = self._evidence()
        facts.evidence += evidence
        return BatchVerdict(
            refuse={f"guard {self.number} refuses": masks[REFUSED_ROW]},
            flag={f"guard {self.number} flags": masks[FLAGGED_ROW]},
            evidence=evidence,
        )

    def _look(self, answer: Any) -> Facts:
        world = self.world
        facts = world.enter(self.index)
        require(facts.answered, "a guard is asked before its engine answered")
        require(not world.malformed(self.index), "a guard sees an answer that does not fit")
        require(np.array_equal(answer, facts.answer, equal_nan=True), "a guard sees another answer")
        world.clock.advance(world.rng.choice((0.0, 0.0, 0.25)))
        facts.ended = world.clock.monotonic()
        if world.happens(0.2):
            facts.guard_broke = True
            raise KeyError("the guard broke")
        return facts

    def _say(self) -> str:
        if not self.world.happens():
            return ACCEPTED_ROW
        return self.world.rng.choice((FLAGGED_ROW, REFUSED_ROW))

    def _evidence(self) -> tuple[Evidence, ...]:
        if self.world.rng.random() < 0.5:
            return ()
        return (Evidence(EvidenceKind.CHECKED, f"guard {self.index}.{self.number}"),)
