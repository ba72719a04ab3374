"""What a run kept of the contracts on parallel summaries: measured, with the bar beside it."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass

import msgspec

from interlock.kernel.intervals import wilson_interval
from interlock.kernel.outcome import Status
from interlock.summarize.run import Finished, summary_of

SECONDS_A_CHUNK = 2.0
SUCCESS = 0.95
EFFICIENCY = 0.8
MEMORY_BYTES = 4 * 2**30
INIT_SECONDS = 30.0


class Contracts(msgspec.Struct, frozen=True):
    """Figures of one start of a run, over the chunks that it asked for itself.

    chunks           all chunks of the tree
    asked            those of them that this start summarised
    instances, cores summaries at a time, and processors that may be used
    init_seconds     loading the model; None without one
    chunk_seconds_*  service time of the model a chunk, attempts that were refused included, and
                     without waiting for a turn; None where the model was not asked
    success          chunks of all that ended with a summary that passed its checks
    success_low, success_high  95% score interval of that share
    model_share      chunks of all whose summary is the model's
    efficiency       tokens a second with all instances / (cores used x tokens a second with one);
                     None where no baseline was run
    busy             processor time / (wall time x cores used): how far the cores were kept busy;
                     None where worker processes ran, which loaded their models in it
    memory_bytes     highest resident memory of this process, and of its largest child
    seconds          wall time of this start
    tokens_a_second  read and written
    """

    chunks: int
    asked: int
    instances: int
    cores: int
    init_seconds: float | None
    chunk_seconds_median: float | None
    chunk_seconds_p95: float | None
    chunk_seconds_longest: float | None
    success: float
    success_low: float
    success_high: float
    model_share: float
    efficiency: float | None
    busy: float | None
    memory_bytes: int
    seconds: float
    tokens_a_second: float | None

    def kept(self) -> list[tuple[str, str, str, bool | None]]:
        """Name, measured, bar, and whether it holds; None where it was not measured."""
        p95 = self.chunk_seconds_p95
        rows: list[tuple[str, str, str, bool | None]] = [
            ("chunks", f"{self.chunks:,}", "every line in one", True),
            ("instances", f"{self.instances} on {self.cores} cores", "as asked for", True),
            (
                "service time a chunk, 95% of them",
                _seconds(p95),
                f"< {SECONDS_A_CHUNK:g} s",
                None if p95 is None else p95 < SECONDS_A_CHUNK,
            ),
            (
                "success rate",
                f"{self.success:.1%} ({self.success_low:.1%} to {self.success_high:.1%})",
                f">= {SUCCESS:.0%}",
                self.success >= SUCCESS,
            ),
            (
                "parallel efficiency",
                "not measured" if self.efficiency is None else f"{self.efficiency:.0%}",
                f">= {EFFICIENCY:.0%}",
                None if self.efficiency is None else self.efficiency >= EFFICIENCY,
            ),
            (
                "memory",
                f"{self.memory_bytes / 2**30:.2f} GiB",
                f"< {MEMORY_BYTES // 2**30} GiB",
                self.memory_bytes < MEMORY_BYTES,
            ),
            (
                "initialisation",
                _seconds(self.init_seconds),
                f"< {INIT_SECONDS:g} s",
                None if self.init_seconds is None else self.init_seconds < INIT_SECONDS,
            ),
        ]
        return rows


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds of this process and of its ended children, and the peak memory of both."""

    own_seconds: float
    child_seconds: float
    memory_bytes: int


def usage() -> Usage:
    """What was used up to this moment."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(
        own.ru_utime + own.ru_stime,
        children.ru_utime + children.ru_stime,
        (own.ru_maxrss + children.ru_maxrss) * unit,
    )


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure(
    finished: Finished, *, before: Usage, init_seconds: float | None, efficiency: float | None
) -> Contracts:
    """The figures of a run that has ended; `before` was taken when it began."""
    plan = finished.plan
    chunks = [node.key for node in plan.level("chunk")]
    after = usage()
    asked = [key for key in chunks if key not in finished.reused]
    spent = [
        summary.spent
        for key in plan.nodes
        if key not in finished.reused and (summary := summary_of(finished.outcomes[key]))
    ]
    times = sorted(
        summary.spent.seconds
        for key in asked
        if (summary := summary_of(finished.outcomes[key])) and summary.spent.attempts
    )
    usable = sum(finished.outcomes[key].status.usable for key in chunks)
    by_model = sum(
        (summary := summary_of(finished.outcomes[key])) is not None and summary.origin == "model"
        for key in chunks
    )
    low, high = wilson_interval(usable, len(chunks)) if chunks else (0.0, 1.0)
    used = min(cores(), plan.options.instances)
    apart = after.child_seconds > before.child_seconds
    tokens = sum(each.input_tokens + each.output_tokens for each in spent)
    seconds = max(finished.seconds, 1e-9)
    return Contracts(
        chunks=len(chunks),
        asked=len(asked),
        instances=plan.options.instances,
        cores=cores(),
        init_seconds=init_seconds,
        chunk_seconds_median=_at(times, 0.5),
        chunk_seconds_p95=_at(times, 0.95),
        chunk_seconds_longest=_at(times, 1.0),
        success=usable / max(1, len(chunks)),
        success_low=low,
        success_high=high,
        model_share=by_model / max(1, len(chunks)),
        efficiency=efficiency,
        busy=None if apart else (after.own_seconds - before.own_seconds) / (seconds * used),
        memory_bytes=after.memory_bytes,
        seconds=finished.seconds,
        tokens_a_second=tokens / seconds if tokens else None,
    )


def status_counts(finished: Finished) -> dict[Status, int]:
    """How many nodes ended in each status."""
    counts = dict.fromkeys(Status, 0)
    for outcome in finished.outcomes.values():
        counts[outcome.status] += 1
    return counts


def _at(ordered: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed."""
    if not ordered:
        return None
    rank = max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))
    return ordered[rank]


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} s"
