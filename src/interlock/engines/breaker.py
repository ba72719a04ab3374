"""A circuit breaker: an engine that keeps failing is left alone for a while, and says so."""

from __future__ import annotations

import threading

from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.errors import ConfigError, EngineUnavailableError, InterlockError


class CircuitBreaker:
    """Opens after `failures` failures in a row, and lets one attempt through every `seconds`.

    The attempt closes it where it succeeds, and opens it for as long again where it fails. Safe
    across threads.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        seconds: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if failures < 1:
            raise ConfigError(f"failures is {failures}; it must be 1 or more")
        if not seconds > 0:
            raise ConfigError(f"seconds is {seconds}; it must be above 0")
        self.name = name
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._last = ""
        self._opened: float | None = None
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether attempts are refused, the one that may close it aside."""
        with self._lock:
            return self._opened is not None

    def check(self) -> None:
        """Raise EngineUnavailableError while it is open; else count as an attempt."""
        with self._lock:
            if self._opened is None:
                return
            left = self._opened + self._seconds - self._clock.monotonic()
            if left <= 0 and not self._trying:
                self._trying = True
                return
            raise EngineUnavailableError(
                f"{self.name}: the circuit breaker is open after {self._failed} failures in a row, "
                f"the last one {self._last}",
                hint=f"the next attempt is let through in {max(left, 0.0):.0f} s",
            )

    def succeeded(self) -> None:
        """An attempt ended well."""
        with self._lock:
            self._failed, self._opened, self._trying = 0, None, False

    def failed(self, error: InterlockError) -> None:
        """The engine failed. What the caller asked wrongly is no failure of the engine's."""
        with self._lock:
            self._failed += 1
            self._last = error.code
            if self._trying or self._failed >= self._most:
                self._opened, self._trying = self._clock.monotonic(), False

    def neither(self) -> None:
        """An attempt ended without a verdict: cancelled, or too late by its own deadline."""
        with self._lock:
            self._trying = False
