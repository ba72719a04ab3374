"""What a rollout has seen of both versions, and what it comes to: wait, promote, roll back, hold.

A candidate is bad where a share of its answers (errors; slower than the limit of the P99; refused;
wrong by their labels), of an answer by rows the share of its rows, is above the limit, *and* above
that of the old version at the same time, by half of the limit. The second keeps a slow machine, or
a bad hour of what both depend on, from rolling back a good candidate, and half of the limit one
that is a little worse, and well within it but in that hour. Each of the two is a test of its own
(`interlock.kernel.betting`), and both must reject, so the probability that a candidate that is not
bad is ever rolled back stays below `risk`, divided over the triggers, however often one looks. P99
above the limit is a share of more than 1% above it.

The comparison is by blocks of answers that came next to one another: the mean of the candidate's
minus the mean of the old version's. A block is complete with a fixed number of either; when that
is depends on who asked, not on what was answered. Of a shadow a block is one request, asked of
both.

It is promoted where for each share one of two things is shown: it is below the limit, or it is
less than a margin above the old version's: the limit again, 5 points where there is none. A
candidate that is above both is promoted with a probability below `risk`. One between these is
neither bad nor shown to be good; it is left to a person after `max_requests`.

Memory is no matter of chance: a process above the limit, and a quarter above the old version's, in
all of the last samples is rolled back. One that grows so that it would get there before
`max_requests` is not promoted. After a restart its processes are new, and are looked at anew.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Literal, NamedTuple

import msgspec

from interlock.kernel.betting import MeanTest, MeanTestState
from interlock.kernel.errors import InputError
from interlock.kernel.intervals import wilson_interval
from interlock.serve.rollout.settings import Mode, RolloutSettings

Action = Literal["wait", "promote", "rollback", "hold"]

MARGIN = 0.05
"""Above the rise that is allowed: what a share without a limit may be and still be promoted."""
MEMORY_SAMPLES = 5
MEMORY_FACTOR = 1.25
SLOW_SHARE = 0.01

TRIGGERS = frozenset(
    {"errors", "p99", "memory", "refused", "false_positives", "false_negatives"}
    | {"shown_good", "undecided", "configured", "not_loaded", "stable_changed"}
)
"""Reasons of decisions that the server makes; any other is an operator's."""

# Standard errors above which a slope is one.
_STANDS_OUT = 4.0

# Answers of the old version that one of the candidate is compared with, at most.
_WIDEST = 8
# What may wait for its counterpart; what is older is no longer of the same time.
_PENDING = 64


class Seen(NamedTuple):
    """One answer of one version: its seconds, and which shares of its rows failed and were refused.

    Shares, since a batch with one refused row and one with nothing else would look the same.
    """

    candidate: bool
    error: float
    seconds: float
    refused: float


class Verdict(NamedTuple):
    """What to do, by which trigger, and the numbers behind it."""

    action: Action
    trigger: str
    numbers: dict[str, Any]


class _TriggerState(msgspec.Struct, frozen=True):
    counts: list[float]
    tests: list[MeanTestState | None]


class EvidenceState(msgspec.Struct, frozen=True):
    """Everything that was seen, as plain data; `tested` is what it was tested against."""

    tested: tuple[float, ...]
    triggers: dict[str, _TriggerState]


