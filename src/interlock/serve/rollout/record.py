"""Where one model stands, and what was decided about it: on the disk first, believed afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from interlock.kernel.clock import Clock
from interlock.kernel.errors import ConfigError, StorageError
from interlock.serve.rollout.evidence import TRIGGERS, EvidenceState
from interlock.serve.rollout.recent import ConflictError
from interlock.serve.rollout.store import Decision, Placement, RolloutStore, Running
from interlock.serve.server_log import Log
from interlock.serve.settings import ModelSettings

SAVE_SECONDS = 5.0
_MOST_SETTLED = 50
OPERATOR = "operator"
NOT_LOADED = "it could not be loaded again"
"""How the reason begins where a restart ends a rollout, since its candidate does not load."""

OnDecision = Callable[[Decision], None]


class Record:
    """The placement of one model, and its journal. Changed by one thread at a time.

    store  None where the server keeps no state; nothing can then be decided
    """

    def __init__(
        self,
        model: str,
        own: ModelSettings,
        store: RolloutStore | None,
        *,
        clock: Clock,
        log: Log,
        on_decision: OnDecision,
    ) -> None:
        self._model = model
        self._own = own
        # The feature flag decides by itself; what was recorded waits until it is taken away.
        self._store = store if own.use_candidate is None else None
        self._clock = clock
        self._log = log
        self._on_decision = on_decision
        self._saved = clock.monotonic()
        self.placement = Placement(configured=self._configured)
        self.taken_up = self._store is None

    @property
    def kept(self) -> bool:
        """Whether there is a place to keep it."""
        return self._store is not None

    @property
    def running(self) -> Running | None:
        """The rollout under way."""
        return self.placement.running

    def check_flag(self) -> None:
        """Raise ConflictError where the feature flag decides, and nothing is recorded."""
        if self._own.use_candidate is not None:
            raise ConflictError("use_candidate is set, and decides which version is served")

    def require(self) -> None:
        """Raise ConflictError or ConfigError where no rollout can be recorded."""
        self.check_flag()
        if self._store is None:
            raise ConfigError("rollouts need a directory for their state", hint="set `state`")
        self.check_taken_up()

    def check_taken_up(self) -> None:
        """Raise StorageError where what an earlier server recorded is not known, and must stand."""
        if not self.taken_up:
            raise StorageError("the rollout's state cannot be used", hint="it is tried again")

    def take_up(self) -> None:
        """Read what an earlier server recorded, if it was for this configuration.

        Raises JournalError where that cannot be read, StorageError where it cannot be recorded
        that it no longer counts; the placement is then that of the configuration.
        """
        found = None if self._store is None else self._store.placement(self._model)
        if found is not None and found.configured == self._configured:
            self.placement = found
        elif found is not None:
            try:
                self._supersede(found)
            except StorageError:
                self.forget()
                raise
        self.taken_up = True

    def forget(self) -> None:
        """Undo `take_up`."""
        self.placement = Placement(configured=self._configured)
        self.taken_up = False

    def probe(self) -> None:
        """Raise StorageError where nothing could be recorded now."""
        assert self._store is not None
        self._store.save(self._model, self.placement)

    def _supersede(self, found: Placement) -> None:
        # Whoever edited the configuration meant it.
        self.placement = found
        self.decide(
            "superseded",
            "the configuration names another version",
            {"before": list(found.configured), "now": list(self._configured)},
            ends=found.running is not None,
            configured=self._configured,
            stable=None,
            previous=None,
            running=None,
        )

    def decide(
        self,
        decision: str,
        reason: str,
        numbers: dict[str, Any],
        *,
        ends: bool = False,
        **changes: Any,
    ) -> None:
        """Record a decision and the changes of the placement that it means.

        Raises StorageError where that fails; nothing has then changed.
        """
        assert self._store is not None
        before = self.placement.running
        placed = msgspec.structs.replace(self.placement, **changes)
        rollout = placed.running or before
        if ends and before is not None and decision != "superseded":
            settled = (*placed.settled, before.candidate.digest)[-_MOST_SETTLED:]
            placed = msgspec.structs.replace(placed, settled=settled)
        made = self._store.decide(
            Decision(
                model=self._model,
                rollout="" if rollout is None else rollout.id,
                decision=decision,
                reason=reason,
                ends=ends,
                numbers=numbers,
            ),
            placed,
        )
        self.placement = placed
        self._log(
            "rollout", model=self._model, rollout=made.rollout, decision=decision,
            trigger=trigger_of(made), number=made.number,
        )  # fmt: skip
        self._on_decision(made)

    def save(self, evidence: Callable[[], EvidenceState | None]) -> bool:
        """Keep what was seen, if some time has passed; a death costs evidence, but no decision.

        Whether it was kept. Raises StorageError.
        """
        now = self._clock.monotonic()
        running = self.placement.running
        if self._store is None or running is None or now - self._saved < SAVE_SECONDS:
            return False
        kept = msgspec.structs.replace(running, evidence=evidence())
        placed = msgspec.structs.replace(self.placement, running=kept)
        self._store.save(self._model, placed)
        self.placement, self._saved = placed, now
        return True

    def check_not_rolled_back(self) -> None:
        """Raise ConflictError where the last change of what runs was the end of a rollout."""
        for made in reversed(self.decisions(_MOST_SETTLED)):
            if made.decision in ("not_started", "held"):
                continue
            if made.decision == "rolled_back":
                raise ConflictError(
                    f"the rollout was rolled back already, at {made.at}: {made.reason}",
                    hint="--previous, or `previous` of the admin API, returns to the version "
                    "before this one",
                )
            return

    def decisions(self, last: int) -> list[Decision]:
        """The latest ones, in order; raises StorageError."""
        return [] if self._store is None else self._store.decisions(self._model, last)

    @property
    def _configured(self) -> tuple[str, str | None]:
        return self._own.path, self._own.expected_digest


def trigger_of(made: Decision) -> str:
    """What made a decision, as one of a few words: an operator's own are for the journal."""
    if made.reason in TRIGGERS:
        return made.reason
    if made.reason.startswith(f"{NOT_LOADED}: "):
        return "not_loaded"
    return "configured" if made.decision in ("superseded", "not_started") else OPERATOR
