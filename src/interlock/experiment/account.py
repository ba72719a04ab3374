"""One account of a service: whose turn it is, and how many calls are in flight. On one event loop.

Models that are asked through the same account share its limits and stand in one queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from interlock.experiment.pacing import AccountLimits, Pacer
from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.errors import (
    AuthenticationError,
    InterlockError,
    QuotaError,
    TransientError,
)

POLL = 0.02
"""Seconds after which a call that waits looks again: corrections may have made room."""

AHEAD = 0.1
"""Seconds' worth of calls that may wait for their turn; they are begun in the journal already."""

HOPELESS = 3
"""Calls in a row that the account itself made fail, after which nothing more is sent on it."""

LONGEST_WAIT = 3600.0
"""Seconds. A service that asks for a longer wait answers no more in this start: a run that sleeps
for days looks as if it hung."""


def asks_too_long(error: Exception) -> bool:
    """Whether the service asks for a wait that is not worth waiting for."""
    return isinstance(error, TransientError) and (error.wait_seconds or 0.0) > LONGEST_WAIT


class Account:
    """Each counter has one thread that changes it: `begun` the driver's, the others the loop's."""

    def __init__(self, name: str, limits: AccountLimits, clock: Clock = SYSTEM_CLOCK) -> None:
        self.name = name
        self.pacer = Pacer(limits, clock)
        self.clock = clock
        self.begun = 0
        self.passed = 0
        """Calls that had their first turn, or ended without one."""
        self.ended = 0
        self.hopeless: InterlockError | None = None
        self._in_a_row = 0
        self._turn = asyncio.Lock()

    def room(self, promised: int) -> int:
        """How many more calls may be handed over, when `promised` are on their way."""
        if self.hopeless is not None:
            return 0
        free = self.pacer.level - (self.begun - self.ended) - promised
        spacing = self.pacer.spacing
        if spacing > 0:
            # Calls that wait for their turn must be few: a crash lists them as perhaps billed.
            waiting = self.begun - self.passed
            free = min(free, max(1, int(AHEAD / spacing)) - waiting - promised)
        return max(0, free)

    async def turn(self, expected: Callable[[], float]) -> tuple[float, float]:
        """Wait until a request may go; the moment that it goes, and the tokens taken for it.

        `expected` gives the tokens that it will take. It is asked anew at each look, since what
        answers take is learnt meanwhile.
        """
        # The lock is fair, so turns come in order.
        async with self._turn:
            while (wait := self.pacer.delay(tokens := expected())) > 0:
                await asyncio.sleep(min(wait, POLL))
            self.pacer.take(tokens)
        return self.clock.monotonic(), tokens

    def answered(self) -> None:
        """The service answered."""
        self._in_a_row = 0
        self.pacer.answered()

    def failed(self, error: InterlockError, sent_at: float) -> None:
        """The service, or the way to it, failed under what was sent at `sent_at`."""
        if isinstance(error, AuthenticationError | QuotaError) or asks_too_long(error):
            self._in_a_row += 1
            if self._in_a_row >= HOPELESS:
                self.hopeless = error
            return
        self._in_a_row = 0
        wait = getattr(error, "wait_seconds", None)
        if error.code == "rate_limit":
            self.pacer.limited(sent_at, wait)
        elif error.code in ("service", "connection_lost", "deadline"):
            self.pacer.overloaded(sent_at, wait)
