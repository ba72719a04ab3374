"""Time as a dependency, so that waiting, pacing and deadlines can be tested without waiting."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from interlock.kernel.errors import ConfigError, DeadlineError


class Clock(Protocol):
    """A monotonic clock for durations, and the wall clock for time stamps."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back, whatever the wall clock does."""
        ...

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; returns at once for zero, less or NaN."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        # An event's wait has a longest time, and can be interrupted on every platform.
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            threading.Event().wait(min(left, threading.TIMEOUT_MAX))


class ManualClock:
    """A clock that moves only when told, for tests and simulations. Safe across threads."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        with self._lock:
            return self._elapsed

    def now(self) -> datetime:
        """The start plus what was advanced."""
        return datetime.fromtimestamp(self._start.timestamp() + self.monotonic(), UTC)

    def sleep(self, seconds: float) -> None:
        """Advance by `seconds` at once."""
        if seconds > 0:
            self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; raises ConfigError for a negative or non-finite amount."""
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"seconds is {seconds}; a clock advances by 0 or more, and finitely")
        with self._lock:
            self._elapsed += seconds


SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a monotonic clock by which an answer is due; `at=None` means never.

    The moment is read on the deadline's own clock, whatever clock its holder paces itself by.
    """

    at: float | None
    clock: Clock = SYSTEM_CLOCK

    @classmethod
    def after(cls, seconds: float | None, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline `seconds` from now; None for no deadline. Raises ConfigError for NaN."""
        if seconds is not None and math.isnan(seconds):
            raise ConfigError("seconds is nan; a deadline needs a number or None")
        return cls(None if seconds is None else clock.monotonic() + seconds, clock)

    def remaining(self) -> float | None:
        """Seconds left, never below zero; None where there is no deadline."""
        return None if self.at is None else max(0.0, self.at - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return self.at is not None and self.clock.monotonic() >= self.at

    def earlier(self, seconds: float | None) -> Deadline:
        """This deadline, or the one `seconds` from now, whichever comes first."""
        other = Deadline.after(seconds, self.clock)
        if self.at is None or (other.at is not None and other.at < self.at):
            return other
        return self

    def check(self, what: str) -> None:
        """Raise DeadlineError, naming `what`, where the moment has come."""
        if self.expired:
            raise DeadlineError(f"{what}: the deadline has passed")


NO_DEADLINE = Deadline(None)
