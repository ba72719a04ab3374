"""The pilot's interface, as a program that was written for its script uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.scripted_chat import Scripted, registered

from interlock.errors import BudgetError, ConfigError, RateLimitError, RequestRejectedError
from interlock.experiment import (
    ModelRunner,
    PilotRunner,
    PromptResult,
    RateLimiter,
    read_results,
)
from interlock.experiment.config import parse_config
from interlock.experiment.pilot import ProviderRunner
from interlock.experiment.plan import variants
from interlock.kernel.clock import ManualClock


def benchmark(path: Path) -> Path:
    """Four prompts, one without more than it needs."""
    prompts = [{"id": f"p{n}", "prompt": f"Question {n}?", "category": "c"} for n in range(4)]
    path.write_text(json.dumps({"prompts": prompts}))
    return path


class Upper(ModelRunner):
    """A kind of model of one's own, as the pilot's documentation shows it."""

    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        return PromptResult(
            prompt_id=prompt_id,
            model=self.model_name,
            full_response=prompt.upper(),
            tokens_used={"input": 2, "output": 2, "total": 4},
        )


class WithUpper(PilotRunner):
    def _create_runner(self, model_config: dict[str, object]) -> ModelRunner:
        if model_config["type"] == "upper":
            return Upper(str(model_config["name"]), 0.0, 42, 3, RateLimiter(6000, 10))
        return super()._create_runner(model_config)


def test_a_runner_of_ones_own_runs_beside_a_provider(tmp_path: Path) -> None:
    config = {
        "models": [
            {"name": "shout", "type": "upper", "temperature": 0.0},
            {"name": "m1", "type": "one", "temperature": 0.0},
        ]
    }
    with registered(one=Scripted()):
        WithUpper(benchmark(tmp_path / "p.json"), tmp_path / "out", config).run()
    (combined,) = (tmp_path / "out").glob("pilot_results_*.json")
    shout, other = json.loads(combined.read_text())["runs"]
    assert [r["full_response"] for r in shout["results"]] == [f"QUESTION {n}?" for n in range(4)]
    assert shout["results"][0]["tokens_used"] == {"input": 2, "output": 2, "total": 4}
    assert shout["results"][0]["prompt_category"] == "c"
    # The runner never said that it was greedy.
    assert shout["results"][0]["applied_sampling"] == {}
    assert shout["results"][0]["not_applied"]["temperature"] == "the runner does not say"
    assert len(other["results"]) == 4


class Polite(ProviderRunner):
    """Changes what a provider is asked and what it answered."""

    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        result = super()._execute_prompt(f"{prompt} Please.", prompt_id)
        result.full_response = f"Thanks: {result.full_response}"
        return result


class WithPolite(PilotRunner):
    def _create_runner(self, model_config: dict[str, Any]) -> ModelRunner:
        made = parse_config({**self.config, "models": [model_config]})
        return Polite(variants(made)[0])


def test_what_a_runner_makes_of_a_provider_is_not_passed_by(tmp_path: Path) -> None:
    config = {"models": [{"name": "m1", "type": "one", "temperature": 0.0}]}
    one = Scripted()
    with registered(one=one):
        WithPolite(benchmark(tmp_path / "p.json"), tmp_path / "out", config).run()
    assert [r.full_response[:8] for r in read_results(tmp_path / "out")] == ["Thanks: "] * 4
    assert {r.messages[-1].content[-8:] for r in one.requests} == {" Please."}


class Paid(Upper):
    """Says what it cost."""

    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        result = super()._execute_prompt(prompt, prompt_id)
        result.cost_usd = 1.0
        return result


class WithPaid(PilotRunner):
    def _create_runner(self, model_config: dict[str, Any]) -> ModelRunner:
        return Paid(str(model_config["name"]))


def test_a_budget_ends_a_run_of_ones_own_runner_when_it_is_used_up(tmp_path: Path) -> None:
    """What the next prompt will cost is the runner's to know, so the last one may pass it."""
    prompts = benchmark(tmp_path / "p.json")
    config = {"budget_usd": 1.5, "models": [{"name": "m", "type": "paid", "temperature": 0.0}]}
    with pytest.raises(BudgetError, match=r"budget of \$1.5: \$2.0000 spent"):
        WithPaid(prompts, tmp_path / "out", config).run()
    assert len(list(read_results(tmp_path / "out"))) == 2
    with pytest.raises(BudgetError, match=r"\$2.0000 spent"):
        WithPaid(prompts, tmp_path / "out", config).run(resume=True)
    WithPaid(prompts, tmp_path / "out", config | {"budget_usd": 10}).run(resume=True)
    assert len(list(read_results(tmp_path / "out"))) == 4


