"""Pacing and retries, on an injected monotonic clock.

A retry repeats the same call after a transient error; taking another engine is a fallback and
belongs to `interlock.kernel.route`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from interlock.kernel.clock import NO_DEADLINE, SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import ConfigError, DeadlineError, InterlockError, TransientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Before retry k (from 1) it waits a random time between 0 and
    `min(longest, first * factor ** (k - 1))` seconds, or the wait that the error asks for where
    that is longer. Only errors whose `retryable` is true are retried. Full jitter follows
    M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
    """

    retries: int = 3
    first: float = 1.0
    factor: float = 2.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a count, time or factor out of range."""
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}; it must be 0 or more")
        if not 0 <= self.first <= self.longest:
            raise ConfigError(f"first is {self.first}; it must lie in 0 … longest={self.longest}")
        if not self.factor >= 1:
            raise ConfigError(f"factor is {self.factor}; it must be 1 or more")

    def wait_before(self, retry: int, error: Exception, rng: random.Random) -> float:
        """Seconds to wait before retry number `retry` (from 1)."""
        # The exponent is capped so that a large retry count cannot overflow a float.
        ceiling = min(self.longest, self.first * self.factor ** min(retry - 1, 64))
        asked = error.wait_seconds if isinstance(error, TransientError) else None
        return max(asked or 0.0, rng.uniform(0.0, ceiling))


NO_RETRY = RetryPolicy(retries=0)


def call_with_retry(
    call: Callable[[], T],
    policy: RetryPolicy = NO_RETRY,
    *,
    clock: Clock = SYSTEM_CLOCK,
    deadline: Deadline = NO_DEADLINE,
    rng: random.Random | None = None,
    on_retry: Callable[[int, float, InterlockError], None] | None = None,
) -> T:
    """Call until it succeeds, the error is not retryable, the retries are used up or time is.

    `on_retry(k, wait, error)` is told before each wait. Raises the last error of `call`;
    a wait that would end after the deadline is not begun.
    """
    rng = rng if rng is not None else random.Random()
    retry = 0
    while True:
        try:
            return call()
        except InterlockError as error:
            retry += 1
            if not error.retryable or retry > policy.retries:
                raise
            wait = policy.wait_before(retry, error, rng)
            left = deadline.remaining()
            if left is not None and wait >= left:
                raise
            if on_retry is not None:
                on_retry(retry, wait, error)
        clock.sleep(wait)


@dataclass
class TokenBucket:
    """Pacing by the generic cell rate algorithm (ITU-T I.371): `rate` units a second, `burst` free.

    The first `burst` units pass at once; after that one unit passes every `1 / rate` seconds.
    Only the theoretical arrival time is kept, so the memory is constant and nothing ticks.
    Safe across threads.
    """

    rate: float
    burst: float = 1.0
    clock: Clock = SYSTEM_CLOCK
    _arrival: float | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise ConfigError where the rate or the burst lets nothing pass."""
        if not 0 < self.rate < float("inf"):
            raise ConfigError(f"rate is {self.rate}; it must be above 0 and finite")
        if not 0 < self.burst < float("inf"):
            raise ConfigError(f"burst is {self.burst}; it must be above 0 and finite")

    def reserve(self, units: float = 1.0) -> float:
        """Take `units` and return the seconds to wait before using them.

        Raises ConfigError for more units than the burst, which no wait would make available.
        """
        wait = self._take(units, longest=None)
        assert wait is not None
        return wait

    def try_acquire(self, units: float = 1.0) -> bool:
        """Take `units` if they are free now; otherwise take nothing and return False."""
        return self._take(units, longest=0.0) is not None

    def acquire(self, units: float = 1.0, deadline: Deadline = NO_DEADLINE) -> float:
        """Take `units`, wait until they may be used, and return the seconds waited.

        Raises DeadlineError, taking nothing, where the wait would end after the deadline.
        """
        left = deadline.remaining()
        wait = self._take(units, longest=left)
        if wait is None:
            raise DeadlineError(f"pacing: {units:g} units are not free within {left:.3f} s")
        self.clock.sleep(wait)
        return wait

    def pause(self, seconds: float) -> None:
        """Let nothing pass for `seconds`, as a server's Retry-After asks."""
        with self._lock:
            now = self.clock.monotonic()
            # Full again only at the end of the pause: one unit passes then, not a burst.
            floor = now + seconds + (self.burst - 1.0) / self.rate
            self._arrival = max(self._arrival if self._arrival is not None else now, floor)

    def _take(self, units: float, longest: float | None) -> float | None:
        if not 0 <= units <= self.burst:
            raise ConfigError(
                f"units is {units}; it must lie in 0 … burst={self.burst}",
                hint="raise the burst, or split the request",
            )
        with self._lock:
            now = self.clock.monotonic()
            arrival = max(self._arrival if self._arrival is not None else now, now)
            ready = arrival + (units - self.burst) / self.rate
            wait = max(0.0, ready - now)
            if longest is not None and wait > longest:
                return None
            self._arrival = arrival + units / self.rate
            return wait