class _Trigger:
    """One share of both versions, and the four tests on it; a test that cannot be made is None."""

    def __init__(self, limit: float | None, rise: float, block: tuple[int, int]) -> None:
        self.limit, self.rise, self.block = limit, rise, block
        # The candidate's events and answers, the old version's; an event may be one in part.
        self.counts: list[float] = [0, 0, 0, 0]
        self.above = None if limit is None else MeanTest(limit, 0, 1, restarts=True)
        self.worse = None if rise >= 1 else MeanTest(rise, -1, 1, restarts=True)
        self.below = None if limit is None else MeanTest(-limit, -1, 0)
        margin = rise + MARGIN if limit is None else limit
        self.close = None if margin >= 1 else MeanTest(-margin, -1, 1)
        self._mine: deque[float] = deque(maxlen=_PENDING)
        self._theirs: deque[float] = deque(maxlen=_PENDING)
        self._values: list[float] = []
        self._blocks: list[float] = []

    def add(self, candidate: bool, event: float) -> None:
        place = 0 if candidate else 2
        self.counts[place] += event
        self.counts[place + 1] += 1
        if candidate:
            self._values.append(event)
        mine, theirs = self._mine, self._theirs
        (mine if candidate else theirs).append(event)
        if len(mine) >= self.block[0] and len(theirs) >= self.block[1]:
            # Nothing is left over for later: it would be of another time.
            self._blocks.append(sum(mine) / len(mine) - sum(theirs) / len(theirs))
            mine.clear()
            theirs.clear()

    def settle(self) -> None:
        """Work what came since the last time into the tests."""
        values, blocks = self._values, self._blocks
        self._values, self._blocks = [], []
        if self.above is not None:
            self.above.add(values)
        if self.below is not None:
            self.below.add([-float(value) for value in values])
        if self.worse is not None:
            self.worse.add(blocks)
        if self.close is not None:
            self.close.add([-block for block in blocks])

    def is_bad(self, needed: float) -> bool:
        tests = [test for test in (self.above, self.worse) if test is not None]
        return self.worse is not None and all(test.peak >= needed for test in tests)

    def is_good(self, needed: float) -> bool:
        tests = [test for test in (self.below, self.close) if test is not None]
        return not tests or any(test.log_e >= needed for test in tests)

    def numbers(self) -> dict[str, Any]:
        events, answers, theirs, of = self.counts
        found: dict[str, Any] = {"limit": self.limit, "rise": self.rise}
        for name, k, n in (("candidate", events, answers), ("stable", theirs, of)):
            low, high = wilson_interval(round(k), int(n))
            share = k / n if n else None
            found[name] = {
                "events": round(k, 3),
                "answers": int(n),
                "share": share,
                "interval95": [low, high],
            }
        for name in ("above", "worse", "below", "close"):
            test: MeanTest | None = getattr(self, name)
            found[f"log_e_{name}"] = None if test is None else round(test.log_e, 4)
        return found

    def state(self) -> _TriggerState:
        tests = (self.above, self.worse, self.below, self.close)
        kept = [None if test is None else test.state() for test in tests]
        return _TriggerState(list(self.counts), kept)

    def restore(self, state: _TriggerState) -> None:
        tests = (self.above, self.worse, self.below, self.close)
        if len(state.counts) != 4 or len(state.tests) != 4:
            raise InputError("not the state of a trigger")
        for test, kept in zip(tests, state.tests, strict=True):
            if test is not None and kept is not None:
                test.restore(kept)
        self.counts = list(state.counts)


