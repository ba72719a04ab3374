"""Which version a request meets, and what is noted of it; replaced as a whole, never changed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from interlock.kernel.batch import STATUS_OF_CODE, Array, BatchOutcome
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import ServiceError
from interlock.kernel.outcome import Status
from interlock.serve.rollout.evidence import Seen
from interlock.serve.rollout.settings import Mode
from interlock.serve.rollout.sticky import place_of
from interlock.serve.served import Answer, agrees

if TYPE_CHECKING:
    from interlock.serve.version import Version

# What may wait for the next look at it; a server that is never looked at must not grow.
_MOST_NOTED = 100_000
# Larger answers are not compared: that would hold up other requests.
_MOST_COMPARED = 1 << 20
_LEAST_PAUSE = 0.01
RTOL, ATOL = 1e-3, 1e-5
_FAILED, _REFUSED, _ACCEPTED = (
    STATUS_OF_CODE.index(status) for status in (Status.FAILED, Status.REFUSED, Status.ACCEPTED)
)
MOST_ROWS = 1024
"""Rows of an answer whose verdicts are remembered."""


# From a status's code to a verdict, where no output gives one.
_BY_STATUS = bytes({_FAILED: 2, _ACCEPTED: 0}.get(code, 1) for code in range(256))


@dataclass(eq=False)
class Watch:
    """What is noted of one rollout's answers until it is judged.

    shadow  how many were asked of a shadow as well: compared, same, dropped, failed
    """

    rollout: str
    mode: Mode
    limit_seconds: float
    pending: int
    seen: deque[Seen] = field(default_factory=lambda: deque(maxlen=_MOST_NOTED))
    labels: deque[tuple[bool, bool, bool]] = field(
        default_factory=lambda: deque(maxlen=_MOST_NOTED)
    )
    shadow: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("compared", "same", "dropped", "failed"), 0)
    )
    asked: dict[str, int] = field(default_factory=lambda: {"candidate": 0, "stable": 0})
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


@dataclass(frozen=True)
class Traffic:
    """The versions of a model and who meets which.

    percent  of the clients that meet the candidate, by the hash with `salt`
    watch    of the rollout under way; None where there is none
    """

    stable: Version
    candidate: Version | None = None
    percent: float = 0.0
    salt: str = ""
    watch: Watch | None = None

    def takes(self, client: str) -> bool:
        """Whether a client meets the candidate."""
        return (
            self.candidate is not None
            and self.watch is not None
            and self.watch.mode == "canary"
            and place_of(self.salt, client) < self.percent
        )

    def pick(self, client: str, digest: str | None) -> Pick | None:
        """The version that answers this request; the caller must `leave` it.

        digest  the version that is asked for by name; such an answer is not counted

        None where the version has been retired in this moment; ask the newer traffic.
        """
        if digest is not None:
            named = self.candidate
            if named is None or named.digest != digest:
                named = self.stable
            return Pick(self, named, named is not self.stable, None) if named.enter() else None
        candidate = self.takes(client)
        version = self.candidate if candidate else self.stable
        assert version is not None
        return Pick(self, version, candidate, self.watch) if version.enter() else None


@dataclass
class Pick:
    """A request and the one version that answers it.

    shadow  what the shadow said, once it has; None where it was not asked
    began   `time.perf_counter` when the version was asked
    """

    traffic: Traffic
    version: Version
    candidate: bool
    watch: Watch | None
    shadow: asyncio.Future[Answer] | None = None
    began: float = 0.0

    def leave(self) -> None:
        """The request is done with the version."""
        self.version.leave()

    def note(self, *, error: bool, seconds: float) -> None:
        """Count an answer that was not asked for by `ask`, such as a text that was streamed."""
        if self.watch is not None and self.watch.mode == "canary":
            self.watch.asked["candidate" if self.candidate else "stable"] += 1
            self.watch.seen.append(Seen(self.candidate, error, seconds, False))

    def left(self, seconds: float) -> None:
        """The client left, after a wait of `seconds`: where that was too long, a slow answer."""
        if self.watch is not None and seconds > self.watch.limit_seconds:
            self.note(error=False, seconds=seconds)

    @property
    def rollout(self) -> str:
        """Of which rollout the answer is; empty where it is of none."""
        return "" if self.watch is None else self.watch.rollout

    def check_room(self) -> None:
        """`Lane.check_room`, unless a rollout watches, which is to hear of refusals from `ask`."""
        if self.watch is None:
            self.version.lane.check_room()

    async def ask(
        self, inputs: Mapping[str, Array], rows: int, deadline: Deadline, *, patience: float = 0.0
    ) -> Answer:
        """The answer of its version, noted for the rollout; a shadow is asked beside it.

        patience  seconds to wait for a place in a queue that is full; such a wait is no error of
                  the version and no part of its time
        """
        watch = self.watch
        if watch is None:
            return await self._in_turn(inputs, rows, deadline, patience)
        watch.asked["candidate" if self.candidate else "stable"] += 1
        if watch.mode == "shadow":
            return await self._ask_both(watch, inputs, rows, deadline, patience)
        try:
            answer = await self._in_turn(inputs, rows, deadline, patience)
        except asyncio.CancelledError:
            if (waited := self._seconds()) > watch.limit_seconds:
                watch.seen.append(Seen(self.candidate, False, waited, False))
            raise
        except Exception:
            watch.seen.append(Seen(self.candidate, True, self._seconds(), False))
            raise
        watch.seen.append(_seen(self.candidate, answer, self._seconds()))
        return answer

    async def _in_turn(
        self, inputs: Mapping[str, Array], rows: int, deadline: Deadline, patience: float
    ) -> Answer:
        until = time.monotonic() + patience
        while True:
            self.began = time.perf_counter()
            try:
                return await self.version.lane.ask(inputs, rows, deadline)
            except ServiceError as error:
                pause = max(_LEAST_PAUSE, error.wait_seconds or 0.0)
                if time.monotonic() + pause > until:
                    raise
                await asyncio.sleep(pause)

    def _seconds(self) -> float:
        return time.perf_counter() - self.began

    async def _ask_both(
        self,
        watch: Watch,
        inputs: Mapping[str, Array],
        rows: int,
        deadline: Deadline,
        patience: float,
    ) -> Answer:
        stable, shadow = self.version, self.traffic.candidate
        assert shadow is not None
        # The old version's requests go first: under load the shadow is left out.
        if (
            len(watch.tasks) >= watch.pending
            or shadow.lane.waiting
            or stable.lane.waiting
            or not shadow.enter()
        ):
            watch.shadow["dropped"] += 1
            return await self._in_turn(inputs, rows, deadline, patience)
        loop = asyncio.get_running_loop()
        told: asyncio.Future[tuple[Seen, Answer | None]] = loop.create_future()
        self.shadow = loop.create_future()
        task = loop.create_task(
            _ask_shadow(watch, shadow, inputs, rows, deadline, told, self.shadow)
        )
        watch.tasks.add(task)
        task.add_done_callback(watch.tasks.discard)
        try:
            answer = await self._in_turn(inputs, rows, deadline, patience)
        except Exception:
            told.set_result((Seen(False, True, self._seconds(), False), None))
            raise
        except BaseException:
            told.cancel()
            raise
        told.set_result((_seen(False, answer, self._seconds()), answer))
        return answer


async def _ask_shadow(
    watch: Watch,
    shadow: Version,
    inputs: Mapping[str, Array],
    rows: int,
    deadline: Deadline,
    told: asyncio.Future[tuple[Seen, Answer | None]],
    answered: asyncio.Future[Answer],
) -> None:
    """Ask the shadow, and note both answers together, so that they are compared as a pair."""
    answer: Answer | None = None
    began = time.perf_counter()
    try:
        try:
            answer = await shadow.lane.ask(inputs, rows, deadline)
            mine = _seen(True, answer, time.perf_counter() - began)
        except Exception:  # noqa: BLE001 - whatever it was, the candidate did not answer
            mine = Seen(True, True, time.perf_counter() - began, False)
        finally:
            shadow.leave()
        try:
            theirs, expected = await told
        except asyncio.CancelledError:
            return
        watch.asked["candidate"] += 1
        watch.seen.append(theirs)
        watch.seen.append(mine)
        if answer is None or answer.lost:
            watch.shadow["failed"] += 1
            return
        answered.set_result(answer)
        if expected is None or expected.lost:
            return
        agree = same(expected, answer)
        if agree is not None:
            watch.shadow["compared"] += 1
            watch.shadow["same"] += agree
    finally:
        if not answered.done():
            answered.cancel()


def _seen(candidate: bool, answer: Answer, seconds: float) -> Seen:
    outcome = answer.outcome
    if not isinstance(outcome, BatchOutcome):
        status = outcome.status
        return Seen(candidate, status is Status.FAILED, seconds, status is Status.REFUSED)
    counts, rows = outcome.counts(), max(1, len(outcome))
    failed, refused = counts[Status.FAILED] / rows, counts[Status.REFUSED] / rows
    return Seen(candidate, failed, seconds, refused)


def same(expected: Answer, found: Answer) -> bool | None:
    """Whether two answers agree: every row's status, and every output, floats within 0.1%.

    None where they may, and are too large to compare.
    """
    if isinstance(expected.outcome, BatchOutcome) != isinstance(found.outcome, BatchOutcome):
        return False
    if isinstance(expected.outcome, BatchOutcome) and isinstance(found.outcome, BatchOutcome):
        if not np.array_equal(expected.outcome.status, found.outcome.status):
            return False
    elif expected.summary.status is not found.summary.status:
        return False
    if set(expected.outputs) != set(found.outputs):
        return False
    if sum(array.nbytes for array in expected.outputs.values()) > _MOST_COMPARED:
        return None
    return all(agrees(found.outputs[n], a, RTOL, ATOL) for n, a in expected.outputs.items())


def verdicts(answer: Answer, positive: str | None) -> bytes:
    """A byte a row: 1 where the answer is positive, 0 where negative, 2 where it gave none.

    positive  the output whose truth says so; None: a row is positive where flagged or refused
    """
    outcome = answer.outcome
    batch = isinstance(outcome, BatchOutcome)
    status = (
        outcome.status[:MOST_ROWS].astype(np.uint8).tobytes()
        if isinstance(outcome, BatchOutcome)
        else bytes([STATUS_OF_CODE.index(outcome.status)])
    )
    if positive is None:
        return status.translate(_BY_STATUS)
    values = answer.outputs.get(positive)
    if values is None:
        return bytes([2]) * len(status)
    rows = values[:MOST_ROWS] if batch else [values]
    return bytes(
        2 if code in (_FAILED, _REFUSED) else _true(row)
        for code, row in zip(status, rows, strict=True)
    )


def _true(row: object) -> bool:
    """Whether any value of a row is true: above 0.5, or "true"."""
    values = np.asarray(row)
    if values.dtype.kind in "OU":
        return bool((values == "true").any())
    return bool((values > 0.5).any())
