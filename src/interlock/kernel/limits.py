"""Pacing and retries, on an injected monotonic clock.

A retry repeats the same call after a transient error; taking another engine is a fallback and
belongs to `interlock.kernel.route`.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from interlock.kernel.clock import NO_DEADLINE, SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import ConfigError, DeadlineError, InterlockError, TransientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    Before retry k (from 1) stands `ceiling = min(longest, first * factor ** (k - 1))` seconds. With
    `jitter="full"` it waits a random time between 0 and the ceiling; with `"added"` the ceiling and
    up to a tenth of it more, where the wait itself is promised. The wait that the error asks for
    counts where it is longer. Only errors whose `retryable` is true are retried. Full jitter
    follows M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
    """

    retries: int = 3
    first: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    jitter: Literal["full", "added"] = "full"

    def __post_init__(self) -> None:
        """Raise ConfigError for a count, time or factor out of range."""
        if not self.retries >= 0:
            raise ConfigError(f"retries is {self.retries}; it must be 0 or more")
        if not 0 <= self.longest < math.inf:
            raise ConfigError(f"longest is {self.longest}; it must be 0 or more and finite")
        if not 0 <= self.first <= self.longest:
            raise ConfigError(f"first is {self.first}; it must lie in 0 … longest={self.longest}")
        if not 1 <= self.factor < math.inf:
            raise ConfigError(f"factor is {self.factor}; it must be 1 or more and finite")
        if self.jitter not in ("full", "added"):
            raise ConfigError(f"jitter is {self.jitter!r}; it must be 'full' or 'added'")

    def wait_before(self, retry: int, error: Exception, rng: random.Random) -> float:
        """Seconds to wait before retry number `retry` (from 1).

        An asked wait that is negative or NaN counts as none; an infinite one is returned as such.
        """
        try:
            ceiling = min(self.longest, self.first * float(self.factor) ** (retry - 1))
        except OverflowError:
            ceiling = self.longest if self.first else 0.0
        jittered = rng.uniform(0.0, ceiling)
        if self.jitter == "added":
            jittered = ceiling + jittered / 10
        asked = error.wait_seconds if isinstance(error, TransientError) else None
        return jittered if asked is None or not asked > jittered else asked


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
    a wait that would not end before the deadline, or never, is not begun.
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
            if wait >= (math.inf if left is None else left):
                raise
            if on_retry is not None:
                on_retry(retry, wait, error)
        clock.sleep(wait)


@dataclass
class TokenBucket:
    """Pacing by the generic cell rate algorithm (ITU-T I.371): `rate` units a second, `burst` free.

    The first `burst` units pass at once; after that one unit passes every `1 / rate` seconds.
    In any t seconds at most `burst + rate * t` units pass, to within one part in 1e9 of the burst.
    Only the theoretical arrival time is kept, so the memory is constant and nothing ticks.
    Safe across threads.
    """

    rate: float
    burst: float = 1.0
    clock: Clock = SYSTEM_CLOCK
    # The theoretical arrival time, kept as seconds after `_seen`: sums of small numbers round
    # less than sums with a large clock reading.
    _ahead: float = field(default=0.0, init=False, repr=False)
    _seen: float = field(default=-math.inf, init=False, repr=False)
    _paused_until: float = field(default=-math.inf, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise ConfigError where the rate or the burst lets nothing pass."""
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate is {self.rate}; it must be above 0 and finite")
        if not 0 < self.burst < math.inf:
            raise ConfigError(f"burst is {self.burst}; it must be above 0 and finite")
        if not self.burst / self.rate < math.inf:
            raise ConfigError(f"rate is {self.rate}; it never refills a burst of {self.burst}")

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

    def delay(self, units: float = 1.0) -> float:
        """Seconds until `units` would be free, if nothing else takes any; takes nothing.

        Raises ConfigError for more units than the burst.
        """
        self._check(units)
        with self._lock:
            return self._wait(units, self._advance())

    def charge(self, units: float) -> None:
        """Take `units` without a wait: more was used than was taken. They may exceed the burst."""
        self._shift(units)

    def give_back(self, units: float) -> None:
        """Undo the taking of `units` that were not used. No more than the burst becomes free."""
        self._shift(-units)

    def pause(self, seconds: float) -> None:
        """Let nothing pass for `seconds`, as a server's Retry-After asks; zero or less is no pause.

        Raises ConfigError where `seconds` is not finite. What was reserved before keeps its turn.
        """
        if not math.isfinite(seconds):
            raise ConfigError(f"seconds is {seconds}; a pause must be finite")
        if seconds <= 0:
            return
        with self._lock:
            now = self._advance()
            self._paused_until = max(self._paused_until, now + seconds)
            # One unit passes at the end of the pause, not a burst.
            held_back = (self.burst - min(1.0, self.burst)) / self.rate
            self._ahead = max(self._ahead, seconds + held_back)

    def _take(self, units: float, longest: float | None) -> float | None:
        self._check(units)
        with self._lock:
            wait = self._wait(units, self._advance())
            if longest is not None and wait > longest:
                return None
            self._ahead += units / self.rate
            return wait

    def _check(self, units: float) -> None:
        if not 0 <= units <= self.burst:
            raise ConfigError(
                f"units is {units}; it must lie in 0 … burst={self.burst}",
                hint="raise the burst, or split the request",
            )

    def _wait(self, units: float, now: float) -> float:
        wait = self._ahead + (units - self.burst) / self.rate
        # Sums of 1 / rate round; without this slack the last unit of a burst may not pass.
        if wait <= 1e-9 * self.burst / self.rate:
            wait = 0.0
        return max(wait, self._paused_until - now)

    def _shift(self, units: float) -> None:
        if not math.isfinite(units):
            raise ConfigError(f"units is {units}; it must be finite")
        with self._lock:
            self._advance()
            self._ahead = max(0.0, self._ahead + units / self.rate)

    def _advance(self) -> float:
        """Let the time since the last call count, and return the clock's reading."""
        now = self.clock.monotonic()
        self._ahead = max(0.0, self._ahead - max(0.0, now - self._seen))
        self._seen = max(self._seen, now)
        return self._seen
