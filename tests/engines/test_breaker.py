"""The circuit breaker."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.engines.breaker import CircuitBreaker
from interlock.errors import ConfigError, EngineError, EngineUnavailableError
from interlock.kernel.clock import ManualClock


def broken(clock: ManualClock) -> CircuitBreaker:
    """An open breaker."""
    breaker = CircuitBreaker("model", failures=2, seconds=10, clock=clock)
    for _ in range(2):
        breaker.check()
        breaker.failed(EngineError("x"))
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = CircuitBreaker("model", failures=2, clock=ManualClock())
    breaker.failed(EngineError("x"))
    breaker.succeeded()
    breaker.failed(EngineError("x"))
    breaker.check()
    breaker.failed(EngineError("x"))
    with pytest.raises(EngineUnavailableError, match="2 failures in a row, the last one engine"):
        breaker.check()


def test_one_attempt_goes_through_after_a_while() -> None:
    clock = ManualClock()
    breaker = broken(clock)
    clock.advance(10)
    breaker.check()
    with pytest.raises(EngineUnavailableError):
        breaker.check()
    breaker.succeeded()
    breaker.check()


def test_an_attempt_that_fails_opens_it_again() -> None:
    clock = ManualClock()
    breaker = broken(clock)
    clock.advance(10)
    breaker.check()
    breaker.failed(EngineError("x"))
    with pytest.raises(EngineUnavailableError):
        breaker.check()
    assert breaker.open


def test_an_attempt_without_a_verdict_lets_another_through() -> None:
    clock = ManualClock()
    breaker = broken(clock)
    clock.advance(10)
    breaker.check()
    breaker.neither()
    breaker.check()


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"seconds": 0.0}])
def test_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CircuitBreaker("model", **wrong)