class Evidence:
    """All triggers of one rollout. Pure: time and memory are told. Not safe across threads."""

    def __init__(self, settings: RolloutSettings, mode: Mode, percent: float) -> None:
        self._settings = settings
        block = (1, 1) if mode == "shadow" else _block(percent)
        wrong = settings.rollback_wrong
        self._triggers = {
            "errors": _Trigger(settings.rollback_errors, settings.rollback_errors / 2, block),
            "p99": _Trigger(SLOW_SHARE, SLOW_SHARE / 2, block),
            "refused": _Trigger(None, settings.rollback_refused, block),
            "false_positives": _Trigger(None, wrong, block),
            "false_negatives": _Trigger(None, wrong, block),
        }
        self._memory: deque[tuple[float, float]] = deque(maxlen=MEMORY_SAMPLES)
        self._growth = _Growth()
        self._restored = 0  # answers of processes that run no longer
        self._mode = mode
        self._tested = (
            settings.rollback_errors,
            settings.rollback_p99_ms,
            settings.rollback_refused,
            wrong,
            *block,
        )

    @property
    def answers(self) -> int:
        """Answers of the candidate so far."""
        return int(self._triggers["errors"].counts[1])

    def seen(self, answer: Seen) -> None:
        """Count an answer."""
        self._triggers["errors"].add(answer.candidate, answer.error)
        if answer.error >= 1:
            return  # it is neither a fast answer nor a slow one
        slow = answer.seconds * 1e3 > self._settings.rollback_p99_ms
        self._triggers["p99"].add(answer.candidate, slow)
        self._triggers["refused"].add(answer.candidate, answer.refused)

    def labelled(self, candidate: bool, verdict: bool, truth: bool) -> None:
        """Count a labelled answer: what the version said, and what is true."""
        if truth:
            self._triggers["false_negatives"].add(candidate, not verdict)
        else:
            self._triggers["false_positives"].add(candidate, verdict)

    def memory(self, candidate: float, stable: float) -> None:
        """Count a sample: resident bytes of one process of each version, 0 for unknown."""
        if candidate > 0:
            self._memory.append((candidate, stable))
            if self._warm:
                self._growth.add(self.answers, candidate)

    def judge(self) -> Verdict:
        """What all of it comes to now."""
        settings = self._settings
        for trigger in self._triggers.values():
            trigger.settle()
        if self._too_large():
            return Verdict("rollback", "memory", self.numbers())
        enough = self.answers >= settings.min_requests
        needed = math.log(len(self._triggers) / settings.risk)
        for name, trigger in self._triggers.items():
            if enough and trigger.is_bad(needed):
                return Verdict("rollback", name, self.numbers())
        if enough and self._is_good() and self._stays_small():
            if self._mode == "canary" and settings.promote:
                return Verdict("promote", "shown_good", self.numbers())
            return Verdict("hold", "shown_good", self.numbers())
        if self.answers >= settings.max_requests:
            return Verdict("hold", "undecided", self.numbers())
        return Verdict("wait", "", {})

    def numbers(self) -> dict[str, Any]:
        """Counts, shares with their 95% Wilson intervals, and evidence, for journal and status."""
        settings = self._settings
        return {
            "answers": self.answers,
            "min_requests": settings.min_requests,
            "log_e_to_roll_back": round(math.log(len(self._triggers) / settings.risk), 4),
            "log_e_to_promote": round(math.log(2 / settings.risk), 4),
            "p99_limit_ms": settings.rollback_p99_ms,
            "memory": {
                "limit_mb": settings.rollback_memory_mb,
                "candidate_mb": [round(mine / (1 << 20), 1) for mine, _ in self._memory],
                "stable_mb": [round(theirs / (1 << 20), 1) for _, theirs in self._memory],
            },
            "triggers": {name: trigger.numbers() for name, trigger in self._triggers.items()},
        }

    def state(self) -> EvidenceState:
        """Everything but memory samples and blocks that are not complete; settles first."""
        for trigger in self._triggers.values():
            trigger.settle()
        return EvidenceState(
            self._tested, {name: trigger.state() for name, trigger in self._triggers.items()}
        )

    def restore(self, state: EvidenceState) -> None:
        """Go on where `state` was taken; raises InputError where it does not fit."""
        if (state.tested, set(state.triggers)) != (self._tested, set(self._triggers)):
            raise InputError("what was seen was tested against other limits")
        for name, trigger in self._triggers.items():
            trigger.restore(state.triggers[name])
        self._restored = self.answers

    @property
    def _warm(self) -> bool:
        """Whether the processes that run have answered enough for their memory to say something."""
        return self.answers - self._restored >= self._settings.min_requests

    def _too_large(self) -> bool:
        limit = self._settings.rollback_memory_mb * (1 << 20)
        return len(self._memory) == MEMORY_SAMPLES and all(
            mine > max(limit, MEMORY_FACTOR * theirs) for mine, theirs in self._memory
        )

    def _stays_small(self) -> bool:
        """Whether memory, where it is known, was looked at often enough and does not run away."""
        if not self._memory:
            return True
        if len(self._memory) < MEMORY_SAMPLES or self._growth.samples < MEMORY_SAMPLES:
            return False
        settings = self._settings
        ahead = self._growth.ahead(settings.max_requests)
        theirs = MEMORY_FACTOR * self._memory[-1][1]
        return ahead <= max(settings.rollback_memory_mb * (1 << 20), theirs)

    def _is_good(self) -> bool:
        settings = self._settings
        # Two ways to be shown good, so each has half of the risk.
        needed = math.log(2 / settings.risk)
        wanted = ["errors", "p99", "refused"]
        if settings.min_labels:
            if self._triggers["false_positives"].counts[1] < settings.min_labels:
                return False
            wanted.append("false_positives")
        return all(self._triggers[name].is_good(needed) for name in wanted)


class _Growth:
    """The line through samples of memory over answers, by least squares."""

    def __init__(self) -> None:
        self._n = 0
        self._x = self._y = self._xx = self._xy = self._yy = 0.0

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._n

    def add(self, answers: float, size: float) -> None:
        # Running means and moments, after B. P. Welford, Technometrics 4(3), 1962.
        self._n += 1
        dx, dy = answers - self._x, size - self._y
        self._x += dx / self._n
        self._y += dy / self._n
        self._xx += dx * (answers - self._x)
        self._xy += dx * (size - self._y)
        self._yy += dy * (size - self._y)

    def ahead(self, answers: float) -> float:
        """The size at that many answers, where a growth stands out of the noise; else 0."""
        if self._n < MEMORY_SAMPLES or self._xx <= 0 or self._xy <= 0:
            return 0.0
        slope = self._xy / self._xx
        spread = max(0.0, self._yy - slope * self._xy) / (self._n - 2) / self._xx
        if slope <= _STANDS_OUT * math.sqrt(spread):
            return 0.0
        return self._y + slope * (answers - self._x)


def _block(percent: float) -> tuple[int, int]:
    """Answers of the candidate and of the old version that are compared at a time."""
    if percent > 50:
        return _block(100 - percent)[::-1]
    return 1, max(1, min(_WIDEST, round((100 - percent) / percent)))
