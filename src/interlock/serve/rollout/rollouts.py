"""The rollouts of a server: one for each model, looked at from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.kernel.errors import InterlockError
from interlock.serve.metrics import Metrics
from interlock.serve.rollout.control import ModelRollout
from interlock.serve.rollout.metrics import RolloutMetrics
from interlock.serve.rollout.recent import Recent, Remembered
from interlock.serve.rollout.store import RolloutStore
from interlock.serve.rollout.traffic import Pick, Traffic, verdicts
from interlock.serve.served import Answer
from interlock.serve.server_log import Log
from interlock.serve.settings import Settings

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted, Hosting

TICK_SECONDS = 0.5
CLOSE_SECONDS = 5.0
"""For which the end of the server waits for looks that are under way."""


class Rollouts:
    """Rollouts, reloads and feedback of all models of a server."""

    def __init__(self, hosting: Hosting, settings: Settings, metrics: Metrics, log: Log) -> None:
        """Raises ConfigError for another server's state, JournalError for a newer release's."""
        self.store = None if settings.state is None else RolloutStore(Path(settings.state))
        self.recent = Recent(settings.recent)
        self.metrics = RolloutMetrics(metrics.registry, hosting.models.values())
        self.models = {
            name: ModelRollout(
                hosted,
                open=lambda own, hosted=hosted: hosting.open(hosted, own),  # type: ignore[misc]
                check=hosting.check,
                store=self.store,
                drain_seconds=settings.drain_seconds,
                log=log,
                on_decision=self.metrics.decided,
            )
            for name, hosted in hosting.models.items()
        }
        self._hosted = hosting.models
        self._log = log
        self._stop = threading.Event()
        # The files of one model may lie on a disk that hangs; the others are judged meanwhile.
        self._threads = [
            threading.Thread(
                target=self._look, args=(model,), name=f"interlock-rollout-{name}", daemon=True
            )
            for name, model in self.models.items()
        ]

    def begin(self, hosted: Hosted) -> Traffic:
        """See `ModelRollout.begin`."""
        return self.models[hosted.name].begin()

    def start(self) -> None:
        """Judge what runs, now and then, until `close`."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Judge nothing further, and let go of the state directory.

        A look that does not end in time can record nothing from then on, and so changes nothing.
        """
        self._stop.set()
        until = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        if self.store is not None:
            self.store.close()

    def remember(self, request_id: str, hosted: Hosted, pick: Pick, answer: Answer) -> None:
        """Keep an answer's verdicts, and a shadow's where it comes, for a label."""
        positive = hosted.settings.positive
        kept = Remembered(
            hosted.name,
            pick.version.digest,
            pick.rollout,
            pick.candidate,
            verdicts(answer, positive),
        )
        self.recent.put(request_id, kept)
        if pick.shadow is not None:

            def told(shadow: asyncio.Future[Answer]) -> None:
                if not shadow.cancelled():
                    kept.shadow = verdicts(shadow.result(), positive)

            pick.shadow.add_done_callback(told)

    def label(self, request_id: str, row: int, truth: bool) -> dict[str, object]:
        """Take a label of an answer; see `Recent.label` for the errors."""
        found = self.recent.label(request_id, row, truth)
        answer = found.answer
        if found.counted:
            self.metrics.labelled(answer.model, answer.candidate, found.verdict, truth)
            self._note(found.answer.model, answer.rollout, answer.candidate, found.verdict, truth)
            if found.shadow is not None:
                self.metrics.labelled(answer.model, True, found.shadow, truth)
                self._note(answer.model, answer.rollout, True, found.shadow, truth)
        return {
            "request_id": request_id,
            "row": row,
            "model": answer.model,
            "digest": answer.digest,
            "verdict": "positive" if found.verdict else "negative",
            "label": "positive" if truth else "negative",
            "counted": found.counted,
        }

    def _note(self, model: str, rollout: str, candidate: bool, verdict: bool, truth: bool) -> None:
        traffic = self._hosted[model].traffic
        watch = None if traffic is None else traffic.watch
        if watch is not None and watch.rollout == rollout:
            watch.labels.append((candidate, verdict, truth))

    def _look(self, model: ModelRollout) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                model.tick()
            except InterlockError as error:
                self._log("rollout_error", code=error.code)
            except Exception as error:  # noqa: BLE001 - it must be looked at again
                self._log("rollout_error", error=type(error).__name__)
