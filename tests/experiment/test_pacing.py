"""Pacing against a simulated service, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from interlock.errors import ConfigError
from interlock.experiment.pacing import AccountLimits, Pacer, RequestPace
from interlock.kernel.clock import ManualClock


class Service:
    """A token bucket on the server's side: `rate` units a second, `seconds` of it at once."""

    def __init__(self, rate: float, seconds: float = 1.0) -> None:
        self.rate = rate
        self.size = max(1.0, rate * seconds)
        self.left = self.size
        self.at = 0.0

    def wait(self, now: float, units: float) -> float:
        """0 where the units pass, else the seconds until they would."""
        self.left = min(self.size, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left >= units - 1e-6:
            self.left -= units
            return 0.0
        return (units - self.left) / self.rate


def simulate(
    pacer: Pacer,
    clock: ManualClock,
    service: Service,
    *,
    requests: int,
    latency: float,
    tokens: tuple[int, int] | None = None,
    retry_after: bool = True,
    seed: int = 0,
) -> tuple[float, int]:
    """Seconds until all requests are answered, and the number of 429s among them.

    With `tokens` the service counts tokens: so many a request, from the first to the last number,
    while the client expects the middle.
    """
    rng = random.Random(seed)
    flying: list[tuple[float, int, bool, float, float, float]] = []
    again: list[float] = []
    numbers = itertools.count()
    left, done, limited = requests, 0, 0
    expected = 0.0 if tokens is None else sum(tokens) / 2
    while done < requests:
        now = clock.monotonic()
        while flying and flying[0][0] <= now:
            _, _, taken, sent_at, wait, used = heapq.heappop(flying)
            if taken:
                done += 1
                pacer.settle(expected, used)
                pacer.answered()
            else:
                limited += 1
                pacer.settle(expected, 0.0)
                pacer.limited(sent_at, wait if retry_after else None)
                again.append(now + (wait if retry_after else rng.uniform(1.0, 1.1)))
        if done == requests:
            break
        ready = [moment for moment in again if moment <= now]
        # As in the executor, a call that waits for its retry keeps its place.
        room = len(flying) + len(again) < pacer.level
        can = len(flying) < pacer.level and (bool(ready) or (left > 0 and room))
        if can and pacer.delay(expected) <= 1e-9:
            if ready:
                again.remove(ready[0])
            else:
                left -= 1
            used = 0.0 if tokens is None else float(rng.randint(*tokens))
            pacer.take(expected)
            wait = service.wait(now, 1.0 if tokens is None else used)
            took = latency * rng.uniform(0.8, 1.2) if wait == 0.0 else 0.002
            heapq.heappush(flying, (now + took, next(numbers), wait == 0.0, now, wait, used))
            continue
        moments = [flying[0][0]] if flying else []
        moments += [now + pacer.delay(expected)] if can else []
        moments += again
        clock.advance(max(1e-6, min(m for m in moments if m > now) - now))
    return clock.monotonic(), limited


@pytest.mark.parametrize("a_minute", [60, 600, 6_000])
def test_a_declared_limit_of_requests_is_used_up_and_never_overrun(a_minute: int) -> None:
    clock = ManualClock()
    pacer = Pacer(AccountLimits(requests=a_minute, concurrency=100), clock)
    service = Service(a_minute / 60)
    requests = 3 * a_minute if a_minute > 60 else 200
    seconds, limited = simulate(pacer, clock, service, requests=requests, latency=0.3)
    ideal = (requests - service.size) / service.rate
    assert limited <= 1
    assert seconds <= 1.03 * ideal


@pytest.mark.parametrize("spread", [(75, 75), (40, 160)])
def test_a_declared_limit_of_tokens_is_used_up_and_never_overrun(spread: tuple[int, int]) -> None:
    clock = ManualClock()
    pacer = Pacer(AccountLimits(tokens=60_000, concurrency=100), clock)
    service = Service(1_000)
    seconds, limited = simulate(pacer, clock, service, requests=1_500, latency=0.3, tokens=spread)
    ideal = (1_500 * sum(spread) / 2 - service.size) / service.rate
    assert limited <= 1
    assert seconds <= 1.03 * ideal


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize(
    ("rate", "requests", "latency"),
    [(10, 400, 0.05), (10, 400, 0.5), (50, 1_500, 0.05), (50, 1_500, 0.5), (200, 4_000, 0.05)],
)
def test_an_undeclared_limit_is_found(
    rate: int, requests: int, latency: float, retry_after: bool
) -> None:
    clock = ManualClock()
    pacer = Pacer(AccountLimits(), clock)
    service = Service(rate)
    seconds, limited = simulate(
        pacer, clock, service, requests=requests, latency=latency, retry_after=retry_after
    )
    ideal = (requests - service.size) / rate
    assert limited <= 0.10 * (requests + limited)
    assert seconds <= 1.10 * ideal


@pytest.mark.parametrize("burst", [1, 10, 60])
def test_sixty_a_minute_are_sixty_in_any_minute(burst: int) -> None:
    clock = ManualClock()
    pace = RequestPace(60, burst, clock)
    times = []
    for _ in range(240):
        clock.advance(pace.delay())
        pace.take()
        times.append(clock.monotonic())
    assert times[burst - 1] == 0.0
    for number, start in enumerate(times):
        assert sum(start <= t < start + 60 - 1e-6 for t in times[number:]) <= 60
    # Nothing is lost over time either.
    assert times[-1] <= 240


def test_the_level_grows_with_answers_and_is_halved_once_a_round_of_failures() -> None:
    clock = ManualClock()
    pacer = Pacer(AccountLimits(), clock)
    first = pacer.level
    for _ in range(first):
        pacer.answered()
    assert pacer.level == 2 * first
    clock.advance(1)
    for _ in range(5):
        pacer.overloaded(sent_at=0.5, wait=None)
    assert pacer.level == first
    for _ in range(first):
        pacer.answered()
    assert pacer.level in (first, first + 1)


def test_a_declared_concurrency_is_never_exceeded() -> None:
    pacer = Pacer(AccountLimits(concurrency=3), ManualClock())
    for _ in range(100):
        pacer.answered()
    assert pacer.level == 3


def test_a_request_above_the_burst_passes_when_the_bucket_is_full_and_leaves_a_debt() -> None:
    clock = ManualClock()
    pacer = Pacer(AccountLimits(tokens=600), clock)
    assert pacer.delay(1_000) == 0.0
    pacer.take(1_000)
    assert pacer.delay(1) > 90
    pacer.settle(1_000, 10)
    assert pacer.delay(1) == pytest.approx(0.6, abs=0.05)


def test_a_wait_that_the_service_asks_for_holds_the_account() -> None:
    clock = ManualClock()
    pacer = Pacer(AccountLimits(), clock)
    pacer.take(0)
    clock.advance(0.1)
    pacer.limited(0.0, 7.0)
    assert pacer.delay(0) == pytest.approx(7.0)


@pytest.mark.parametrize("name", ["requests", "tokens", "burst", "concurrency"])
def test_a_limit_that_lets_nothing_pass_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        AccountLimits(**{name: 0})
