"""Clocks and deadlines: time moves one way, and a deadline is read on its own clock."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import ConfigError, DeadlineError
from interlock.kernel.clock import NO_DEADLINE, SYSTEM_CLOCK, Deadline, ManualClock

SECONDS = st.floats(0, 1e6)


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
    assert clock.monotonic() == 0.0
    clock.sleep(90)
    clock.advance(30)
    assert clock.monotonic() == 120.0
    assert clock.now() == datetime(2026, 3, 1, 0, 2, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_manual_clock_never_goes_back_nor_to_nowhere(seconds: float) -> None:
    clock = ManualClock()
    with pytest.raises(ConfigError, match="seconds is"):
        clock.advance(seconds)
    assert clock.monotonic() == 0.0


def test_a_manual_clock_loses_no_step_across_threads() -> None:
    clock = ManualClock()

    def tick() -> None:
        for _ in range(1_000):
            clock.sleep(1)

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() == 4_000


@pytest.mark.parametrize("seconds", [0.0, -1.0, -math.inf, math.nan])
def test_sleeping_for_nothing_returns(seconds: float) -> None:
    SYSTEM_CLOCK.sleep(seconds)
    clock = ManualClock()
    clock.sleep(seconds)
    assert clock.monotonic() == 0.0


def test_the_system_clock_sleeps_at_least_as_long_as_asked() -> None:
    before = SYSTEM_CLOCK.monotonic()
    SYSTEM_CLOCK.sleep(0.01)
    assert SYSTEM_CLOCK.monotonic() - before >= 0.01
    assert SYSTEM_CLOCK.now().tzinfo is UTC


def test_a_deadline_passes_at_its_moment() -> None:
    clock = ManualClock()
    deadline = Deadline.after(5, clock)
    clock.advance(4)
    assert deadline.remaining() == 1
    deadline.check("loading")
    clock.advance(1)
    assert deadline.expired
    with pytest.raises(DeadlineError, match="loading"):
        deadline.check("loading")
    clock.advance(1)
    assert deadline.remaining() == 0


def test_no_deadline_never_passes() -> None:
    assert NO_DEADLINE.remaining() is None
    assert not NO_DEADLINE.expired
    assert not Deadline.after(math.inf).expired


def test_a_deadline_of_nan_is_refused() -> None:
    with pytest.raises(ConfigError, match="nan"):
        Deadline.after(math.nan)


@given(SECONDS, SECONDS | st.none(), SECONDS)
def test_the_earlier_of_two_deadlines_is_kept(
    first: float, second: float | None, passed: float
) -> None:
    clock = ManualClock()
    deadline = Deadline.after(first, clock)
    both = deadline.earlier(second)
    clock.advance(passed)
    assert both.expired == (passed >= min(first, first if second is None else second))


def test_a_deadline_keeps_its_own_clock() -> None:
    clock = ManualClock()
    deadline = Deadline.after(10, clock).earlier(3)
    assert deadline.clock is clock
    assert deadline.remaining() == 3
