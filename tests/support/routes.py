"""Engines and guards that do what a test tells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline, ManualClock
from interlock.kernel.outcome import Evidence, EvidenceKind, StepResult
from interlock.kernel.route import BatchAnswer, BatchVerdict, Verdict

CHECKED = Evidence(EvidenceKind.CHECKED, "kinematics")


@dataclass
class Says:
    """An engine that answers `value`, raises it if it is an exception, or calls it."""

    value: Any
    takes: float = 0.0
    clock: ManualClock = field(default_factory=ManualClock)
    asked: list[Any] = field(default_factory=list)

    def answer(self, item: Any, *, deadline: Deadline) -> Any:
        """The one answer."""
        self.asked.append(item)
        self.clock.advance(self.takes)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value(item) if callable(self.value) else self.value

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """The same for a batch; an array is taken to be the value."""
        answer = self.answer(inputs, deadline=deadline)
        return BatchAnswer(answer) if isinstance(answer, np.ndarray) else answer


@dataclass
class Judge:
    """A guard that gives the verdict of a function of item and answer."""

    verdict: Callable[[Any, Any], Any]

    def check(self, item: Any, answer: Any) -> Verdict:
        """The verdict on one answer."""
        verdict: Verdict = self.verdict(item, answer)
        return verdict

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """The verdict on a batch."""
        verdict: BatchVerdict = self.verdict(inputs, answer)
        return verdict


def accept(*evidence: Evidence) -> Judge:
    """A guard that accepts everything."""
    return Judge(lambda item, answer: Verdict(evidence=evidence))


def flag(reason: str) -> Judge:
    """A guard that flags everything."""
    return Judge(lambda item, answer: Verdict(StepResult.FLAGGED, reason))


def refuse(reason: str) -> Judge:
    """A guard that refuses everything."""
    return Judge(lambda item, answer: Verdict(StepResult.REFUSED, reason))
