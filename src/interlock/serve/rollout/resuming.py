"""How a model starts: with what an earlier server recorded, and what the configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.kernel.clock import Clock
from interlock.kernel.errors import InputError, InterlockError, JournalError, StorageError
from interlock.serve.rollout.loading import Loader
from interlock.serve.rollout.record import NOT_LOADED, Record
from interlock.serve.rollout.steps import Steps
from interlock.serve.rollout.store import Running, no_longer_configured
from interlock.serve.rollout.traffic import Traffic
from interlock.serve.server_log import Log

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted

CONFIGURED = "configured"
STABLE_CHANGED = "stable_changed"
"""What was seen beside another version of the stable model's files says nothing beside these."""
_UNDER_WAY = "a rollout that was asked for is under way"

RETRY_SECONDS = 5.0
"""Between two attempts at what could not be recorded when the server started."""


class Resumption:
    """Takes one model up where it was, by one thread at a time."""

    def __init__(
        self,
        hosted: Hosted,
        loader: Loader,
        record: Record,
        steps: Steps,
        *,
        log: Log,
        clock: Clock,
    ) -> None:
        self._hosted = hosted
        self._own = hosted.settings
        self._loader = loader
        self._record = record
        self._steps = steps
        self._log = log
        self._clock = clock
        self._retry: float | None = None  # when to go on with what the start could not finish

    @property
    def unfinished(self) -> bool:
        """Whether something is left for `go_on`."""
        return self._retry is not None

    def begin(self) -> Traffic:
        """The traffic that was recorded for this configuration, else that of the configuration.

        Raises what keeps the stable version from being served. What cannot be recorded is left
        for `go_on`.
        """
        self._retry = None
        if not self._record.taken_up:
            try:
                self._record.take_up()
            except JournalError as error:
                self._steps.not_recorded(error)
        placed = self._record.placement.stable
        try:
            stable = (
                self._loader.open(self._loader.home, None, home=True)
                if placed is None
                else self._loader.open(placed.path, placed.digest)
            )
        except InterlockError as error:
            if placed is not None:
                error.hint = (
                    f"{placed.path} was promoted or reloaded; put its files back, or name another "
                    "path in the configuration"
                )
            raise
        self._hosted.traffic = traffic = Traffic(stable)
        if not self._record.kept:
            return traffic
        try:
            if self._record.taken_up:
                self._take_up_rollout(traffic)
        except StorageError as error:
            self._steps.not_recorded(error)
        if self._hosted.fault:
            self._retry = self._clock.monotonic() + RETRY_SECONDS
        return self._hosted.traffic

    def go_on(self, traffic: Traffic) -> None:
        """Finish what `begin` could not, every few seconds until it can be recorded.

        Raises JournalError where it still cannot.
        """
        now = self._clock.monotonic()
        if self._retry is None or now < self._retry:
            return
        self._retry = now + RETRY_SECONDS
        if self._record.taken_up:
            self._record.probe()  # before a candidate is loaded in vain
        else:
            self._record.take_up()
            placed = self._record.placement.stable
            if placed is not None and placed.digest != traffic.stable.digest:
                try:
                    version = self._loader.open(placed.path, placed.digest)
                except InterlockError as error:
                    self._record.forget()
                    self._hosted.fault = f"the recorded version cannot be loaded: {error.code}"
                    return
                self._steps.swap(Traffic(version), traffic.stable)
                self._log("model_reloaded", model=self._hosted.name, digest=version.digest)
        current = self._hosted.traffic
        assert current is not None
        self._take_up_rollout(current)
        self._retry, self._hosted.fault = None, ""

    def _take_up_rollout(self, traffic: Traffic) -> None:
        """Go on with the rollout under way, and start the configured one; raises StorageError.

        A rollout that the configuration started ends where the configuration names its candidate
        no longer; one that was asked for goes on, and the configured one waits.
        """
        running, own = self._record.running, self._own
        if running is not None:
            why = no_longer_configured(own, running)
            if why:
                numbers = {"before": running.candidate.path, "now": own.candidate}
                self._record.decide("superseded", why, numbers, ends=True, running=None)
            else:
                if traffic.candidate is None:
                    self._resume(traffic, running)
                if not running.configured and own.candidate not in (None, running.candidate.path):
                    self._wait_for(running, own.candidate)
                return
        if own.candidate is not None and own.candidate != traffic.stable.settings.path:
            self._start_configured(traffic, own.candidate)

    def _wait_for(self, running: Running, candidate: str | None) -> None:
        """Say, once a rollout, that the configured candidate waits for its end."""
        numbers = {"path": candidate, "running": running.candidate.path}
        made = self._record.decisions(1)
        if not made or (made[0].reason, made[0].numbers) != (_UNDER_WAY, numbers):
            self._record.decide("not_started", _UNDER_WAY, numbers)

    def _resume(self, traffic: Traffic, running: Running) -> None:
        try:
            candidate = self._loader.candidate(
                running.candidate.path, running.candidate.digest, traffic.stable
            )
        except InterlockError as error:
            reason = f"{NOT_LOADED}: {error.code}"
            self._record.decide("rolled_back", reason, {}, ends=True, running=None)
            return
        if running.stable not in ("", traffic.stable.digest):
            with self._loader.kept_only_if(candidate):
                self._steps.begin(
                    candidate, running.candidate.path, running.mode, running.percent, STABLE_CHANGED
                )
            return
        configured = (self._own.rollout, self._own.percent)
        if running.configured and (running.mode, running.percent) != configured:
            self._log(
                "rollout_goes_on", model=self._hosted.name, mode=running.mode,
                percent=running.percent,
            )  # fmt: skip
        try:
            self._steps.watch(traffic.stable, candidate, running)
        except InputError:
            # Settings that shape the tests have changed; what was seen no longer counts.
            fresh = msgspec.structs.replace(running, evidence=None)
            self._steps.watch(traffic.stable, candidate, fresh)

    def _start_configured(self, traffic: Traffic, path: str) -> None:
        """Roll the configured candidate out, unless a rollout of it has ended before."""
        own = self._own
        try:
            version = self._loader.candidate(path, own.candidate_digest, traffic.stable)
        except InterlockError as error:
            self._log("candidate_failed", model=self._hosted.name, code=error.code)
            self._record.decide("not_started", error.code, {"path": path})
            return
        if version.digest in self._record.placement.settled:
            self._hosted.retire(version, 0.0)
            return
        with self._loader.kept_only_if(version):
            self._steps.begin(version, path, own.rollout, own.percent, CONFIGURED, configured=True)
