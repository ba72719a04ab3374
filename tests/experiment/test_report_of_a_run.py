"""Journalled runs end to end: what providers did, their report, a judge's run on their answers."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from support.experiment_runs import SMALL, words
from support.fake_llm import FakeLLM, Plan
from support.scripted_chat import Scripted, registered, say

from interlock.engines.chat import ChatAnswer, ChatRequest, StopReason, TokenLogprob
from interlock.errors import (
    InputError,
    InterruptedRunError,
    RequestRejectedError,
    RunNotFoundError,
)
from interlock.experiment.entities import subject
from interlock.experiment.judge import judge_prompts
from interlock.experiment.prompts import Prompt
from interlock.experiment.records import PromptResult
from interlock.experiment.report import Report, make_report, write_report
from interlock.experiment.report_input import RunFacts, gather, load_answers
from interlock.experiment.run import RunOptions, run_experiment

TIMES = {"run", "first", "last", "median_seconds", "cost_usd", "cost_known"}


def config(tmp_path: Path, output: str, *models: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration over the small benchmark."""
    return {
        "prompts_file": str(SMALL),
        "output_dir": str(tmp_path / output),
        "models": list(models),
        **more,
    }


def go(raw: dict[str, Any], **options: Any) -> Path:
    """Run without a display; the run's directory."""
    return run_experiment(raw, options=RunOptions(**options), display=None).directory


def inventive(request: ChatRequest, _: int) -> ChatAnswer:
    """Takes all things for real, and is sure of it."""
    thing = subject(Prompt("?", request.messages[-1].content)) or "it"
    return say(
        request,
        words("claim", thing),
        logprobs=(TokenLogprob("Yes", math.log(0.9), (("Yes", math.log(0.9)),)),),
    )


def plain(report: Report) -> dict[str, Any]:
    """The figures without times."""

    def without(value: Any) -> Any:
        match value:
            case dict():
                return {k: without(v) for k, v in value.items() if k not in TIMES}
            case list() | tuple():
                return [without(item) for item in value]
        return value

    found: dict[str, Any] = without(report.to_dict())
    return found


def test_each_kind_of_end_is_in_the_report(tmp_path: Path) -> None:
    def mixed(request: ChatRequest, attempt: int) -> ChatAnswer:
        number = sum(request.key.encode()) % 5
        if number == 0:
            raise RequestRejectedError("400")
        if number == 1:
            return say(request, "", stop=StopReason.REFUSAL)
        if number == 2:
            return say(request, "Yes, it", stop=StopReason.MAX_TOKENS)
        if number == 3:
            return say(request, "", stop=StopReason.CONTENT_FILTER)
        return inventive(request, attempt)

    with registered(mixed=Scripted(mixed)):
        directory = go(config(tmp_path, "out", {"name": "acme/m", "type": "mixed"}))
    report = make_report(directory)
    summary = report.analysis.variants[0]
    assert summary.samples == 32
    assert set(summary.failures) == {"request_rejected", "content_filter"}
    assert summary.stops["refusal"] > 0
    assert summary.stops["max_tokens"] > 0
    assert summary.answered + sum(summary.failures.values()) == 32
    refusal = next(r for r in report.analysis.rates if r.scorer == "refusal" and r.group == "all")
    assert refusal.rate.yes == summary.stops["refusal"]
    page = write_report(report, tmp_path / "r.html", "today").read_text("utf-8")
    assert "refused by the provider" in page
    assert "held back by a filter" in page
    assert "cut by the token limit" in page
    assert report.analysis.run.prompts_sha256 is not None


def test_confidence_comes_from_the_recorded_logprobs(tmp_path: Path) -> None:
    with registered(sure=Scripted(inventive)):
        model = {"name": "m", "type": "sure", "temperature": 0.7, "logprobs": 1}
        report = make_report(go(config(tmp_path, "out", model)))
    found = next(row for row in report.analysis.calibrations if row.scorer == "existence")
    assert found.calibration.mean_confidence == pytest.approx(0.9, abs=1e-4)
    assert found.calibration.accuracy == pytest.approx(0.5)
    assert found.calibration.ece == pytest.approx(0.4, abs=1e-4)


