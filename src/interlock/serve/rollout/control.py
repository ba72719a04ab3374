"""Starting, judging and ending the rollouts of one model; each step is recorded, then taken."""

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
    StorageError,
)
from interlock.serve.rollout.evidence import TRIGGERS, Evidence
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.rollout.settings import Mode
from interlock.serve.rollout.sticky import new_salt
from interlock.serve.rollout.store import Decision, Placement, RolloutStore, Running, Source
from interlock.serve.rollout.traffic import Traffic, Watch
from interlock.serve.server_log import Log
from interlock.serve.settings import ModelSettings

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted
    from interlock.serve.version import Version

SAVE_SECONDS = 5.0
MEMORY_SECONDS = 1.0
_MOST_SETTLED = 50

OnDecision = Callable[[Decision], None]


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
        self._open = open
        # The flag decides by itself; what was recorded waits until it is taken away.
        self._store = store if hosted.settings.use_candidate is None else None
        self._drain = drain_seconds + hosted.settings.call_seconds
        self._log = log
        self._on_decision = on_decision
        self._clock = clock or SystemClock()
        self._changing = threading.Lock()
        self._placement = Placement(configured=self._configured)
        self._evidence: Evidence | None = None
        self._saved = self._sampled = self._clock.monotonic()
        self._unsaved = False

    # --- what an operator asks for -----------------------------------------------------------

    def start(
        self,
        path: str,
        *,
        digest: str | None = None,
        mode: Mode | None = None,
        percent: float | None = None,
        reason: str = "asked for",
    ) -> dict[str, Any]:
        """Load a candidate and give it traffic; of the one that runs, change mode and percent.

        A change of either starts the evidence anew. Raises ConflictError, ConfigError for another
        interface or the same version, and what loading raises; the old version then stands.
        """
        self._needs_store()
        mode = mode or self._own.rollout
        percent = self._own.percent if percent is None else percent
        msgspec.structs.replace(self._own, rollout=mode, percent=percent)  # checks them
        with self._change() as traffic:
            running = self._placement.running
            if running is not None and running.candidate.path != path:
                raise ConflictError(
                    f"a rollout of {running.candidate.path} is under way", hint="roll it back first"
                )
            fresh = running is None or traffic.candidate is None
            version = traffic.candidate
            if fresh or version is None:
                version = self._load(path, digest, traffic.stable)
            try:
                if digest not in (None, version.digest):
                    raise BundleIntegrityError(f"the digest is {version.digest}, not {digest}")
                self._begin(version, path, mode, percent, reason)
            except BaseException:
                if fresh:
                    self._hosted.retire(version, 0.0)
                raise
        return self.status()

    def promote(self, reason: str = "asked for") -> dict[str, Any]:
        """Let the candidate answer everything, and keep the old version's place for a return."""
        self._needs_store()
        with self._change() as traffic:
            self._promote(traffic, reason, self._numbers())
        return self.status()

    def roll_back(self, reason: str = "asked for") -> dict[str, Any]:
        """End the rollout under way; where there is none, return to the version before this one."""
        self._needs_store()
        with self._change() as traffic:
            if self._placement.running is not None:
                self._roll_back(traffic, reason, self._numbers())
            else:
                self._revert(traffic, reason)
        return self.status()

    def reload(self, path: str | None = None, digest: str | None = None) -> dict[str, Any]:
        """Load the model again, or another path, and let it answer what comes from then on.

        The new version is loaded and tested first; where that fails, the old one stands. Whether
        anything changed is under `changed`.
        """
        with self._change() as traffic:
            if self._placement.running is not None:
                raise ConflictError("a rollout is under way", hint="end it first")
            source = path or traffic.stable.settings.path
            elsewhere = source != self._path
            if elsewhere and self._store is None:
                raise ConfigError("another path would be forgotten over a restart; set `state`")
            version = self._open(self._settings_of(source, digest, keep=not elsewhere))
            try:
                self._fits(version, traffic.stable)
                changed = version.digest != traffic.stable.digest
                if changed and self._store is not None:
                    placed = msgspec.structs.replace(
                        self._placement,
                        stable=Source(source, version.digest) if elsewhere else None,
                        previous=self._source_of(traffic.stable),
                    )
                    self._decide("", "reloaded", "asked for", placed, {"digest": version.digest})
            except BaseException:
                self._hosted.retire(version, 0.0)
                raise
            if not changed:
                self._hosted.retire(version, 0.0)
            else:
                self._swap(Traffic(version), traffic.stable)
                self._log("model_reloaded", model=self._hosted.name, digest=version.digest)
        return {"model": self._hosted.name, "changed": changed, "digest": version.digest}

    def status(self, decisions: int = 20) -> dict[str, Any]:
        """Versions, the rollout under way with its numbers, and the latest decisions."""
        traffic, placement = self._hosted.traffic, self._placement
        running, store = placement.running, self._store
        found: dict[str, Any] = {
            "model": self._hosted.name,
            "stable": None if traffic is None else _shown(traffic.stable),
            "previous": None if placement.previous is None else placement.previous.digest,
            "rollout": None,
            "fault": self._hosted.fault,
            "retiring": self._hosted.retiring,
            "decisions": [],
        }
        if running is not None:
            watch = None if traffic is None else traffic.watch
            found["rollout"] = {
                "id": running.id,
                "mode": running.mode,
                "percent": running.percent,
                "candidate": running.candidate.digest,
                "path": running.candidate.path,
                "started": running.started,
                "held": running.held,
                "asked": {} if watch is None else dict(watch.asked),
                "shadow": {} if watch is None else dict(watch.shadow),
                "evidence": self._numbers(),
            }
        if store is not None:
            try:
                made = store.decisions(self._hosted.name, decisions)
            except StorageError as error:
                found["fault"] = error.message
            else:
                found["decisions"] = [msgspec.to_builtins(decision) for decision in made]
        return found

    # --- what the server does ----------------------------------------------------------------

    def begin(self) -> Traffic:
        """The traffic when the server starts: what was recorded for this configuration, else it.

        A rollout under way is taken up where it was. Raises what keeps the stable version from
        being served; a candidate that cannot be loaded costs the rollout only.
        """
        own = self._own
        if own.use_candidate:
            return Traffic(self._open(self._settings_of(self._path, self._home_digest)))
        if self._store is not None:
            self._take_up(self._store)
        placed = self._placement.stable
        stable = self._open(
            own if placed is None else self._settings_of(placed.path, placed.digest)
        )
        self._hosted.traffic = traffic = Traffic(stable)
        if self._store is None:
            return traffic
        try:
            running = self._placement.running
            if running is not None:
                self._resume(traffic, running)
            elif own.candidate is not None:
                self._start_configured(traffic, own.candidate)
        except StorageError as error:
            self._not_recorded(error)
        return self._hosted.traffic

    def tick(self) -> None:
        """Work in what was seen since the last time and do what it comes to.

        Where that cannot be recorded it is not done: the model's health says so, and the next tick
        tries again.
        """
        traffic, evidence = self._hosted.traffic, self._evidence
        if traffic is None or traffic.watch is None or evidence is None:
            return
        if not self._changing.acquire(blocking=False):
            return
        try:
            if self._hosted.traffic is not traffic:
                return
            self._drain_into(evidence, traffic)
            running = self._placement.running
            if running is None:
                return
            verdict = evidence.judge()
            if verdict.action == "rollback":
                self._roll_back(traffic, verdict.trigger, verdict.numbers)
            elif verdict.action == "promote" and not running.held:
                self._promote(traffic, verdict.trigger, verdict.numbers)
            elif verdict.action == "hold" and running.held != verdict.trigger:
                held = msgspec.structs.replace(running, held=verdict.trigger)
                placed = msgspec.structs.replace(self._placement, running=held)
                self._decide(running.id, "held", verdict.trigger, placed, verdict.numbers)
            else:
                self._save(evidence)
            self._hosted.fault = ""
        except StorageError as error:
            self._not_recorded(error)
        finally:
            self._changing.release()

    # --- parts -------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        own = self._own
        return own.candidate if own.use_candidate and own.candidate else own.path

    @property
    def _home_digest(self) -> str | None:
        own = self._own
        return own.candidate_digest if own.use_candidate else own.expected_digest

    @property
    def _configured(self) -> tuple[str, str | None]:
        return self._own.path, self._own.expected_digest

    def _not_recorded(self, error: StorageError) -> None:
        if not self._hosted.fault:
            self._log("rollout_not_recorded", model=self._hosted.name, code=error.code)
        self._hosted.fault = "the rollout's state cannot be recorded"

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

    def _needs_store(self) -> None:
        if self._own.use_candidate is not None:
            raise ConflictError("use_candidate is set, and decides which version is served")
        if self._store is None:
            raise ConfigError("rollouts need a directory for their state", hint="set `state`")

    def _settings_of(self, path: str, digest: str | None, *, keep: bool = False) -> ModelSettings:
        """The model's settings for another path; `keep` its own digest where none is given."""
        expected = self._home_digest if keep and digest is None else digest
        kind = self._own.kind if keep else "auto"
        return msgspec.structs.replace(self._own, path=path, expected_digest=expected, kind=kind)

    def _source_of(self, stable: Version) -> Source:
        return Source(stable.settings.path, stable.digest)

    def _load(self, path: str, digest: str | None, stable: Version) -> Version:
        version = self._open(self._settings_of(path, digest))
        try:
            self._fits(version, stable)
            if version.digest == stable.digest:
                raise ConfigError(f"{path} is the version that is served already")
        except BaseException:
            self._hosted.retire(version, 0.0)
            raise
        return version

    def _fits(self, version: Version, stable: Version) -> None:
        """Raise ConfigError where clients of one version could not ask the other."""
        new, old = version.served, stable.served
        for what, mine, theirs in (
            ("inputs", new.inputs, old.inputs),
            ("outputs", new.outputs, old.outputs),
        ):
            told = [(s.name, s.dtype, _sizes(s.shape)) for s in mine]
            if told != [(s.name, s.dtype, _sizes(s.shape)) for s in theirs]:
                raise ConfigError(
                    f"the new version's {what} differ from the old one's",
                    hint="serve it as a model of its own",
                )

    def _begin(
        self,
        version: Version,
        path: str,
        mode: Mode,
        percent: float,
        reason: str,
    ) -> None:
        before = self._placement.running
        running = Running(
            id=secrets.token_hex(8),
            mode=mode,
            percent=percent,
            # A canary that grows keeps its clients.
            salt=new_salt() if before is None else before.salt,
            candidate=Source(path, version.digest),
            started=self._clock.now().isoformat(timespec="seconds"),
        )
        placed = msgspec.structs.replace(self._placement, running=running)
        numbers = {"mode": mode, "percent": percent, "candidate": version.digest, "path": path}
        self._decide(running.id, "started", reason, placed, numbers)
        traffic = self._hosted.traffic
        assert traffic is not None
        self._watch(traffic.stable, version, running)

    def _watch(self, stable: Version, candidate: Version, running: Running) -> None:
        own = self._own
        evidence = Evidence(own, running.mode, running.percent)
        if running.evidence is not None:
            evidence.restore(running.evidence)
        self._evidence = evidence
        watch = Watch(running.id, running.mode, own.rollback_p99_ms / 1e3, own.shadow_pending)
        self._hosted.traffic = Traffic(stable, candidate, running.percent, running.salt, watch)

    def _promote(self, traffic: Traffic, reason: str, numbers: dict[str, Any]) -> None:
        running, candidate = self._under_way(traffic)
        placed = msgspec.structs.replace(
            self._placement,
            stable=running.candidate,
            previous=self._source_of(traffic.stable),
            running=None,
            settled=self._settled_with(running),
        )
        self._decide(running.id, "promoted", reason, placed, numbers, ends=True)
        self._evidence = None
        self._swap(Traffic(candidate), traffic.stable)

    def _roll_back(self, traffic: Traffic, reason: str, numbers: dict[str, Any]) -> None:
        running, candidate = self._under_way(traffic)
        placed = msgspec.structs.replace(
            self._placement, running=None, settled=self._settled_with(running)
        )
        self._decide(running.id, "rolled_back", reason, placed, numbers, ends=True)
        self._evidence = None
        self._swap(Traffic(traffic.stable), candidate)

    def _revert(self, traffic: Traffic, reason: str) -> None:
        previous = self._placement.previous
        if previous is None:
            raise ConflictError("there is no rollout, and no version before this one")
        version = self._open(self._settings_of(previous.path, previous.digest))
        try:
            self._fits(version, traffic.stable)
            at_home = previous.path == self._path and self._own.expected_digest in (
                None,
                previous.digest,
            )
            placed = msgspec.structs.replace(
                self._placement, stable=None if at_home else previous, previous=None
            )
            numbers = {"from": traffic.stable.digest, "to": version.digest}
            self._decide("", "reverted", reason, placed, numbers)
        except BaseException:
            self._hosted.retire(version, 0.0)
            raise
        self._swap(Traffic(version), traffic.stable)

    def _under_way(self, traffic: Traffic) -> tuple[Running, Version]:
        running = self._placement.running
        if running is None or traffic.candidate is None:
            raise ConflictError("no rollout is under way")
        return running, traffic.candidate

    def _settled_with(self, running: Running) -> tuple[str, ...]:
        return (*self._placement.settled, running.candidate.digest)[-_MOST_SETTLED:]

    def _swap(self, traffic: Traffic, old: Version) -> None:
        """From here on nobody meets the old version; those inside it are answered, then it ends."""
        self._hosted.traffic = traffic
        self._hosted.retire(old, self._drain)

    def _decide(
        self,
        rollout: str,
        decision: str,
        reason: str,
        placed: Placement,
        numbers: dict[str, Any],
        ends: bool = False,
    ) -> None:
        """Record, and only then believe."""
        assert self._store is not None
        made = self._store.decide(
            Decision(
                model=self._hosted.name,
                rollout=rollout,
                decision=decision,
                reason=reason,
                ends=ends,
                numbers=numbers,
            ),
            placed,
        )
        self._placement = placed
        # An operator's words are for the journal.
        trigger = reason if reason in TRIGGERS else "operator"
        self._log(
            "rollout", model=self._hosted.name, rollout=rollout, decision=decision,
            trigger=trigger, number=made.number,
        )  # fmt: skip
        self._on_decision(made)

    def _save(self, evidence: Evidence) -> None:
        """Keep what was seen, now and then: a death costs some of the evidence, no decision."""
        now = self._clock.monotonic()
        running = self._placement.running
        if not self._unsaved or running is None or now - self._saved < SAVE_SECONDS:
            return
        assert self._store is not None
        kept = msgspec.structs.replace(running, evidence=evidence.state())
        placed = msgspec.structs.replace(self._placement, running=kept)
        self._store.save(self._hosted.name, placed)
        self._placement, self._saved, self._unsaved = placed, now, False

    def _numbers(self) -> dict[str, Any]:
        evidence = self._evidence
        return {} if evidence is None else evidence.numbers()

    def _drain_into(self, evidence: Evidence, traffic: Traffic) -> None:
        watch = traffic.watch
        assert watch is not None
        while watch.seen:
            evidence.seen(watch.seen.popleft())
            self._unsaved = True
        while watch.labels:
            evidence.labelled(*watch.labels.popleft())
            self._unsaved = True
        now = self._clock.monotonic()
        if traffic.candidate is None or now - self._sampled < MEMORY_SECONDS:
            return
        self._sampled = now
        evidence.memory(_resident(traffic.candidate), _resident(traffic.stable))

    def _take_up(self, store: RolloutStore) -> None:
        found = store.placement(self._hosted.name)
        if found is None:
            return
        if found.configured == self._configured:
            self._placement = found
            return
        # Whoever edited the configuration meant it.
        fresh = Placement(configured=self._configured, settled=found.settled)
        rollout = "" if found.running is None else found.running.id
        numbers = {"before": list(found.configured), "now": list(self._configured)}
        self._decide(
            rollout, "superseded", "the configuration names another version", fresh, numbers,
            ends=found.running is not None,
        )  # fmt: skip

    def _resume(self, traffic: Traffic, running: Running) -> None:
        try:
            candidate = self._load(running.candidate.path, running.candidate.digest, traffic.stable)
        except InterlockError as error:
            placed = msgspec.structs.replace(
                self._placement, running=None, settled=self._settled_with(running)
            )
            reason = f"it could not be loaded again: {error.code}"
            self._decide(running.id, "rolled_back", reason, placed, {}, ends=True)
            return
        try:
            self._watch(traffic.stable, candidate, running)
        except InputError:
            # Settings that shape the tests have changed; what was seen no longer counts.
            running = msgspec.structs.replace(running, evidence=None)
            self._watch(traffic.stable, candidate, running)

    def _start_configured(self, traffic: Traffic, path: str) -> None:
        """Roll the configured candidate out, unless a rollout of it has ended before."""
        try:
            version = self._load(path, self._own.candidate_digest, traffic.stable)
        except InterlockError as error:
            self._log("candidate_failed", model=self._hosted.name, code=error.code)
            self._decide("", "not_started", error.code, self._placement, {"path": path})
            return
        if version.digest in self._placement.settled:
            self._hosted.retire(version, 0.0)
            return
        own = self._own
        try:
            self._begin(version, path, own.rollout, own.percent, "configured")
        except BaseException:
            self._hosted.retire(version, 0.0)
            raise


def _resident(version: Version) -> float:
    """Bytes of one of its processes, on average; 0 where none runs."""
    workers = version.served.workers()
    return workers.rss / len(workers.pids) if workers.pids else 0.0


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    """A shape without the names of open dimensions."""
    return [dim if isinstance(dim, int) else -1 for dim in shape]


def _shown(version: Version) -> dict[str, Any]:
    return {"digest": version.digest, "path": version.settings.path}
