"""The steps of a rollout: each is recorded, then the traffic is changed to what it means."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from interlock.kernel.clock import Clock
from interlock.kernel.errors import JournalError
from interlock.serve.rollout.loading import Loader, source_of
from interlock.serve.rollout.observing import Observer
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.rollout.record import Record
from interlock.serve.rollout.settings import Mode
from interlock.serve.rollout.sticky import new_salt
from interlock.serve.rollout.store import Running, Source
from interlock.serve.rollout.traffic import Traffic, Watch
from interlock.serve.server_log import Log
from interlock.serve.version import Version, check_interface

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted


class Steps:
    """What may happen to one model's traffic, by one thread at a time.

    Each raises StorageError where it cannot be recorded; nothing has then changed.
    """

    def __init__(
        self,
        hosted: Hosted,
        loader: Loader,
        record: Record,
        observer: Observer,
        *,
        drain_seconds: float,
        log: Log,
        clock: Clock,
    ) -> None:
        self._hosted = hosted
        self._own = own = hosted.settings
        self._loader = loader
        self._record = record
        self._observer = observer
        # What is inside when a version ends: a text, or a line that waits its turn and is judged.
        self._drain = drain_seconds + max(2 * own.call_seconds, own.text_seconds)
        self._log = log
        self._clock = clock

    def begin(
        self,
        version: Version,
        path: str,
        mode: Mode,
        percent: float,
        reason: str,
        *,
        configured: bool = False,
    ) -> None:
        """Roll a version out beside the stable one, or the one that runs in another way.

        configured  whether the configuration starts it
        """
        before = self._record.running
        running = Running(
            id=secrets.token_hex(8),
            mode=mode,
            percent=percent,
            # A canary that grows keeps its clients.
            salt=new_salt() if before is None else before.salt,
            candidate=Source(path, version.digest),
            started=self._clock.now().isoformat(timespec="seconds"),
            configured=configured if before is None else before.configured,
            stable="" if (beside := self._hosted.served) is None else beside.version,
        )
        numbers = {"mode": mode, "percent": percent, "candidate": version.digest, "path": path}
        self._record.decide("started", reason, numbers, running=running)
        traffic = self._hosted.traffic
        assert traffic is not None
        self.watch(traffic.stable, version, running)

    def watch(self, stable: Version, candidate: Version, running: Running) -> None:
        """Give the candidate its traffic, and note what comes of it.

        Raises InputError where what was kept of it was tested against other limits.
        """
        own = self._own
        watch = Watch(running.id, running.mode, own.rollback_p99_ms / 1e3, own.shadow_pending)
        self._observer.begin(running, watch)
        self._hosted.traffic = Traffic(stable, candidate, running.percent, running.salt, watch)

    def promote(self, traffic: Traffic, reason: str, numbers: dict[str, Any]) -> None:
        """Let the candidate answer everything.

        Raises ConflictError where there is none, and what its files raise where they are others.
        """
        running, candidate = self._under_way(traffic)
        self._loader.check_files(running)
        self._record.decide(
            "promoted",
            reason,
            numbers,
            ends=True,
            stable=running.candidate,
            previous=source_of(traffic.stable),
            running=None,
        )
        self._observer.end()
        self.swap(Traffic(candidate), traffic.stable)

    def roll_back(self, traffic: Traffic, reason: str, numbers: dict[str, Any]) -> None:
        """End the rollout under way; raises ConflictError where there is none."""
        _, candidate = self._under_way(traffic)
        self._record.decide("rolled_back", reason, numbers, ends=True, running=None)
        self._observer.end()
        self.swap(Traffic(traffic.stable), candidate)

    def revert(self, traffic: Traffic, reason: str) -> None:
        """Return to the version before this one.

        Raises ConflictError where there is none, and what loading it raises.
        """
        previous, own = self._record.placement.previous, self._own
        if previous is None:
            raise ConflictError("there is no rollout, and no version before this one")
        opened = self._loader.open(previous.path, previous.digest)
        with self._loader.kept_only_if(opened) as version:
            check_interface(version.served, traffic.stable.served)
            home = previous.path == own.path and own.expected_digest in (None, previous.digest)
            self._record.decide(
                "reverted",
                reason,
                {"from": traffic.stable.digest, "to": version.digest},
                stable=None if home else previous,
                previous=None,
            )
        self.swap(Traffic(version), traffic.stable)

    def swap(self, traffic: Traffic, old: Version) -> None:
        """From here on nobody meets the old version; those inside it are answered, then it ends."""
        self._hosted.traffic = traffic
        self._hosted.retire(old, self._drain)

    def not_recorded(self, error: JournalError) -> None:
        """Let the model's health say what could not be recorded, and the log say it once."""
        if not self._hosted.fault:
            name = self._hosted.name
            self._log("rollout_not_recorded", model=name, code=error.code, message=error.message)
        self._hosted.fault = (
            "the rollout's state cannot be recorded"
            if self._record.taken_up
            else "the rollout's state cannot be used; the configured version is served"
        )

    def _under_way(self, traffic: Traffic) -> tuple[Running, Version]:
        running = self._record.running
        if running is None or traffic.candidate is None:
            raise ConflictError("no rollout is under way")
        return running, traffic.candidate
