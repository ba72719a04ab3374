# The environment has to be set before the imports.
# ruff: noqa: E402
"""Times of several cases from one interleaved run, so that a busy machine slows all of them alike.

Import this module before NumPy: it pins the numeric libraries to one thread.
"""

from __future__ import annotations

import os

for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
):
    os.environ.setdefault(_variable, "1")

import gc
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Sampler = Callable[[int], float]
"""Runs a case the given number of times and returns the seconds of one run."""


def calls_of(case: Callable[[], object]) -> Sampler:
    """A sampler that calls `case`."""

    def sample(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            case()
        return (time.perf_counter() - start) / calls

    return sample


@dataclass(frozen=True)
class Times:
    """Seconds of one run of each case, sample by sample; sample i of all cases is one round."""

    samples: Mapping[str, Sequence[float]]

    def median(self, case: str) -> float:
        """The median time of `case`."""
        return statistics.median(self.samples[case])

    def ratio(self, case: str, base: str) -> tuple[float, float, float]:
        """Median, lower and upper quartile of the ratio of two cases, round by round."""
        pairs = zip(self.samples[case], self.samples[base], strict=True)
        low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        return middle, low, high


def interleaved(cases: Mapping[str, Sampler], *, rounds: int = 25, seconds: float = 0.02) -> Times:
    """Sample every case once a round, in an order that rotates, for about `seconds` each."""
    calls = {}
    for name, sample in cases.items():
        sample(1)
        calls[name] = max(1, min(100_000, round(seconds / max(sample(1), 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                samples[name].append(cases[name](calls[name]))
    finally:
        gc.enable()
    return Times(samples)


def machine(packages: Sequence[str] = ("numpy",)) -> str:
    """Processor, cores, Python and package versions, in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return (
        f"{model}, {os.cpu_count()} cores, 1 thread used; "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def duration(seconds: float) -> str:
    """A time with three digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def bar(name: str, figure: float, limit: float, *, at_least: bool = False) -> str:
    """One line that says whether a figure keeps to its bar."""
    kept = figure >= limit if at_least else figure <= limit
    sign = ">=" if at_least else "<="
    return f"{'kept  ' if kept else 'MISSED'} {name}: {figure:.3g} ({sign} {limit:g})"
