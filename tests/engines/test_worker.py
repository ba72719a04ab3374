"""ONNX models in killable processes: the same answers, hard limits, a pool that stays whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support import models
from support.processes import gone

from interlock.engines import worker
from interlock.engines.onnx import OnnxSession, SessionConfig
from interlock.engines.worker import WorkerEngine, WorkerPool
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    ConfigError,
    DeadlineError,
    EngineCrashError,
    EngineError,
    EngineUnavailableError,
    InputError,
)
from interlock.kernel.route import Route, RouteStep

X = np.arange(6, dtype=np.float32).reshape(2, 3)
LATE = 0.5


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(models.affine(), size=2, memory_limit=1 << 30, name="arm") as pool:
        pool.start()
        yield pool


def test_the_answer_is_the_one_of_a_session_here_bit_for_bit(pool: WorkerPool) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    here = OnnxSession(models.affine()).run({"x": x})
    there = pool.run({"x": x})
    assert list(there) == list(here)
    for name, array in here.items():
        assert there[name].dtype == array.dtype
        assert np.array_equal(there[name], array)
    assert list(pool.run({"x": x}, outputs=["total"])) == ["total"]


def test_text_crosses() -> None:
    with WorkerPool(models.is_yes()) as pool:
        assert pool.run({"text": np.array(["yes", "nö"])})["same"].tolist() == [True, False]


def test_errors_are_those_of_a_session_here(pool: WorkerPool) -> None:
    pids = pool.pids
    with pytest.raises(InputError, match="input 'x' has dtype float64"):
        pool.run({"x": X.astype(np.float64)})
    with pytest.raises(InputError, match="output 'z'"):
        pool.run({"x": X}, outputs=["z"])
    assert pool.pids == pids
    with (
        WorkerPool(models.gather()) as gather,
        pytest.raises(EngineError, match="node 'look up'"),
    ):
        gather.run({"i": np.array([9])})


def test_a_model_that_does_not_load_says_why_at_the_start_and_at_each_call() -> None:
    with WorkerPool(b"not a model", size=2) as pool:
        with pytest.raises(EngineUnavailableError, match="cannot be loaded"):
            pool.start()
        for _ in range(3):
            with pytest.raises(EngineUnavailableError, match="cannot be loaded"):
                pool.run({"x": X})
        assert pool.alive == 0


def test_the_configuration_reaches_the_process() -> None:
    config = SessionConfig(providers=("NoSuchExecutionProvider",))
    with (
        WorkerPool(models.affine(), config) as pool,
        pytest.raises(EngineUnavailableError, match="NoSuch"),
    ):
        pool.start()


def test_processes_start_when_needed() -> None:
    with WorkerPool(models.affine(), size=2) as pool:
        assert pool.alive == 0
        pool.run({"x": X})
        pool.run({"x": X})
        assert pool.alive == 1
        pool.start()
        assert pool.alive == 2


def test_a_killed_process_is_replaced_without_being_asked(pool: WorkerPool) -> None:
    pool.start()
    before = set(pool.pids)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    assert np.array_equal(pool.run({"x": X})["y"], 2 * X + 1)
    _until(lambda: pool.alive >= 1)
    assert not before & set(pool.pids)


def test_processes_that_end_in_a_call_are_counted() -> None:
    with WorkerPool(models.endless_loop(), call_seconds=LATE) as pool:
        pool.start()
        assert (pool.replaced, pool.rss > 0) == (0, True)
        with pytest.raises(DeadlineError):
            pool.run({"x": np.ones(1, np.float32)})
        assert pool.replaced == 1


def test_calls_share_the_processes_and_wait_their_turn(pool: WorkerPool) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(50):
            x = np.full((number + 1, 3), 100 * number + turn, np.float32)
            if not np.array_equal(pool.run({"x": x})["y"], 2 * x + 1):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.alive <= pool.size == 2


def test_waiting_for_a_free_process_ends_at_the_deadline() -> None:
    with WorkerPool(models.endless_loop()) as pool:
        pool.start()
        x = {"x": np.ones(1, np.float32)}
        ended: list[str] = []

        def occupy() -> None:
            try:
                pool.run(x, deadline=Deadline.after(1.0))
            except DeadlineError as error:
                ended.append(error.message)

        thread = threading.Thread(target=occupy)
        thread.start()
        _until(pool._free.empty)
        with pytest.raises(DeadlineError, match="busy"):
            pool.run(x, deadline=Deadline.after(0.1))
        thread.join()
        assert ended == ["onnx worker: killed at the deadline"]


def test_the_pools_own_deadline_holds_where_the_call_has_none_or_a_later_one() -> None:
    with WorkerPool(models.endless_loop(), call_seconds=0.3) as pool:
        pool.start()
        for deadline in (Deadline(None), Deadline.after(60)):
            _until(lambda: pool.alive == 1)
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                pool.run({"x": np.ones(1, np.float32)}, deadline=deadline)
            assert time.monotonic() - began < 0.3 + LATE


def test_closing_ends_calls_under_way_and_leaves_no_process() -> None:
    pool = WorkerPool(models.endless_loop(), size=2)
    pool.start()
    pids = pool.pids
    ended: list[type[Exception]] = []

    def occupy() -> None:
        try:
            pool.run({"x": np.ones(1, np.float32)})
        except EngineCrashError as error:
            ended.append(type(error))

    thread = threading.Thread(target=occupy)
    thread.start()
    _until(lambda: pool._free.qsize() == 1)
    time.sleep(0.05)
    pool.close()
    thread.join()
    assert ended == [EngineCrashError]
    assert all(gone(pid) for pid in pids)
    with pytest.raises(EngineUnavailableError, match="closed"):
        pool.run({"x": np.ones(1, np.float32)})
    with pytest.raises(EngineUnavailableError, match="closed"):
        pool.start()
    assert pool.alive == 0


def test_a_wrong_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="size"):
        WorkerPool(models.affine(), size=0)
    with pytest.raises(ConfigError, match="call_seconds"):
        WorkerPool(models.affine(), call_seconds=0)
    with pytest.raises(ConfigError, match="memory_limit"):
        WorkerPool(models.affine(), memory_limit=1)


def test_the_engine_answers_in_a_route_and_hands_over_when_it_is_killed() -> None:
    with (
        WorkerEngine(models.endless_loop(), value="y", call_seconds=0.3) as endless,
        WorkerEngine(models.affine(), value="y", fields=("total",)) as good,
    ):
        endless.start()
        endless_then_good: Route[Any, Any] = Route(
            "r", (RouteStep("endless", endless), RouteStep("good", good)), "refuse"
        )
        # One batch that both take: the loop reads x (1,), the good one would not.
        outcome = endless_then_good.run_batch({"x": np.ones(1, np.float32)})
        assert [step.name for step in outcome.row(0).steps] == ["endless", "good"]
        assert "deadline" in outcome.row(0).steps[0].reason
        answer = good.answer_batch({"x": X, "other": X}, deadline=Deadline.after(60))
        assert np.array_equal(answer.value, 2 * X + 1)
        assert np.array_equal(answer.fields["total"], (2 * X + 1).sum(axis=1))
        assert np.array_equal(good.run({"x": X})["y"], 2 * X + 1)


@pytest.mark.parametrize("lie", ["nothing", "a list", "no array", "another output"])
def test_an_answer_without_the_outputs_is_a_crash(
    monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    monkeypatch.setattr(worker, "_TARGET", "support.workers:lying_model")
    with WorkerPool(lie.encode()) as pool, pytest.raises(EngineCrashError):
        pool.run({"x": X}, outputs=["y"])


def test_what_a_hostile_model_adds_to_its_answer_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_TARGET", "support.workers:lying_model")
    with WorkerPool(b"more than asked") as pool:
        assert list(pool.run({"x": X}, outputs=["y"])) == ["y"]


def _until(condition: Callable[[], bool], within: float = 20.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
