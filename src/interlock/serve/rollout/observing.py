"""The evidence of the rollout under way: what was noted is worked in, and a status may read it."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from interlock.kernel.clock import Clock
from interlock.serve.rollout.evidence import Evidence, EvidenceState, Verdict
from interlock.serve.rollout.settings import RolloutSettings
from interlock.serve.rollout.store import Running
from interlock.serve.rollout.traffic import Traffic, Watch

if TYPE_CHECKING:
    from interlock.serve.version import Version

MEMORY_SECONDS = 1.0


class Observer:
    """What is known of one model's rollout under way; nothing where there is none.

    Safe across threads; it begins and ends in one thread at a time.
    """

    def __init__(self, own: RolloutSettings, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._evidence: Evidence | None = None
        self._watch: Watch | None = None
        self._looking = threading.Lock()
        self._sampled = -math.inf

    def begin(self, running: Running, watch: Watch) -> None:
        """Observe a rollout by what `watch` notes, and go on from what was kept of it.

        Raises InputError where that was tested against other limits.
        """
        evidence = Evidence(self._own, running.mode, running.percent)
        if running.evidence is not None:
            evidence.restore(running.evidence)
        self._sampled = -math.inf  # at the first look, since no sample would mean not known
        self._evidence, self._watch = evidence, watch

    def end(self) -> None:
        """The rollout is over."""
        self._evidence = self._watch = None

    def look(self, traffic: Traffic, watch: Watch) -> Verdict | None:
        """Work in what was noted since the last time; what all of it comes to."""
        evidence = self._evidence
        if evidence is None:
            return None
        with self._looking:
            while watch.seen:
                evidence.seen(watch.seen.popleft())
            while watch.labels:
                evidence.labelled(*watch.labels.popleft())
            now = self._clock.monotonic()
            if traffic.candidate is not None and now - self._sampled >= MEMORY_SECONDS:
                self._sampled = now
                evidence.memory(_resident(traffic.candidate), _resident(traffic.stable))
            found = evidence.judge()
            return found._replace(numbers=self._told(found.numbers))

    def numbers(self) -> dict[str, Any]:
        """See `Evidence.numbers`; of a shadow also what was compared since the server started."""
        with self._looking:
            return {} if self._evidence is None else self._told(self._evidence.numbers())

    def _told(self, numbers: dict[str, Any]) -> dict[str, Any]:
        watch = self._watch
        if not numbers or watch is None or watch.mode != "shadow":
            return numbers
        return numbers | {"shadow": dict(watch.shadow)}

    def state(self) -> EvidenceState | None:
        """See `Evidence.state`."""
        with self._looking:
            return None if self._evidence is None else self._evidence.state()


def _resident(version: Version) -> float:
    """Bytes of the largest of its processes; 0 where none runs."""
    return float(version.served.workers().largest)