def test_an_interrupted_run_ends_in_the_same_report(tmp_path: Path) -> None:
    stop = threading.Event()
    with registered(one=Scripted(inventive)):
        models = [{"name": "m", "type": "one"}, {"name": "n", "type": "one"}]
        whole = make_report(go(config(tmp_path, "whole", *models, samples=2)))
        raw = config(tmp_path, "cut", *models, samples=2, concurrency=1)
        seen = 0

        def count(key: str, outcome: object) -> None:
            nonlocal seen
            seen += 1
            if seen == 30:
                stop.set()

        with pytest.raises(InterruptedRunError):
            run_experiment(raw, display=None, stop=stop, on_result=count)
        half = make_report(tmp_path / "cut")
        assert sum(s.failures.get("missing", 0) for s in half.analysis.variants) > 0
        resumed = make_report(go(raw, resume=True))
    assert plain(resumed) == plain(whole)


def test_a_run_that_the_journal_does_not_hold_is_told(tmp_path: Path) -> None:
    model = {"name": "m1", "type": "one", "temperature": 0.0}
    with registered(one=Scripted()):
        directory = go(config(tmp_path, "run", model, num_prompts=4))
    with pytest.raises(RunNotFoundError, match="no run 'a1b2c3d4'"):
        load_answers(directory, run_id="a1b2c3d4")


def test_a_model_without_a_result_yet_is_in_the_report() -> None:
    facts = RunFacts("cut", variants={"a_temp0.0": ("a", 0.0), "b_temp0.0": ("b", 0.0)})
    result = PromptResult("p", "b", "yes", {}, variant="b_temp0.0")
    found = gather([result], [Prompt("p", "text")], facts)
    assert found.variants == ("a_temp0.0", "b_temp0.0")
    assert [(r.model, r.error_type) for r in found.results] == [("a", "missing"), ("b", None)]
    with pytest.raises(InputError, match="holds no result"):
        gather([], [Prompt("p", "text")], facts)


def test_models_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    with registered(one=Scripted(inventive)):
        models = [
            {"name": "m", "type": "one", "temperature": 0.0},
            {"name": "m", "type": "one", "temperature": 0.0, "label": "brief", "system": "Brief."},
            {"name": "m", "type": "one", "temperature": 1.0, "label": "warm"},
        ]
        report = make_report(go(config(tmp_path, "out", *models)))
    labels = [summary.label for summary in report.analysis.variants]
    assert labels == ["m_temp0.0", "brief_temp0.0", "m, temperature 1.0"]


def test_a_judge_is_run_like_any_experiment(tmp_path: Path) -> None:
    def verdict(request: ChatRequest, _: int) -> ChatAnswer:
        asked = request.messages[-1].content
        yes = "CVE-19" in asked.split("<answer")[1]
        return say(request, json.dumps({"verdict": "yes" if yes else "no", "reason": "looked up"}))

    with registered(one=Scripted(inventive), judge=Scripted(verdict)):
        directory = go(config(tmp_path, "out", {"name": "m", "type": "one"}))
        asked = tmp_path / "judge.json"
        made = list(judge_prompts(load_answers(directory)))
        asked.write_text(json.dumps({"prompts": made}), "utf-8")
        raw = config(tmp_path, "judged", {"name": "j", "type": "judge"})
        judged = go({**raw, "prompts_file": str(asked)})
    found = make_report(directory, judges=[judged]).analysis
    row = next(r for r in found.rates if r.scorer == "judge j" and r.group == "all")
    assert (row.rate.n, row.rate.missing) == (32, 0)
    assert row.rate.yes == 4  # made-up identifiers of years before 1999
    assert found.judges[0].samples == 32


def test_a_run_against_a_server_that_fails_keeps_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the vendor's SDK, with a share of every fault that has an end of its own."""
    pytest.importorskip("openai")
    monkeypatch.setenv("FAKE_KEY", "none")
    rates = {"bad_request": 0.15, "refusal": 0.15, "max_tokens": 0.1, "html": 0.1, "empty": 0.1}
    with FakeLLM(Plan(answer="No, it does not exist.", rates=rates)) as server:
        model = {
            "name": "gpt-x",
            "type": "openai",
            "base_url": server.openai,
            "api_key": "${FAKE_KEY}",
            "temperature": 0.0,
            "max_tokens": 32,
        }
        directory = go(config(tmp_path, "out", model, requests_per_minute=60_000, samples=2))
        sent = server.counts().requests
    report = make_report(directory)
    summary = report.analysis.variants[0]
    assert summary.samples == 64 == summary.answered + sum(summary.failures.values())
    assert sent == 64 + summary.retries
    assert {"request_rejected", "malformed_answer"} <= set(summary.failures)
    existence = next(
        r for r in report.analysis.rates if r.scorer == "existence" and r.group == "kind"
    )
    assert existence.rate.n > 0
    write_report(report, tmp_path / "r.html", "today")
