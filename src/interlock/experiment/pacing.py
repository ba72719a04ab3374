"""What one account lets pass, and how many calls it bears at once: bookkeeping without waiting.

Declared limits of requests and tokens a minute are kept by token buckets (GCRA). A limit that was
not declared is found: after the first 429 the rate is what the service took until then, each
further one lowers it, and time without one raises it again. The level of calls in flight starts
low and grows with answers, and an overloaded service halves it, as TCP does with its window.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.errors import ConfigError
from interlock.kernel.limits import TokenBucket

MINUTE = 60.0
BURST_SECONDS = 0.5
"""A burst that is not declared: what half a second lets pass. Services refill continuously and
commonly take a second's worth at once, so this much stays in hand for what the network delays."""

FIRST_LEVEL = 8
MOST_LEVEL = 64
LONGEST_PAUSE = 120.0

_CUT = 0.9
_GROWTH = 0.08
_SLOWEST = 1 / 60
_WINDOW = 4.0
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What was declared of an account; None where nothing was.

    requests, tokens  a minute
    burst             requests that may pass at once
    concurrency       calls in flight
    """

    requests: float | None = None
    tokens: float | None = None
    burst: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a limit that lets nothing pass."""
        for name in ("requests", "tokens", "burst", "concurrency"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be above 0 and finite")


class MinuteWindow:
    """At most `most` passes in any 60 seconds, by the times of the last ones; 8 bytes a pass."""

    def __init__(self, most: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._times: deque[float] = deque(maxlen=most)
        self._most = most
        self._clock = clock

    def delay(self) -> float:
        """Seconds until one more may pass."""
        if len(self._times) < self._most:
            return 0.0
        return max(0.0, self._times[0] + MINUTE - self._clock.monotonic())

    def take(self) -> None:
        """One passes."""
        self._times.append(self._clock.monotonic())


class RequestPace:
    """So many requests a minute, of which `burst` may pass at once; never more in any minute.

    `spacing` is the seconds between two of them over time. A bucket alone would let the burst pass
    in addition to a minute's refill.
    """

    def __init__(self, a_minute: float, burst: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.spacing = MINUTE / a_minute
        self._bucket = TokenBucket(a_minute / MINUTE, max(1.0, min(burst, a_minute)), clock)
        whole = math.floor(a_minute)
        self._window = MinuteWindow(whole, clock) if whole > 1 and burst > 1 else None

    def delay(self) -> float:
        """Seconds until one more may pass."""
        wait = self._bucket.delay()
        return wait if self._window is None else max(wait, self._window.delay())

    def take(self) -> None:
        """One passes."""
        self._bucket.charge(1.0)
        if self._window is not None:
            self._window.take()


class FoundRate:
    """The rate of a limit that nobody declared, in requests a second; None until a 429 came."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.rate: float | None = None
        self._clock = clock
        self._next = -math.inf
        self._sent: deque[float] = deque(maxlen=_KEPT)
        self._limited: deque[float] = deque(maxlen=_KEPT)
        self._cut = -math.inf

    def delay(self) -> float:
        """Seconds until one more may pass."""
        return 0.0 if self.rate is None else max(0.0, self._next - self._clock.monotonic())

    def take(self) -> None:
        """One passes."""
        now = self._clock.monotonic()
        self._sent.append(now)
        if self.rate is not None:
            # One request late is made up for; more would be a burst.
            self._next = max(self._next, now - 1 / self.rate) + 1 / self.rate

    def answered(self) -> None:
        """A request was taken: grow, the faster the longer the last cut is ago."""
        if self.rate is not None:
            quiet = 1 + self._clock.monotonic() - self._cut
            self.rate *= 1 + min(0.05, _GROWTH * quiet / max(1.0, self.rate))

    def limited(self, sent_at: float) -> None:
        """A request that was sent at `sent_at` came back with a 429."""
        self._limited.append(sent_at)
        if sent_at <= self._cut:
            return  # it was under way when the rate was cut
        now = self._clock.monotonic()
        start = max(self._cut, now - _WINDOW, self._sent[0] if self._sent else now)
        taken = sum(t >= start for t in self._sent) - sum(t >= start for t in self._limited)
        if self.rate is None:
            # What was taken in the first moment may be a burst, so it counts for a second.
            self.rate = max(1, taken) / max(now - start, 1.0)
        else:
            seen = taken / max(now - start, 1e-3) if taken >= 8 else math.inf
            self.rate = max(_SLOWEST, min(self.rate * _CUT, max(seen, self.rate / 2)))
        self._cut = now


class Pacer:
    """All that holds one account back. Not for several threads at once.

    `level` is how many calls may be in flight.
    """

    def __init__(self, limits: AccountLimits, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._requests: RequestPace | None = None
        if limits.requests is not None:
            burst = limits.burst or limits.requests / MINUTE * BURST_SECONDS
            self._requests = RequestPace(limits.requests, burst, clock)
        self._tokens: TokenBucket | None = None
        self._usual = 0.0
        if limits.tokens is not None:
            rate = limits.tokens / MINUTE
            self._tokens = TokenBucket(rate, max(1.0, rate * BURST_SECONDS), clock)
            self._usual = self._tokens.burst
        self._found = FoundRate(clock)
        self._paused_until = -math.inf
        self._most = limits.concurrency or MOST_LEVEL
        self._level = float(limits.concurrency or min(FIRST_LEVEL, self._most))
        self._growing = True
        self._cut = -math.inf

    @property
    def level(self) -> int:
        """Calls that may be in flight now."""
        return max(1, int(self._level))

    @property
    def spacing(self) -> float:
        """Seconds between two requests at the known rates; 0 where none is known."""
        known = [0.0]
        if self._requests is not None:
            known.append(self._requests.spacing)
        if self._tokens is not None:
            known.append(self._usual / self._tokens.rate)
        if self._found.rate is not None:
            known.append(1 / self._found.rate)
        return max(known)

    def delay(self, tokens: float) -> float:
        """Seconds until a request of about so many tokens may be sent, if none is sent before."""
        wait = max(self._found.delay(), self._paused_until - self._clock.monotonic(), 0.0)
        if self._requests is not None:
            wait = max(wait, self._requests.delay())
        if self._tokens is not None:
            # A request above the burst passes when the bucket is full, and leaves a debt.
            wait = max(wait, self._tokens.delay(min(tokens, self._tokens.burst)))
        return wait

    def take(self, tokens: float) -> None:
        """The request is sent now."""
        self._found.take()
        if self._requests is not None:
            self._requests.take()
        if self._tokens is not None:
            self._tokens.charge(tokens)
            self._usual = tokens

    def settle(self, taken: float, used: float) -> None:
        """A request that took `taken` tokens used `used`."""
        if self._tokens is not None and taken != used:
            self._tokens.charge(used - taken)

    def answered(self) -> None:
        """The service answered: more may be in flight."""
        self._found.answered()
        # Doubling a round at first; after a cut, one more a round.
        grown = self._level + (1.0 if self._growing else 1.0 / self._level)
        self._level = min(float(self._most), grown)

    def limited(self, sent_at: float, wait: float | None) -> None:
        """The service said 429 to what was sent at `sent_at`, and perhaps how long to wait."""
        self._found.limited(sent_at)
        self._growing = False
        self.pause(wait or 0.0)

    def overloaded(self, sent_at: float, wait: float | None) -> None:
        """The service or the way to it failed under what was sent at `sent_at`."""
        if sent_at > self._cut:
            self._cut = self._clock.monotonic()
            self._level = max(1.0, self._level / 2)
        self._growing = False
        self.pause(wait or 0.0)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long, two minutes at most."""
        if seconds > 0:
            until = self._clock.monotonic() + min(seconds, LONGEST_PAUSE)
            self._paused_until = max(self._paused_until, until)
