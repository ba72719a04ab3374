"""Models that never end, take all memory or crash: ended in time, and the pool whole again."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support import models
from support.counts import count
from support.processes import gone

from interlock.engines.onnx import OnnxSession
from interlock.engines.worker import WorkerPool
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import DeadlineError, MemoryLimitError

LATE = 0.5  # seconds after the deadline by which the caller must be back
ONE = {"x": np.ones(1, np.float32)}


@pytest.mark.parametrize("limit", [None, 1500 << 20], ids=["unlimited", "limited"])
@pytest.mark.parametrize(
    "model", [models.endless_loop(), models.giant_product()], ids=["endless loop", "giant product"]
)
def test_a_run_that_does_not_end_is_ended(model: bytes, limit: int | None) -> None:
    with WorkerPool(model, size=2, memory_limit=limit) as pool:
        pool.start()
        for _ in range(count(1, 20)):
            before = set(pool.pids)
            assert len(before) == 2
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                pool.run(ONE, deadline=Deadline.after(0.6))
            assert time.monotonic() - began < 0.6 + LATE
            killed = before - set(pool.pids)
            assert len(killed) == 1
            assert gone(killed.pop())
            _whole(pool)


def test_loading_that_does_not_end_is_ended() -> None:
    with WorkerPool(models.giant_product(8000, folded=True)) as pool:
        for load in (pool.start, lambda deadline: pool.run(ONE, deadline=deadline)):
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                load(deadline=Deadline.after(1.0))
            assert time.monotonic() - began < 1.0 + LATE
            assert pool.alive == 0


@pytest.mark.parametrize(
    "model", [models.memory_bomb(), models.memory_staircase()], ids=["at once", "step by step"]
)
def test_a_memory_bomb_is_ended_by_the_limit(model: bytes) -> None:
    with WorkerPool(model, size=2, memory_limit=400 << 20) as pool:
        pool.start()
        for _ in range(count(2, 20)):
            with pytest.raises(MemoryLimitError):
                pool.run(ONE, deadline=Deadline.after(60))
            _whole(pool)


@pytest.mark.parametrize("folded", [False, True])
def test_a_product_that_fits_its_limits_is_answered(folded: bool) -> None:
    """The control: what ends the others is their size, and not the worker."""
    model = models.giant_product(100, folded=folded)
    here = OnnxSession(model).run(ONE)
    with WorkerPool(model, memory_limit=400 << 20) as pool:
        assert np.array_equal(pool.run(ONE, deadline=Deadline.after(60))["y"], here["y"])


def _whole(pool: WorkerPool) -> None:
    """Wait until all processes run again; the time only ends a hang of the test."""
    end = time.monotonic() + 30
    while pool.alive < pool.size or pool._free.qsize() < pool.size:
        assert time.monotonic() < end
        time.sleep(0.005)
