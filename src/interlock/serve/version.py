"""One version of a model that is loaded: its queue, its canary, and the requests that are in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from interlock.bundle.metadata import TensorSpec
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import ConfigError, EngineUnavailableError, InterlockError
from interlock.serve.health import Canary
from interlock.serve.lane import Lane, Ran
from interlock.serve.opening import open_model
from interlock.serve.served import Served, Workers
from interlock.serve.settings import ModelSettings, Settings
from interlock.serve.text_served import TextServed

TEXT_DEGRADED_MS = 500.0


class Version:
    """A model that passed its self-test. Requests enter and leave it; `retire` waits for them.

    seconds  that it took to load and test
    """

    def __init__(
        self,
        settings: ModelSettings,
        served: Served,
        lane: Lane,
        canary: Canary,
        seconds: float = 0.0,
    ) -> None:
        self.settings = settings
        self.served = served
        self.lane = lane
        self.canary = canary
        self.seconds = seconds
        self._inside = 0
        self._retired = False
        self._changed = threading.Condition()

    @property
    def digest(self) -> str:
        """Of what runs."""
        return self.served.version

    def enter(self) -> bool:
        """Count a request in; False where the version has been retired, and must not be asked."""
        with self._changed:
            if self._retired:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """Count it out."""
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def retire(self, seconds: float) -> Workers:
        """Take no more requests, wait for those inside, for up to `seconds`, and end its processes.

        How its workers were at the end.
        """
        until = time.monotonic() + seconds
        with self._changed:
            self._retired = True
            while self._inside and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
        self.lane.close(max(0.0, until - time.monotonic()))
        workers = self.served.workers()
        self.served.close()
        return workers


def check_interface(new: Served, old: Served) -> None:
    """Raise ConfigError where clients of the old version could not ask the new one."""
    for what, mine, theirs in (
        ("inputs", new.inputs, old.inputs),
        ("outputs", new.outputs, old.outputs),
    ):
        if [_form(spec) for spec in mine] != [_form(spec) for spec in theirs]:
            raise ConfigError(
                f"the new version's {what} differ from the old one's",
                hint="serve it as a model of its own",
            )
    if new.by_rows != old.by_rows:
        which = "new" if new.by_rows else "old"
        raise ConfigError(
            f"the {which} version answers by rows, and the other does not",
            hint="their tensors must start with the same named dimension, or with none",
        )


def _form(spec: TensorSpec) -> tuple[str, str, list[int]]:
    """A tensor without the names of its open dimensions."""
    return spec.name, spec.dtype, [dim if isinstance(dim, int) else -1 for dim in spec.shape]


def _check_positive(own: ModelSettings, served: Served) -> None:
    outputs = [spec.name for spec in served.outputs]
    if own.positive is not None and own.positive not in outputs:
        raise ConfigError(
            f"positive is {own.positive!r}, which is no output of model '{served.name}'",
            hint=f"it has {', '.join(outputs)}",
        )


def open_version(
    name: str,
    own: ModelSettings,
    settings: Settings,
    base: Path,
    on_run: Callable[[Ran], None],
) -> Version:
    """Open, load and self-test a model; nothing of it is left where that fails.

    Raises InterlockError; what else loading raises becomes EngineUnavailableError of its type.
    """
    began = time.monotonic()
    served: Served | None = None
    try:
        served = open_model(name, own, base)
        served.start(Deadline.after(settings.start_seconds))
        _check_positive(own, served)
    except Exception as error:
        if served is not None:
            served.close()
        if isinstance(error, InterlockError):
            raise
        raise EngineUnavailableError(f"loading raised {type(error).__name__}") from None
    limit = own.degraded_ms
    if limit is None:
        # A few tokens of the smallest text model take longer than what suits a classifier.
        least = TEXT_DEGRADED_MS if isinstance(served, TextServed) else 0.0
        limit = max(settings.degraded_ms, least)
    canary = Canary(served, degraded_ms=limit, seconds=settings.health_seconds)
    lane = Lane(
        served,
        threads=own.workers,
        limit=own.queue,
        standing=own.standing_queue,
        batch_rows=own.batch_rows,
        batch_wait=own.batch_wait_ms / 1e3,
        on_run=on_run,
    )
    return Version(own, served, lane, canary, time.monotonic() - began)
