"""Soft deadlines: tells ONNX Runtime to stop a run whose time is over."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from interlock.kernel.clock import Deadline


@dataclass(eq=False)
class Watch:
    """One run under watch. `fired` says whether it was told to stop."""

    at: float
    options: Any
    fired: bool = False


@dataclass(eq=False)
class _Watcher:
    """One thread for all runs: starting a timer thread for each would cost more than small runs."""

    active: set[Watch] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    woken: threading.Event = field(default_factory=threading.Event)
    next_look: float = float("inf")

    def add(self, watch: Watch) -> None:
        with self.lock:
            self.active.add(watch)
            # Later moments are found when the thread looks next, without waking it for each.
            if watch.at < self.next_look:
                self.next_look = watch.at
                self.woken.set()

    def remove(self, watch: Watch) -> None:
        with self.lock:
            self.active.discard(watch)

    def work(self) -> None:
        while True:
            left = self.next_look - time.monotonic()
            self.woken.wait(min(left, threading.TIMEOUT_MAX) if left > 0 else 0)
            with self.lock:
                self.woken.clear()
                now = time.monotonic()
                for watch in self.active:
                    if watch.at <= now and not watch.fired:
                        watch.fired = True
                        watch.options.terminate = True
                waiting = (watch.at for watch in self.active if not watch.fired)
                self.next_look = min(waiting, default=float("inf"))


_started: tuple[int, _Watcher] | None = None
_starting = threading.Lock()


def _watcher() -> _Watcher:
    global _started
    with _starting:
        # A forked copy of this process has the object but not the thread.
        if _started is None or _started[0] != os.getpid():
            watcher = _Watcher()
            threading.Thread(target=watcher.work, name="interlock-deadline", daemon=True).start()
            _started = (os.getpid(), watcher)
        return _started[1]


@contextlib.contextmanager
def terminated_at(deadline: Deadline, options: Any) -> Iterator[Watch]:
    """Set `options.terminate` when the deadline comes while the block runs.

    The runtime looks at the flag between two nodes, so a long node runs to its end.
    """
    left = deadline.remaining()
    watch = Watch(float("inf") if left is None else time.monotonic() + left, options)
    if left is None:
        yield watch
        return
    watcher = _watcher()
    watcher.add(watch)
    try:
        yield watch
    finally:
        watcher.remove(watch)
