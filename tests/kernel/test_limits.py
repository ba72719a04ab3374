"""Pacing and retries, on a clock that moves only when told."""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import (
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineError,
    InterlockError,
    TransientError,
)
from interlock.kernel.clock import Deadline, ManualClock
from interlock.kernel.limits import RetryPolicy, TokenBucket, call_with_retry

EXAMPLES = settings(max_examples=count(150, 3_000), deadline=None)


class Flaky:
    """Raises the given errors in turn, then answers "done"."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def transients(n: int, wait: float | None = None) -> list[Exception]:
    """`n` transient errors."""
    return [TransientError("busy", wait_seconds=wait) for _ in range(n)]


# Retries


def test_a_transient_error_is_retried_until_the_call_succeeds() -> None:
    call = Flaky(TransientError("busy"), EngineCrashError("died"))
    assert call_with_retry(call, RetryPolicy(retries=2), clock=ManualClock()) == "done"
    assert call.calls == 3


def test_the_last_error_is_raised_when_the_retries_are_used_up() -> None:
    call = Flaky(TransientError("first"), TransientError("second"), TransientError("third"))
    with pytest.raises(TransientError, match="second"):
        call_with_retry(call, RetryPolicy(retries=1), clock=ManualClock())
    assert call.calls == 2


@pytest.mark.parametrize(
    "error", [EngineError("wrong shape"), DeadlineError("late"), ConfigError("typo"), KeyError("x")]
)
def test_other_errors_are_not_retried(error: Exception) -> None:
    call = Flaky(error)
    with pytest.raises(type(error)):
        call_with_retry(call, RetryPolicy(retries=5), clock=ManualClock())
    assert call.calls == 1


@EXAMPLES
@given(
    first=st.floats(0, 10),
    factor=st.floats(1, 1e300) | st.integers(1, 10**9),
    longest=st.floats(10, 1e9),
    retry=st.integers(1, 10**6),
    asked=st.none() | st.floats(),
    seed=st.integers(0, 10**6),
)
def test_every_wait_lies_within_its_bounds(
    first: float, factor: float, longest: float, retry: int, asked: float | None, seed: int
) -> None:
    policy = RetryPolicy(retries=10**6, first=first, factor=factor, longest=longest)
    rng = random.Random(seed)
    wait = policy.wait_before(retry, TransientError("busy", wait_seconds=asked), rng)
    grown = math.log(first) + (retry - 1) * math.log(factor) if first else -math.inf
    ceiling = longest if grown > math.log(longest) else math.exp(grown) * (1 + 1e-9)
    if asked is not None and asked > 0:
        assert asked <= wait <= max(asked, ceiling)
    else:
        assert 0 <= wait <= ceiling


def test_the_ceiling_grows_by_the_factor_up_to_the_longest() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    policy = RetryPolicy(retries=2_000, first=1.0, factor=1.01, longest=60.0)
    error = TransientError("busy")
    waits = [policy.wait_before(k, error, Highest()) for k in (1, 2, 3, 1_000)]
    assert waits == pytest.approx([1.0, 1.01, 1.0201, 60.0])


def test_a_wait_that_the_server_asks_for_is_honoured() -> None:
    clock = ManualClock()
    told: list[tuple[int, float, str]] = []

    def tell(retry: int, wait: float, error: InterlockError) -> None:
        told.append((retry, wait, error.code))

    policy = RetryPolicy(retries=1, first=0.0, longest=0.0)
    call_with_retry(Flaky(*transients(1, wait=45.0)), policy, clock=clock, on_retry=tell)
    assert told == [(1, 45.0, "transient")]
    assert clock.monotonic() == 45.0


def test_a_wait_that_would_outlast_the_deadline_is_not_begun() -> None:
    clock = ManualClock()
    call = Flaky(*transients(1, wait=10.0))
    with pytest.raises(TransientError):
        call_with_retry(call, RetryPolicy(), clock=clock, deadline=Deadline.after(10, clock))
    assert (call.calls, clock.monotonic()) == (1, 0.0)


def test_a_wait_without_end_is_not_begun() -> None:
    clock = ManualClock()
    with pytest.raises(TransientError):
        call_with_retry(Flaky(*transients(1, wait=math.inf)), RetryPolicy(), clock=clock)
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"retries": -1},
        {"retries": math.nan},
        {"first": -1.0},
        {"first": math.nan},
        {"first": 61.0},
        {"longest": math.inf},
        {"longest": math.nan},
        {"factor": 0.5},
        {"factor": math.inf},
        {"factor": math.nan},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        RetryPolicy(**fields)


# Pacing


def test_sixty_a_minute_means_sixty_a_minute_after_the_burst() -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=60 / 60, burst=10, clock=clock)
    waits = [bucket.acquire() for _ in range(70)]
    assert waits[:10] == [0.0] * 10
    assert waits[10:] == pytest.approx([1.0] * 60)
    assert clock.monotonic() == pytest.approx(60.0)


@EXAMPLES
@given(
    rate=st.floats(1e-3, 1e5),
    burst=st.floats(0.1, 1e4),
    start=st.floats(0, 1e7),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["try", "acquire", "pause"]),
            st.floats(0, 1),
            st.floats(0, 5) | st.just(0.0),
        ),
        max_size=40,
    ),
)
def test_no_window_lets_more_pass_than_the_burst_and_the_rate(
    rate: float, burst: float, start: float, steps: list[tuple[str, float, float]]
) -> None:
    """In any t seconds at most burst + rate * t; nothing passes within a pause."""
    clock = ManualClock()
    clock.advance(start)
    bucket = TokenBucket(rate, burst, clock)
    passed: list[tuple[float, float]] = []
    quiet_until = -math.inf
    for action, share, gap in steps:
        clock.advance(gap / rate)
        units = share * burst
        if action == "pause":
            bucket.pause(gap / rate)
            quiet_until = max(quiet_until, clock.monotonic() + gap / rate if gap else -math.inf)
            continue
        if action == "acquire":
            bucket.acquire(units)
        elif not bucket.try_acquire(units):
            continue
        now = clock.monotonic()
        assert now >= quiet_until - 1e-9 * max(1.0, now)
        passed.append((now, units))
    for i, (begin, _) in enumerate(passed):
        total = 0.0
        for end, units in passed[i:]:
            total += units
            slack = 1e-6 * burst + 1e-6 + rate * 1e-8
            assert total <= burst + rate * (end - begin) + slack


@EXAMPLES
@given(rate=st.floats(1e-3, 1e5), burst=st.integers(1, 300), start=st.floats(0, 1e7))
def test_the_whole_burst_passes_at_once_and_not_one_more(
    rate: float, burst: int, start: float
) -> None:
    clock = ManualClock()
    clock.advance(start)
    bucket = TokenBucket(rate, burst, clock)
    assert all(bucket.try_acquire() for _ in range(burst))
    assert not bucket.try_acquire()


def test_what_is_not_free_takes_nothing() -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=1, burst=2, clock=clock)
    assert bucket.try_acquire(2)
    for _ in range(5):
        assert not bucket.try_acquire(2)
    with pytest.raises(DeadlineError, match="2 units"):
        bucket.acquire(2, Deadline.after(1.5, clock))
    clock.advance(2)
    assert bucket.try_acquire(2)


def test_a_reservation_says_how_long_to_wait_and_the_next_one_queues_behind_it() -> None:
    bucket = TokenBucket(rate=2, burst=1, clock=ManualClock())
    assert [bucket.reserve() for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(("burst", "units"), [(5.0, 1.0), (5.0, 0.25), (0.5, 0.5), (5.0, 0.0)])
def test_nothing_passes_in_a_pause_and_one_unit_at_its_end(burst: float, units: float) -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=1, burst=burst, clock=clock)
    bucket.pause(10)
    clock.advance(9.99)
    assert not bucket.try_acquire(units)
    clock.advance(0.01)
    assert bucket.try_acquire(units)
    if units == 1.0:
        assert not bucket.try_acquire(units)


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=1, burst=5, clock=clock)
    bucket.pause(10)
    bucket.pause(1)
    clock.advance(5)
    assert not bucket.try_acquire()


def test_a_pause_of_no_time_changes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=5, clock=ManualClock())
    bucket.pause(0)
    bucket.pause(-5)
    assert bucket.try_acquire(5)
    with pytest.raises(ConfigError, match="pause"):
        bucket.pause(math.inf)


@pytest.mark.parametrize("units", [-1.0, math.nan, 2.5, math.inf])
def test_more_units_than_the_burst_are_refused_at_once(units: float) -> None:
    bucket = TokenBucket(rate=1, burst=2, clock=ManualClock())
    with pytest.raises(ConfigError, match="units"):
        bucket.acquire(units)


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0), (1, math.nan), (5e-324, 1e3)],
)
def test_a_bucket_that_lets_nothing_pass_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ConfigError):
        TokenBucket(rate, burst)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Lets threads take turns as often as they can, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_threads_share_one_bucket_without_losing_a_unit() -> None:
    bucket = TokenBucket(rate=1.0, burst=2_000, clock=ManualClock())
    passed: list[bool] = []

    def take() -> None:
        for _ in range(800):
            passed.append(bucket.try_acquire())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 2_000


def test_an_added_jitter_keeps_the_wait_that_is_promised() -> None:
    policy = RetryPolicy(retries=3, first=1.0, factor=2.0, jitter="added")
    for seed in range(50):
        rng = random.Random(seed)
        waits = [policy.wait_before(k, TransientError("busy"), rng) for k in (1, 2, 3)]
        for wait, promised in zip(waits, (1.0, 2.0, 4.0), strict=True):
            assert promised <= wait <= 1.1 * promised
    assert policy.wait_before(1, TransientError("busy", wait_seconds=9.0), rng) == 9.0
    with pytest.raises(ConfigError, match="jitter"):
        RetryPolicy(jitter="none")  # type: ignore[arg-type]


def test_a_delay_says_when_units_would_be_free_and_takes_nothing() -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=10, burst=5, clock=clock)
    assert bucket.delay(5) == 0.0
    assert bucket.try_acquire(5)
    assert bucket.delay(1) == pytest.approx(0.1)
    assert bucket.delay(1) == pytest.approx(0.1)
    clock.advance(0.1)
    assert bucket.try_acquire(1)
    with pytest.raises(ConfigError, match="units"):
        bucket.delay(6)


def test_units_that_were_not_used_are_given_back_up_to_the_burst() -> None:
    bucket = TokenBucket(rate=10, burst=5, clock=ManualClock())
    bucket.reserve(5)
    bucket.give_back(3)
    assert bucket.delay(3) == 0.0
    assert bucket.delay(4) == pytest.approx(0.1)
    bucket.give_back(1000)
    assert bucket.try_acquire(5)
    assert not bucket.try_acquire(1)


def test_what_was_used_above_what_was_taken_is_waited_for_later() -> None:
    bucket = TokenBucket(rate=10, burst=5, clock=ManualClock())
    bucket.reserve(1)
    bucket.charge(24)
    assert bucket.delay(5) == pytest.approx(2.5)
    with pytest.raises(ConfigError, match="units"):
        bucket.charge(math.nan)


@EXAMPLES
@given(
    taken=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0, 2)), max_size=30),
)
def test_corrected_units_pass_at_the_rate_of_what_was_used(
    taken: list[tuple[float, float, float]],
) -> None:
    """Take an estimate, then correct it: what was used keeps to burst + rate * t, estimates aside.

    The excess of one request over its estimate is known only after it passed.
    """
    clock = ManualClock()
    bucket = TokenBucket(rate=2.0, burst=5.0, clock=clock)
    used_before = 0.0
    for estimate, used, pause in taken:
        clock.advance(bucket.delay(estimate))
        assert used_before + estimate <= 5.0 + 2.0 * clock.monotonic() + 1e-6
        bucket.charge(estimate)
        bucket.charge(used - estimate)
        used_before += used
        clock.advance(pause)
