"""Measures whether more threads make a model answer sooner on this machine."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from interlock.engines.onnx import OnnxSession, SessionConfig
from interlock.kernel.batch import Array
from interlock.kernel.clock import SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import ConfigError

_WORTH_IT = 1.1


@dataclass(frozen=True)
class ThreadProbe:
    """What was measured: median seconds a run and speed-up over the fewest threads, by threads.

    `fastest` is the smallest number of threads of which no larger one is a tenth faster. It is
    about one run at a time; for throughput, as many sessions with one thread as there are
    cores do better unless a speed-up is close to the number of its threads.
    """

    seconds: Mapping[int, float]
    speedup: Mapping[int, float]
    runs: int
    fastest: int


def probe_threads(
    model: bytes,
    inputs: Mapping[str, Array],
    *,
    threads: Sequence[int] | None = None,
    config: SessionConfig | None = None,
    seconds: float = 2.0,
    clock: Clock = SYSTEM_CLOCK,
) -> ThreadProbe:
    """Run the model on `inputs` with each number of intra-op threads, in turns, for `seconds`.

    `threads` defaults to 1, 2, 4, … up to the cores that this process may use. Each is run
    at least 5 times, so a slow model takes longer. Raises as `OnnxSession` does.
    """
    counts = sorted(set(threads)) if threads is not None else _doublings(_cores())
    if not counts or counts[0] < 1:
        raise ConfigError(f"threads is {list(threads or ())}; it needs numbers of 1 or more")
    config = config if config is not None else SessionConfig()
    sessions = {n: OnnxSession(model, replace(config, intra_op_threads=n)) for n in counts}
    for session in sessions.values():
        session.run(inputs)
    times: dict[int, list[float]] = {n: [] for n in counts}
    end = Deadline.after(seconds, clock)
    while len(times[counts[0]]) < 5 or not end.expired:
        # In turns, so that a busy moment of the machine meets all of them.
        for n, session in sessions.items():
            began = clock.monotonic()
            session.run(inputs)
            times[n].append(clock.monotonic() - began)
    medians = {n: statistics.median(found) for n, found in times.items()}
    fastest = counts[0]
    for n in counts[1:]:
        if medians[n] * _WORTH_IT <= medians[fastest]:
            fastest = n
    speedup = {n: medians[counts[0]] / medians[n] for n in counts}
    return ThreadProbe(medians, speedup, len(times[counts[0]]), fastest)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _doublings(cores: int) -> list[int]:
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    return counts
