"""How a model is: a real canary inference, timed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import InterlockError
from interlock.serve.served import Served

CANARY_SECONDS = 5.0

Word = Literal["healthy", "degraded", "unhealthy"]
_WORSE: tuple[Word, ...] = ("healthy", "degraded", "unhealthy")


@dataclass(frozen=True)
class Health:
    """healthy, degraded (the canary took longer than the limit) or unhealthy (it failed)."""

    status: Word
    model: str
    latency_ms: float | None = None
    message: str | None = None
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON: the fields that say something."""
        fields = {
            "status": self.status,
            "latency_ms": self.latency_ms,
            "message": self.message,
            "error": self.error,
            "model": self.model,
        }
        return {name: value for name, value in fields.items() if value is not None}


def worst(found: list[Health]) -> Word:
    """The worst status of any; a server without models is unhealthy."""
    return max((h.status for h in found), key=_WORSE.index, default="unhealthy")


class Canary:
    """The health of one model, from an inference that is made again after `seconds`.

    Callers at the same time share one inference, so that asking for the health is no load.
    """

    def __init__(self, served: Served, *, degraded_ms: float, seconds: float) -> None:
        self._served = served
        self._degraded_ms = degraded_ms
        self._seconds = seconds
        self._lock = threading.Lock()
        self._last: tuple[float, Health] | None = None

    def check(self) -> Health:
        """The health now; blocks for an inference."""
        asked = time.monotonic()
        with self._lock:
            if self._last is not None and self._last[0] >= asked - self._seconds:
                return self._last[1]
            found = self._infer()
            self._last = (time.monotonic(), found)
            return found

    def _infer(self) -> Health:
        name = self._served.name
        began = time.perf_counter()
        try:
            self._served.canary(deadline=Deadline.after(CANARY_SECONDS))
        except InterlockError as error:
            return Health("unhealthy", name, error=f"{error.code}: {error.message}")
        except Exception as error:  # noqa: BLE001 - a foreign message may hold anything
            return Health("unhealthy", name, error=type(error).__name__)
        took = (time.perf_counter() - began) * 1e3
        if took > self._degraded_ms:
            return Health("degraded", name, took, message="inference is slower than expected")
        return Health("healthy", name, took)
