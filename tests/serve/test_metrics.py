"""Metrics stay bounded, whatever a model or a client says."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from serve.test_lane import Doubling

from interlock.kernel.batch import BatchStep
from interlock.kernel.outcome import Outcome, Status, Step, StepResult
from interlock.kernel.route import BatchAnswer, BatchVerdict, Route, RouteStep
from interlock.serve.lane import Ran
from interlock.serve.metrics import MOST_REASONS, MOST_STEPS, Metrics, ModelState
from interlock.serve.served import Answer


def refused(reason: str) -> Answer:
    step = Step("model", StepResult.REFUSED, reason)
    return Answer(Outcome(status=Status.REFUSED, steps=(step,), action="refuse"), {})


def test_reasons_beyond_the_bound_are_counted_together() -> None:
    metrics = Metrics()
    for number in range(10 * MOST_REASONS):
        metrics.answered("m", 1, refused(f"value {number} is too large"))
    text = metrics.text().decode()
    lines = [line for line in text.splitlines() if line.startswith("interlock_reasons_total{")]
    assert len(lines) == MOST_REASONS + 1
    assert f'reason="other",step="model"}} {9 * MOST_REASONS}.0' in text


def test_of_an_error_the_code_is_a_reason_and_what_the_client_sent_is_not() -> None:
    metrics = Metrics()
    for number in range(3):
        step = Step("model", StepResult.ERROR, f"engine: index {number} is out of bounds")
        failed: Outcome[Any] = Outcome(status=Status.FAILED, steps=(step,), action="refuse")
        metrics.answered("m", 1, Answer(failed, {}))
    text = metrics.text().decode()
    assert 'interlock_reasons_total{model="m",reason="engine",step="model"} 3.0' in text
    assert "out of bounds" not in text


def test_rows_are_counted_by_status_step_and_reason() -> None:
    class Echo:
        def answer_batch(self, inputs, *, deadline):  # type: ignore[no-untyped-def]
            return BatchAnswer(inputs["x"])

    class Positive:
        def check_batch(self, inputs, answer):  # type: ignore[no-untyped-def]
            return BatchVerdict(refuse={"below 0": inputs["x"] < 0})

    route: Route[Any, Any] = Route("r", (RouteStep("echo", Echo(), (Positive(),)),), "refuse")
    outcome = route.run_batch({"x": np.array([1.0, -1.0, 2.0])})
    metrics = Metrics()
    metrics.answered("m", 3, Answer(outcome, {"x": outcome.value}))
    metrics.ran("m", Ran(3, 2, (0.1, 0.2), 0.01))
    text = metrics.text().decode()
    for line in (
        'interlock_answers_total{model="m",status="accepted"} 2.0',
        'interlock_answers_total{model="m",status="refused"} 1.0',
        'interlock_route_steps_total{model="m",result="refused",step="echo"} 1.0',
        'interlock_reasons_total{model="m",reason="below 0",step="echo"} 1.0',
        'interlock_request_rows_sum{model="m"} 3.0',
        'interlock_batch_rows_sum{model="m"} 3.0',
        'interlock_stage_seconds_count{model="m",stage="queue"} 2.0',
    ):
        assert line in text


def test_a_scrape_asks_for_the_state_at_that_moment() -> None:
    metrics = Metrics()
    state = ModelState("m", ready=True, waiting=3, running=1, pids=2, rss=1000, lost=4)
    metrics.watch(lambda: [state])
    assert 'interlock_queue_requests{model="m"} 3.0' in metrics.text().decode()
    state.waiting = 0
    text = metrics.text().decode()
    assert 'interlock_queue_requests{model="m"} 0.0' in text
    assert 'interlock_worker_replaced_total{model="m"} 4.0' in text


def test_a_worker_that_names_ever_new_steps_and_results_fills_no_store() -> None:
    """Names, results and numbers come from a process that a model may own."""
    metrics = Metrics()
    route: Route[Any, Any] = Route("r", (RouteStep("echo", Doubling()),), "refuse")
    outcome = route.run_batch({"x": np.array([1.0])})
    for number in range(1000):
        step = BatchStep(f"step {number}", 1, 0.0, 1, {f"result {number}": -1}, {f"r{number}": -1})
        metrics.answered(
            "m", 1, Answer(msgspec.structs.replace(outcome, steps=(step,)), {"x": outcome.value})
        )
        single = Step(f"step {number}", StepResult.REFUSED, "x" * 100_000 + str(number))
        told: Outcome[Any] = Outcome(status=Status.REFUSED, steps=(single,), action="refuse")
        metrics.answered("m", 1, Answer(told, {}))
    text = metrics.text().decode()
    for name in ("interlock_route_steps_total{", "interlock_reasons_total{"):
        lines = [line for line in text.splitlines() if line.startswith(name)]
        assert len(lines) <= 3 * (MOST_STEPS + MOST_REASONS)
        assert max(map(len, lines)) < 1000
