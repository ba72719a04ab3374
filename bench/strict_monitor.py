"""A monitor's update against counting the two masks, and what its options add."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import strict_decode

from interlock.strict import CalibratedRate, JsonlLogger, StrictInferenceMonitor

COUNTS, UPDATE, CALIBRATED = "two count_nonzero", "update", "update, calibration"


def run() -> list[str]:
    """Print every figure; return the lines of the bars."""
    bars = []
    with tempfile.TemporaryDirectory() as scratch:
        for n in (1, 1_000, 1_000_000):
            times = _update(n, Path(scratch) / f"events-{n}.jsonl")
            strict_decode.show(f"monitor, {n:,} rows", times, (COUNTS,))
            if n == 1:
                micros = times.median(CALIBRATED) * 1e6
                bars.append(measure.bar("monitor update, 1 row, us", micros, 5))
            if n == 1_000_000:
                ratio = times.ratio(CALIBRATED, COUNTS)[0]
                bars.append(measure.bar("monitor update / two count_nonzero, 1e6", ratio, 2))
    return bars


def _update(n: int, log: Path) -> measure.Times:
    draw = np.random.default_rng(6).random(n)
    bottom, gap = draw < 0.05, (draw >= 0.05) & (draw < 0.1)
    calibration = CalibratedRate(accepted=9_500, n=10_000)

    def monitor(**options: Any) -> StrictInferenceMonitor:
        return StrictInferenceMonitor("bench", calibration=calibration, **options)

    def count() -> tuple[int, int]:
        return int(np.count_nonzero(bottom)), int(np.count_nonzero(gap))

    cases: dict[str, Callable[[], object]] = {
        COUNTS: count,
        UPDATE: partial(StrictInferenceMonitor("bench").update, bottom, gap),
        CALIBRATED: partial(monitor().update, bottom, gap),
        "and route_mask": partial(monitor().update, bottom, gap, route_mask=bottom),
        "and q_abs": partial(monitor().update, bottom, gap, q_abs=draw),
        "and a log": partial(monitor(event_logger=JsonlLogger(log)).update, bottom, gap),
        "masks of two columns": partial(
            monitor().update, np.stack([bottom] * 2, axis=1), np.stack([gap] * 2, axis=1)
        ),
    }
    cases |= dict(_torch_case(monitor().update, bottom, gap))
    return measure.interleaved({name: measure.calls_of(case) for name, case in cases.items()})


def _torch_case(update: Any, bottom: Any, gap: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    yield "torch", partial(update, torch.from_numpy(bottom), torch.from_numpy(gap))
