"""Experiments under random faults, stops and budgets, from a seed: what must hold whatever happens.

A failing run prints its seed, which replays it.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.counts import count
from support.scripted_chat import Scripted, ScriptedBatches, registered, say

from interlock.engines.chat import ChatAnswer, ChatRequest, StopReason, Usage
from interlock.errors import (
    BudgetError,
    ConnectionLostError,
    DeadlineError,
    InterruptedRunError,
    MalformedAnswerError,
    RateLimitError,
    RequestRejectedError,
    ServiceError,
)
from interlock.experiment.records import read_results
from interlock.experiment.run import RunOptions, run_experiment
from interlock.kernel.limits import RetryPolicy

SEEDS = range(count(12, 60))
PRICE = "as_of = 2026-01-01\n[one]\nm = { input = 0.0, output = 1000.0 }\n"


def fault(rng: random.Random, request: ChatRequest) -> Any:
    """An answer, most of the time."""
    drawn = rng.random()
    if drawn < 0.7:
        stop = rng.choice([StopReason.END] * 8 + list(StopReason))
        return say(request, stop=stop, usage=Usage(input=5, output=rng.randint(1, 100)))
    return rng.choice(
        [
            RateLimitError("429", wait_seconds=rng.choice([None, 0.001])),
            ServiceError("503"),
            ConnectionLostError("cut", sent=rng.random() < 0.5),
            DeadlineError("late"),
            MalformedAnswerError("html"),
            RequestRejectedError("400"),
            RuntimeError("a bug of the provider"),
        ]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_sample_ends_once_and_the_budget_holds(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(
        "interlock.experiment.lanes.RetryPolicy",
        lambda **given: RetryPolicy(retries=given["retries"], first=0.001, longest=0.01),
    )
    billed = 0.0

    def paid(request: ChatRequest, attempt: int) -> Any:
        nonlocal billed
        reply = fault(rng, request)
        if isinstance(reply, ChatAnswer):
            billed += (reply.usage.output or 0) * 0.001
        return reply

    one = Scripted(paid, seconds=rng.choice([0.0, 0.001]))
    two = ScriptedBatches(lambda r, n: fault(rng, r))
    prompts = [{"id": f"p{n}", "prompt": f"Question {n}?"} for n in range(rng.randint(1, 25))]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "prices.toml").write_text(PRICE)
    budget = rng.choice([None, None, rng.uniform(0.1, 3.0)])
    raw: dict[str, Any] = {
        "prompts_file": str(tmp_path / "prompts.json"),
        "output_dir": str(tmp_path / "out"),
        "prices_file": str(tmp_path / "prices.toml"),
        "samples": rng.randint(1, 2),
        "max_retries": rng.randint(0, 3),
        "max_tokens": 100,
        "budget_usd": budget,
        "models": [
            {
                "name": "m",
                "type": "one",
                "temperature": [0.0, 1.0],
                "concurrency": rng.randint(1, 9),
            },
            {"name": "local", "type": "two", "batch_size": rng.randint(1, 6)},
        ],
    }
    recorded: Counter[str] = Counter()
    asked_when_recorded: dict[str, int] = {}
    with registered(one=one, two=two):
        for start in range(60):
            stop = threading.Event()
            enough = rng.randint(1, 40) if start < 50 else 10_000

            def seen(
                key: str, outcome: Any, stop: threading.Event = stop, enough: int = enough
            ) -> None:
                recorded[key] += 1
                asked_when_recorded[key] = (one.asked + two.asked)[key]
                if recorded.total() % enough == 0:
                    stop.set()

            try:
                report = run_experiment(
                    raw, options=RunOptions(resume=True), display=None, stop=stop, on_result=seen
                )
                break
            except InterruptedRunError:
                continue
            except BudgetError:
                assert budget is not None
                # Nothing was sent whose worst case did not fit; then there is more to spend.
                assert billed <= budget + 1e-6
                raw["budget_usd"] = budget = budget + rng.uniform(0.1, 5.0)
        else:
            raise AssertionError("it never ended")
    samples = len(prompts) * raw["samples"] * 3
    found = list(read_results(tmp_path / "out"))
    assert len(found) == samples == sum(report.counts.values())
    assert set(recorded.values()) == {1}
    assert len(recorded) == samples
    # Once recorded, a sample is not asked again.
    assert Counter(asked_when_recorded) == one.asked + two.asked
    assert report.spent == pytest.approx(sum(r.cost_usd or 0.0 for r in found))
    if budget is not None:
        assert report.spent + report.uncertain <= budget + 1e-6
    assert not (tmp_path / "out" / "checkpoint.json").exists()