class Leaving(Upper):
    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        raise SystemExit(3)


class WithLeaving(PilotRunner):
    def _create_runner(self, model_config: dict[str, Any]) -> ModelRunner:
        return Leaving(str(model_config["name"]))


def test_a_runner_that_exits_fails_its_prompt(tmp_path: Path) -> None:
    config = {"models": [{"name": "m", "type": "leaving", "temperature": 0.0}]}
    WithLeaving(benchmark(tmp_path / "p.json"), tmp_path / "out", config).run()
    assert {r.status for r in read_results(tmp_path / "out")} == {"failed"}


def test_the_pilot_runner_resumes(tmp_path: Path) -> None:
    config = {"models": [{"name": "m1", "type": "one", "temperature": 0.0}]}
    one = Scripted()
    with registered(one=one):
        runner = PilotRunner(benchmark(tmp_path / "p.json"), tmp_path / "out", config)
        runner.run()
        runner.run(resume=True)
    assert sum(one.asked.values()) == 4


class Failing(Upper):
    """Fails with `errors` in turn before it answers."""

    errors: list[Exception]

    def _execute_prompt(self, prompt: str, prompt_id: str) -> PromptResult:
        if self.errors:
            raise self.errors.pop(0)
        return super()._execute_prompt(prompt, prompt_id)


def failing(*errors: Exception) -> Failing:
    """On a clock that nobody waits for."""
    runner = Failing("m", 0.0, 42, 3, None)
    runner.errors = list(errors)
    runner.clock = ManualClock()
    return runner


def test_retries_wait_one_two_and_four_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    runner = failing(*[RateLimitError("busy")] * 3)
    result = runner.run_prompt("q", "p")
    assert (result.full_response, result.retry_count) == ("Q", 3)
    assert capsys.readouterr().err.splitlines() == [
        "Retry 1/3 after 1s: Rate limit exceeded",
        "Retry 2/3 after 2s: Rate limit exceeded",
        "Retry 3/3 after 4s: Rate limit exceeded",
    ]
    assert 7.0 <= runner.clock.monotonic() <= 7.7


def test_a_failure_is_a_result() -> None:
    result = failing(*[RateLimitError("busy")] * 4).run_prompt("q", "p")
    assert (result.error, result.retry_count) == ("Failed after 3 retries: Rate limit exceeded", 3)
    foreign = failing(*[OSError("secret prompt")] * 4).run_prompt("q", "p")
    assert (foreign.error, foreign.retry_count) == ("Failed after 3 retries: OSError", 3)
    assert "secret" not in str(foreign)


def test_what_would_fail_again_is_not_retried() -> None:
    class Bad(Exception):
        status_code = 400

    too_long = RateLimitError("busy", wait_seconds=1e300)
    for error in (RequestRejectedError("no"), Bad(), ValueError("x"), too_long):
        runner = failing(error, error)
        assert runner.run_prompt("q", "p").retry_count == 0
        assert len(runner.errors) == 1


def test_a_rate_limiter_lets_sixty_pass_in_a_minute_the_burst_included() -> None:
    clock = ManualClock()
    limiter = RateLimiter(requests_per_minute=60, burst_size=10, clock=clock)
    times = []
    for _ in range(130):
        limiter.acquire()
        times.append(clock.monotonic())
    assert sum(t < 60 for t in times) == 60
    assert times[9] == 0.0
    assert sum(t < 120 for t in times) == 120


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (60, 0), (-1, 1), (float("nan"), 1)])
def test_a_rate_limiter_that_lets_nothing_pass_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ConfigError):
        RateLimiter(rate, burst)
