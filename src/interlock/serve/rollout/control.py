"""What may be asked of one model's rollouts, by an operator and by the server: one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.kernel.clock import Clock, SystemClock
from interlock.kernel.errors import (
    BundleIntegrityError,
    ConfigError,
    InterlockError,
    JournalError,
    ServiceError,
)
from interlock.serve.rollout.evidence import TRIGGERS, Verdict
from interlock.serve.rollout.loading import Loader, source_of
from interlock.serve.rollout.observing import Observer
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.rollout.record import NOT_LOADED, OnDecision, Record
from interlock.serve.rollout.resuming import Resumption
from interlock.serve.rollout.settings import Mode
from interlock.serve.rollout.status import status_of
from interlock.serve.rollout.steps import Steps
from interlock.serve.rollout.store import Decision, RolloutStore, Running, Source
from interlock.serve.rollout.traffic import Traffic
from interlock.serve.server_log import Log
from interlock.serve.settings import ModelSettings
from interlock.serve.version import Version, check_interface

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted

ASKED = "asked for"
TURN_SECONDS = 30.0
"""For which an order waits for a look; a disk that hangs may hold one up for ever."""


class ModelRollout:
    """The rollouts of one model. Safe across threads: one change at a time, others are refused.

    open   loads and tests a version
    check  raises for files of a version that are gone or others; loads nothing
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
        check: Callable[[ModelSettings], None] = lambda own: None,
        on_decision: OnDecision = lambda decision: None,
        clock: Clock | None = None,
    ) -> None:
        self._hosted = hosted
        self._own = own = hosted.settings
        self._loader = loader = Loader(hosted, open, check)
        self._log = log
        clock = clock or SystemClock()

        def decided(made: Decision) -> None:
            hosted.fault = ""  # it could be recorded
            on_decision(made)

        self._record = record = Record(
            hosted.name, own, store, clock=clock, log=log, on_decision=decided
        )
        self._observer = Observer(own, clock)
        self._steps = Steps(
            hosted, loader, record, self._observer, drain_seconds=drain_seconds, log=log,
            clock=clock,
        )  # fmt: skip
        self._resumption = Resumption(hosted, loader, record, self._steps, log=log, clock=clock)
        self._changing = threading.Lock()  # held by an order; a second one is refused
        self._turn = threading.Lock()  # held by an order, or by a look, which it waits for

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
                    self._steps.begin(version, path, mode, percent, ASKED)
        return self.status()

    def promote(self, reason: str = ASKED) -> dict[str, Any]:
        """Let the candidate answer everything, and keep the old version's place for a return."""
        self._record.require()
        with self._change() as traffic:
            self._steps.promote(traffic, _words(reason), self._numbers(traffic))
        return self.status()

    def roll_back(self, reason: str = ASKED, *, previous: bool = False) -> dict[str, Any]:
        """End the rollout under way; where there is none, return to the version before this one.

        previous  return to it, also where a rollout was what ended last

        Raises ConflictError where that ended by a rollback and `previous` is not said: the order
        was then meant for the rollout, which the server, or the same order before, has ended.
        """
        self._record.require()
        with self._change() as traffic:
            if self._record.running is not None:
                if previous:
                    raise ConflictError("a rollout is under way", hint="end it first")
                self._steps.roll_back(traffic, _words(reason), self._numbers(traffic))
            else:
                if not previous:
                    self._record.check_not_rolled_back()
                self._steps.revert(traffic, _words(reason))
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
                self._steps.swap(Traffic(version), traffic.stable)
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
        return self._resumption.begin()

    def tick(self) -> None:
        """Work in what was seen since the last time and do what it comes to.

        Where that cannot be recorded it is not done: the model's health says so, and the next tick
        tries again.
        """
        if not self._turn.acquire(blocking=False):
            return
        try:
            traffic = self._hosted.traffic
            if traffic is not None and self._resumption.unfinished:
                self._resumption.go_on(traffic)
                return
            running = self._record.running
            if traffic is None or traffic.watch is None or running is None:
                return
            verdict = self._observer.look(traffic, traffic.watch)
            if verdict is None:
                return
            if verdict.action == "rollback":
                self._steps.roll_back(traffic, verdict.trigger, verdict.numbers)
            elif verdict.action == "promote" and not running.held:
                self._promote(traffic, running, verdict)
            # What was undecided may still be shown good; further turns of that are no news.
            elif verdict.action == "hold" and (
                not running.held or (running.held, verdict.trigger) == ("undecided", "shown_good")
            ):
                self._hold(running, verdict.trigger, verdict.numbers)
            else:
                self._record.save(self._observer.state)
            self._hosted.fault = ""
        except JournalError as error:
            self._steps.not_recorded(error)
        finally:
            self._turn.release()

    # --- parts -------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One order at a time, between two looks.

        Raises ConflictError for a second order, ServiceError where a look does not end.
        """
        if not self._changing.acquire(blocking=False):
            raise ConflictError("another change of this model is under way")
        try:
            if not self._turn.acquire(timeout=TURN_SECONDS):
                raise ServiceError(
                    "the server is still looking at this model's rollout; nothing is changed",
                    hint="look at the disks that hold the state and the candidate",
                    wait_seconds=5.0,
                )
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._changing.release()

    @contextmanager
    def _change(self) -> Iterator[Traffic]:
        """The traffic, for one change at a time; raises ConflictError for a second one."""
        with self._alone():
            traffic = self._hosted.traffic
            if traffic is None:
                raise ConflictError(f"model '{self._hosted.name}' is not ready")
            yield traffic

    def _numbers(self, traffic: Traffic) -> dict[str, Any]:
        """Those behind an order, up to this moment."""
        if traffic.watch is not None:
            self._observer.look(traffic, traffic.watch)
        return self._observer.numbers()

    def _promote(self, traffic: Traffic, running: Running, verdict: Verdict) -> None:
        try:
            self._steps.promote(traffic, verdict.trigger, verdict.numbers)
        except JournalError:
            raise
        except InterlockError as error:
            # Put back, its files may be promoted by a person; what runs is not to be undone.
            self._hold(running, "not_loaded", verdict.numbers | {"code": error.code})

    def _hold(self, running: Running, trigger: str, numbers: dict[str, Any]) -> None:
        held = msgspec.structs.replace(running, held=trigger)
        self._record.decide("held", trigger, numbers, running=held)

    def _start_again(self) -> dict[str, Any]:
        with self._alone():
            try:
                traffic = self._hosted.traffic = self.begin()
                self._hosted.error = None
            except InterlockError as error:
                self._hosted.error = error
                raise
        digest = traffic.stable.digest
        self._log("model_ready", model=self._hosted.name, digest=digest)
        return {"model": self._hosted.name, "changed": True, "digest": digest}


def _words(reason: str) -> str:
    """An operator's reason, told apart from the words that stand for the server's own decisions."""
    server = reason in TRIGGERS or reason.startswith(NOT_LOADED)
    return f"{ASKED}: {reason}" if server else reason
