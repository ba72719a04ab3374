"""The process that runs slices again: one for many, and a bad one costs itself alone."""

from __future__ import annotations

import numpy as np
import pytest
from support.models import affine, endless_loop, memory_bomb

from interlock.engines.onnx import OnnxSession
from interlock.errors import DeadlineError, EngineError
from interlock.kernel.clock import Deadline
from interlock.verified.replay_process import ReplayProcess

ONE = {"x": np.ones(1, np.float32)}
ROW = {"x": np.ones((1, 3), np.float32)}


def test_one_process_runs_many_models() -> None:
    expected = OnnxSession(affine()).run(ROW)
    with ReplayProcess() as process:
        process.start()
        pid = process._worker.pid
        for level in ("all", "none"):
            found = process.run(affine(), ROW, tuple(expected), optimization=level)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert process._worker.pid == pid


@pytest.mark.parametrize("model", [endless_loop(), memory_bomb(), b"none"])
def test_a_run_that_fails_costs_itself_alone(model: bytes) -> None:
    with ReplayProcess() as process:
        with pytest.raises(EngineError):
            process.run(model, ONE, ("y",), deadline=Deadline.after(5))
        assert process.run(affine(), ROW, ("y", "total"))


def test_a_run_that_is_late_is_killed() -> None:
    with ReplayProcess() as process, pytest.raises(DeadlineError):
        process.run(endless_loop(), ONE, ("y",), deadline=Deadline.after(2))
