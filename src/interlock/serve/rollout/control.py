"""The steps of one model's rollouts and reloads; each is recorded, then taken."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.kernel.clock import Clock, SystemClock
from interlock.kernel.errors import (
    BundleIntegrityError,
    ConfigError,
    InputError,
    InterlockError,
    JournalError,
    StorageError,
)
from interlock.serve.rollout.loading import Loader, source_of
from interlock.serve.rollout.observing import Observer
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.rollout.record import OnDecision, Record
from interlock.serve.rollout.settings import Mode
from interlock.serve.rollout.status import status_of
from interlock.serve.rollout.sticky import new_salt
from interlock.serve.rollout.store import (
    Decision,
    RolloutStore,
    Running,
    Source,
    no_longer_configured,
)
from interlock.serve.rollout.traffic import Traffic, Watch
from interlock.serve.server_log import Log
from interlock.serve.settings import ModelSettings
from interlock.serve.version import Version, check_interface

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted

ASKED = "asked for"
CONFIGURED = "configured"
_UNDER_WAY = "a rollout that was asked for is under way"

RETRY_SECONDS = 5.0
"""Between two attempts at what could not be recorded when the server started."""


class ModelRollout:
    """The rollouts of one model. Safe across threads: one change at a time, others are refused.

    open   loads and tests a version
    store  None where the server keeps no state; then there are reloads, but no rollouts
    """

    def __init__(
        self,
        hosted: Hosted,
        *,
        open: Callable[[ModelSettings], Version],
        store: RolloutStore | None,
        drain_seconds: float,
        log: Log,
        on_decision: OnDecision = lambda decision: None,
        clock: Clock | None = None,
    ) -> None:
        self._hosted = hosted
        self._own = hosted.settings
        self._loader = Loader(hosted, open)
        own = self._own
        # What is inside when a version ends: a text, or a line that waits its turn and is judged.
        self._drain = drain_seconds + max(2 * own.call_seconds, own.text_seconds)
        self._log = log
        self._clock = clock or SystemClock()

        def decided(made: Decision) -> None:
            hosted.fault = ""  # it could be recorded
            on_decision(made)

        self._record = Record(
            hosted.name, self._own, store, clock=self._clock, log=log, on_decision=decided
        )
        self._changing = threading.Lock()
        self._retry: float | None = None  # when to go on with what the start could not finish
        self._observer = Observer(self._own, self._clock)

    # --- what an operator asks for -----------------------------------------------------------

    def start(
        self,
        path: str,
        *,
        digest: str | None = None,
        mode: Mode | None = None,
        percent: float | None = None,
    ) -> dict[str, Any]:
        """Load a candidate and give it traffic; of the one that runs, change mode and percent.

        What is not named stays as it is there, and as configured otherwise. A change starts the
        evidence anew, and so does asking again where it was held.

        Raises ConflictError, ConfigError for another interface or the same version, and what
        loading raises; the old version then stands.
        """
        self._record.require()
        with self._change() as traffic:
            running, loaded = self._record.running, traffic.candidate
            if running is not None and running.candidate.path != path:
                raise ConflictError(
                    f"a rollout of {running.candidate.path} is under way", hint="roll it back first"
                )
            if mode is None:
                mode = self._own.rollout if running is None else running.mode
            if percent is None:
                percent = self._own.percent if running is None else running.percent
            msgspec.structs.replace(self._own, rollout=mode, percent=percent)  # checks them
            with self._loader.kept_only_if(
                loaded or self._loader.candidate(path, digest, traffic.stable)
            ) as version:
                if digest not in (None, version.digest):
                    raise BundleIntegrityError(f"the digest is {version.digest}, not {digest}")
                same = running is not None and (running.mode, running.percent) == (mode, percent)
                if running is None or running.held or not same:
                    self._begin(version, path, mode, percent, ASKED)
        return self.status()

    def promote(self, reason: str = ASKED) -> dict[str, Any]:
        """Let the candidate answer everything, and keep the old version's place for a return."""
        self._record.require()
        with self._change() as traffic:
            self._promote(traffic, reason, self._observer.numbers())
        return self.status()

    def roll_back(self, reason: str = ASKED) -> dict[str, Any]:
        """End the rollout under way; where there is none, return to the version before this one."""
        self._record.require()
        with self._change() as traffic:
            if self._record.running is not None:
                self._roll_back(traffic, reason, self._observer.numbers())
            else:
                self._revert(traffic, reason)
        return self.status()

    def reload(self, path: str | None = None, digest: str | None = None) -> dict[str, Any]:
        """Load the model again, or another path, and let it answer what comes from then on.

        The new version is loaded and tested first; where that fails, the old one stands. Whether
        anything changed is under `changed`. A model that is not ready is started as the server
        would, without a path.
        """
        if self._hosted.traffic is None and path is None and digest is None:
            return self._start_again()
        with self._change() as traffic:
            self._record.check_taken_up()
            if self._record.running is not None:
                raise ConflictError("a rollout is under way", hint="end it first")
            source = path or traffic.stable.settings.path
            elsewhere = source != self._loader.home
            if elsewhere:
                self._record.check_flag()
                if not self._record.kept:
                    told = "another path would be forgotten over a restart; set `state`"
                    raise ConfigError(told)
            opened = self._loader.open(source, digest, home=not elsewhere)
            with self._loader.kept_only_if(opened) as version:
                check_interface(version.served, traffic.stable.served)
                changed = version.digest != traffic.stable.digest
                if changed and self._record.kept:
                    self._record.decide(
                        "reloaded",
                        ASKED,
                        {"digest": version.digest},
                        stable=Source(source, version.digest) if elsewhere else None,
                        previous=source_of(traffic.stable),
                    )
            if not changed:
                self._hosted.retire(version, 0.0)
            else:
                self._swap(Traffic(version), traffic.stable)
                self._log("model_reloaded", model=self._hosted.name, digest=version.digest)
        return {"model": self._hosted.name, "changed": changed, "digest": version.digest}

    def status(self, decisions: int = 20) -> dict[str, Any]:
        """Versions, the rollout under way with its numbers, and the latest decisions."""
        return status_of(self._hosted, self._record, self._observer.numbers, decisions)

    # --- what the server does ----------------------------------------------------------------

    def begin(self) -> Traffic:
        """The traffic when the server starts: what was recorded for this configuration, else it.

        A rollout under way is taken up where it was. Raises what keeps the stable version from
        being served; a candidate that cannot be loaded costs the rollout only. Where the state
        cannot be used the configured version is served, and `tick` tries again.
        """
        self._retry = None
        if not self._record.taken_up:
            try:
                self._record.take_up()
            except JournalError as error:
                self._not_recorded(error)
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
            self._not_recorded(error)
        if self._hosted.fault:
            self._retry = self._clock.monotonic() + RETRY_SECONDS
        return self._hosted.traffic

    def tick(self) -> None:
        """Work in what was seen since the last time and do what it comes to.

        Where that cannot be recorded it is not done: the model's health says so, and the next tick
        tries again.
        """
        if not self._changing.acquire(blocking=False):
            return
        try:
            traffic = self._hosted.traffic
            if traffic is not None and self._retry is not None:
                self._go_on(traffic)
                return
            running = self._record.running
            if traffic is None or traffic.watch is None or running is None:
                return
            verdict = self._observer.look(traffic, traffic.watch)
            if verdict is None:
                return
            if verdict.action == "rollback":
                self._roll_back(traffic, verdict.trigger, verdict.numbers)
            elif verdict.action == "promote" and not running.held:
                self._promote(traffic, verdict.trigger, verdict.numbers)
            elif verdict.action == "hold" and running.held != verdict.trigger:
                held = msgspec.structs.replace(running, held=verdict.trigger)
                self._record.decide("held", verdict.trigger, verdict.numbers, running=held)
            else:
                self._record.save(self._observer.state)
            self._hosted.fault = ""
        except JournalError as error:
            self._not_recorded(error)
        finally:
            self._changing.release()

    # --- parts -------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[Traffic]:
        """The traffic, for one change at a time; raises ConflictError for a second one."""
        if not self._changing.acquire(blocking=False):
            raise ConflictError("another change of this model is under way")
        try:
            traffic = self._hosted.traffic
            if traffic is None:
                raise ConflictError(f"model '{self._hosted.name}' is not ready")
            yield traffic
        finally:
            self._changing.release()

    def _start_again(self) -> dict[str, Any]:
        if not self._changing.acquire(blocking=False):
            raise ConflictError("another change of this model is under way")
        try:
            traffic = self._hosted.traffic = self.begin()
            self._hosted.error = None
        finally:
            self._changing.release()
        digest = traffic.stable.digest
        self._log("model_ready", model=self._hosted.name, digest=digest)
        return {"model": self._hosted.name, "changed": True, "digest": digest}

    def _begin(self, version: Version, path: str, mode: Mode, percent: float, reason: str) -> None:
        before = self._record.running
        running = Running(
            id=secrets.token_hex(8),
            mode=mode,
            percent=percent,
            # A canary that grows keeps its clients.
            salt=new_salt() if before is None else before.salt,
            candidate=Source(path, version.digest),
            started=self._clock.now().isoformat(timespec="seconds"),
            configured=reason == CONFIGURED if before is None else before.configured,
        )
        numbers = {"mode": mode, "percent": percent, "candidate": version.digest, "path": path}
        self._record.decide("started", reason, numbers, running=running)
        traffic = self._hosted.traffic
        assert traffic is not None
        self._watch(traffic.stable, version, running)

    def _watch(self, stable: Version, candidate: Version, running: Running) -> None:
        own = self._own
        self._observer.begin(running)
        watch = Watch(running.id, running.mode, own.rollback_p99_ms / 1e3, own.shadow_pending)
        self._hosted.traffic = Traffic(stable, candidate, running.percent, running.salt, watch)

    def _promote(self, traffic: Traffic, reason: str, numbers: dict[str, Any]) -> None:
        running, candidate = self._under_way(traffic)
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
        self._swap(Traffic(candidate), traffic.stable)

    def _roll_back(self, traffic: Traffic, reason: str, numbers: dict[str, Any]) -> None:
        _, candidate = self._under_way(traffic)
        self._record.decide("rolled_back", reason, numbers, ends=True, running=None)
        self._observer.end()
        self._swap(Traffic(traffic.stable), candidate)

    def _revert(self, traffic: Traffic, reason: str) -> None:
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
        self._swap(Traffic(version), traffic.stable)

    def _under_way(self, traffic: Traffic) -> tuple[Running, Version]:
        running = self._record.running
        if running is None or traffic.candidate is None:
            raise ConflictError("no rollout is under way")
        return running, traffic.candidate

    def _swap(self, traffic: Traffic, old: Version) -> None:
        """From here on nobody meets the old version; those inside it are answered, then it ends."""
        self._hosted.traffic = traffic
        self._hosted.retire(old, self._drain)

    def _go_on(self, traffic: Traffic) -> None:
        """Finish what `begin` could not, every few seconds until it can be recorded."""
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
                self._swap(Traffic(version), traffic.stable)
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
            reason = f"it could not be loaded again: {error.code}"
            self._record.decide("rolled_back", reason, {}, ends=True, running=None)
            return
        configured = (self._own.rollout, self._own.percent)
        if running.configured and (running.mode, running.percent) != configured:
            self._log(
                "rollout_goes_on", model=self._hosted.name, mode=running.mode,
                percent=running.percent,
            )  # fmt: skip
        try:
            self._watch(traffic.stable, candidate, running)
        except InputError:
            # Settings that shape the tests have changed; what was seen no longer counts.
            fresh = msgspec.structs.replace(running, evidence=None)
            self._watch(traffic.stable, candidate, fresh)

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
            self._begin(version, path, own.rollout, own.percent, CONFIGURED)

    def _not_recorded(self, error: JournalError) -> None:
        if not self._hosted.fault:
            name = self._hosted.name
            self._log("rollout_not_recorded", model=name, code=error.code, message=error.message)
        taken_up = self._record.taken_up
        self._hosted.fault = (
            "the rollout's state cannot be recorded"
            if taken_up
            else "the rollout's state cannot be used; the configured version is served"
        )
