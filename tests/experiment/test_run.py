"""Whole runs against providers in this process: what is recorded, resumed, refused and exported."""

from __future__ import annotations

import itertools
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.scripted_chat import Scripted, ScriptedBatches, registered, say

from interlock.engines.chat import StopReason, Usage
from interlock.errors import (
    AuthenticationError,
    BudgetError,
    ConfigError,
    ConnectionLostError,
    InterruptedRunError,
    MalformedAnswerError,
    RateLimitError,
    RequestRejectedError,
    RunChangedError,
    RunLockedError,
    ServiceError,
    StorageError,
    UsageError,
)
from interlock.experiment import directory
from interlock.experiment.config import parse_config
from interlock.experiment.plan import asked
from interlock.experiment.records import FILE_ORDER, PromptResult, read_results
from interlock.experiment.run import RunOptions, RunReport, run_experiment
from interlock.kernel.clock import SystemClock
from interlock.kernel.journal import JournalRun


def benchmark(path: Path, count: int = 6) -> Path:
    """A file of prompts, every third one a synthetic probe."""
    prompts: list[dict[str, Any]] = [
        {
            "id": f"prompt_{n:04}",
            "category": "cve" if n % 2 else "malware",
            "prompt": f"Question number {n}?",
            "is_synthetic_probe": n % 3 == 0,
            "gold_label": {"exists": n % 3 != 0, "description": "d"},
            "gold_refs": [],
        }
        for n in range(1, count + 1)
    ]
    path.write_text(json.dumps({"metadata": {}, "prompts": prompts}))
    return path


def config(tmp_path: Path, *models: dict[str, Any], count: int = 6, **more: Any) -> dict[str, Any]:
    """A configuration of these models over a benchmark of `count` prompts."""
    return {
        "prompts_file": str(benchmark(tmp_path / "prompts.json", count)),
        "output_dir": str(tmp_path / "out"),
        "models": list(models) or [{"name": "acme/m1", "type": "one", "temperature": 0.0}],
        **more,
    }


def go(raw: dict[str, Any], **options: Any) -> RunReport:
    """Run without a display."""
    return run_experiment(raw, options=RunOptions(**options), display=None)


def results(tmp_path: Path) -> list[PromptResult]:
    """What the journal holds."""
    return list(read_results(tmp_path / "out"))


def test_a_run_writes_the_result_files_of_the_pilot(tmp_path: Path) -> None:
    with registered(one=Scripted()):
        report = go(config(tmp_path, seed=7))
    assert report.complete
    assert [path.name.rsplit("_", 2)[0] for path in report.files] == [
        "pilot_acme_m1",
        "pilot_results",
    ]
    document = json.loads(report.files[-1].read_text())
    assert {"start_time", "end_time", "config", "total_prompts", "prompts_file", "resumed"} <= set(
        document["metadata"]
    )
    assert document["metadata"]["resumed"] is False
    (run,) = document["runs"]
    assert run["model_config"] == {"name": "acme/m1", "type": "one", "temperature": 0.0}
    first = run["results"][0]
    assert list(first) == list(FILE_ORDER)
    assert first["sampling_params"] == {"temperature": 0.0, "seed": 7, "max_tokens": 2048}
    assert first["tokens_used"] == {"input": 20, "output": 10, "total": 30}
    assert first["token_logprobs"] is None
    assert first["error"] is None
    assert first["model_version"] == "acme/m1-001"
    assert [r["prompt_id"] for r in run["results"]] == [f"prompt_{n:04}" for n in range(1, 7)]
    assert [r["is_synthetic_probe"] for r in run["results"]] == [False, False, True] * 2
    assert not (tmp_path / "out" / "checkpoint.json").exists()
    assert list(read_results(report.files[-1])) == results(tmp_path)


def test_every_ending_is_one_typed_record(tmp_path: Path) -> None:
    endings: dict[str, Any] = {
        "1": lambda r: say(r, stop=StopReason.MAX_TOKENS),
        "2": lambda r: say(r, stop=StopReason.REFUSAL, raw_stop="refusal"),
        "3": lambda r: say(r, stop=StopReason.CONTENT_FILTER),
        "4": lambda r: say(r, text="  "),
        "5": lambda r: RequestRejectedError("max_tokens is too large"),
        "6": lambda r: ZeroDivisionError("secret prompt text"),
    }
    one = Scripted(lambda r, n: endings[r.messages[-1].content[-2]](r))
    with registered(one=one):
        report = go(config(tmp_path))
    found = results(tmp_path)
    assert [(r.status, r.error_type or r.flag) for r in found] == [
        ("flagged", "max_tokens"),
        ("flagged", "refusal"),
        ("refused", "content_filter"),
        ("refused", "empty_answer"),
        ("failed", "request_rejected"),
        ("failed", "engine"),
    ]
    assert max(one.asked.values()) == 1
    assert found[4].error == "Failed: Request rejected"
    assert found[4].error_detail == "max_tokens is too large"
    assert "secret" not in str(found[5])
    assert not report.complete
    assert report.counts == {"accepted": 0, "flagged": 2, "refused": 2, "failed": 2}


def test_three_retries_follow_the_first_attempt_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    _no_waiting(monkeypatch, waits)
    told: list[str] = []

    class Told:
        def result(self, key: str, outcome: Any) -> None: ...
        def advance(self, counts: Any) -> None: ...
        def note(self, text: str) -> None:
            told.append(text)

        def close(self) -> None: ...

    one = Scripted(lambda r, n: RateLimitError("slow down", wait_seconds=0.0))
    with registered(one=one):
        run_experiment(config(tmp_path, count=1), display=lambda *a, **k: Told())
    (found,) = results(tmp_path)
    assert sum(one.asked.values()) == 4
    assert (found.error, found.retry_count) == ("Failed after 3 retries: Rate limit exceeded", 3)
    assert told[-3:] == [
        f"Retry {k}/3 after {wait}s: Rate limit exceeded" for k, wait in ((1, 1), (2, 2), (3, 4))
    ]
    assert [round(wait) for wait in waits] == [1, 2, 4]


def _no_waiting(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    import asyncio

    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds >= 1.0:
            waits.append(seconds)
            seconds = 0.0
        await real(seconds)

    monkeypatch.setattr("interlock.experiment.lane_async.asyncio.sleep", sleep)


def test_a_resumed_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    one = Scripted(seconds=0.002)
    raw = config(tmp_path, count=40, concurrency=2)
    stop = threading.Event()

    def stop_after_ten(key: str, outcome: Any) -> None:
        if sum(one.asked.values()) >= 10:
            stop.set()

    with registered(one=one):
        with pytest.raises(InterruptedRunError):
            run_experiment(raw, display=None, stop=stop, on_result=stop_after_ten)
        assert json.loads((tmp_path / "out" / "checkpoint.json").read_text()) == {
            "completed": {},
            "last_model_index": 0,
        }
        assert len(results(tmp_path)) < 40
        with pytest.raises(UsageError, match="unfinished"):
            go(raw)
        report = go(raw, resume=True)
        assert set(one.asked.values()) == {1}
        assert report.complete
        assert json.loads(report.files[-1].read_text())["metadata"]["resumed"] is True
        # Nothing is left to do, and nothing is paid for again.
        again = go(raw, resume=True)
        assert (again.sent, sum(one.asked.values())) == (0, 40)
        assert again.files == report.files


def test_a_run_killed_after_its_last_answer_is_done_once_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start would find it unfinished and without a checkpoint, and pay anew."""
    one = Scripted()
    raw = config(tmp_path, count=4)

    def killed(run: JournalRun, state: str) -> None:
        raise KeyboardInterrupt

    with registered(one=one):
        with monkeypatch.context() as patched:
            patched.setattr(JournalRun, "finish", killed)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(raw, display=None)
        for _ in range(2):
            assert go(raw, resume=True).complete
    assert set(one.asked.values()) == {1}


def test_a_deleted_checkpoint_asks_for_a_fresh_start(tmp_path: Path) -> None:
    one = Scripted()
    raw = config(tmp_path, count=8, concurrency=1)
    stop = threading.Event()
    with registered(one=one):
        with pytest.raises(InterruptedRunError):
            run_experiment(raw, display=None, stop=stop, on_result=lambda k, o: stop.set())
        (tmp_path / "out" / "checkpoint.json").unlink()
        report = go(raw, resume=True)
    assert report.recorded == 8
    assert any("fresh start" in note for note in report.notes)


def test_a_changed_question_is_refused_and_shown_unless_accepted(tmp_path: Path) -> None:
    one = Scripted()
    raw = config(tmp_path, count=4)
    with registered(one=one):
        go(raw)
        changed = raw | {"max_tokens": 100}
        with pytest.raises(RunChangedError, match=r"max_tokens 2048 → 100$"):
            go(changed, resume=True)
        with pytest.raises(RunChangedError, match=r"model 'acme/m1_temp0.0': system differs$"):
            go(raw | {"system": "Be brief."}, resume=True)
        with pytest.raises(RunChangedError, match=r"model 'acme/m1_temp0.0' removed; .* added$"):
            go(raw | {"models": [raw["models"][0] | {"temperature": 1.0}]}, resume=True)
        # What changes no question is no reason to refuse.
        assert go(raw | {"requests_per_minute": 6000}, resume=True).sent == 0
        report = go(changed, resume=True, accept_changes=True)
        assert report.recorded == 4
        assert {r.sampling_params["max_tokens"] for r in results(tmp_path)} == {100}
        # More samples of the same prompts: the ones that are there stay.
        more = go(changed | {"samples": 3}, resume=True, accept_changes=True)
        assert more.recorded == 8
        prompts = json.loads(Path(raw["prompts_file"]).read_text())
        prompts["prompts"][1]["prompt"] = "Another question?"
        Path(raw["prompts_file"]).write_text(json.dumps(prompts))
        with pytest.raises(RunChangedError, match="prompt_0002"):
            go(changed | {"samples": 3}, resume=True)
        again = go(changed | {"samples": 3}, resume=True, accept_changes=True)
        assert again.recorded == 3


def test_answers_are_not_paid_for_again_when_prompts_come_back(tmp_path: Path) -> None:
    one = Scripted()
    raw = config(tmp_path, count=6)
    with registered(one=one):
        whole = go(raw)
        document = json.loads(whole.files[-1].read_text())
        part = go(raw | {"num_prompts": 2}, resume=True, accept_changes=True)
        assert part.samples == 2
        assert part.sent == 0
        again = go(raw, resume=True, accept_changes=True)
    assert again.sent == 0
    assert again.complete
    assert max(one.asked.values()) == 1
    found = {r.prompt_id: r.full_response for r in results(tmp_path)}
    assert found == {r["prompt_id"]: r["full_response"] for r in document["runs"][0]["results"]}


def test_a_run_with_other_prompts_leaves_earlier_result_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = config(tmp_path, count=6)
    start, minutes = datetime(2026, 1, 1, tzinfo=UTC), itertools.count()
    monkeypatch.setattr(SystemClock, "now", lambda self: start + timedelta(minutes=next(minutes)))
    with registered(one=Scripted()):
        whole = go(raw)
        before = {path: path.read_bytes() for path in whole.files}
        part = go(raw | {"num_prompts": 2}, resume=True, accept_changes=True)
    assert not set(part.files) & set(whole.files)
    assert {path: path.read_bytes() for path in whole.files} == before


def test_runs_that_end_in_the_same_second_have_result_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SystemClock, "now", lambda self: datetime(2026, 1, 1, tzinfo=UTC))
    raw = config(tmp_path)
    with registered(one=Scripted()):
        first, second = go(raw), go(raw)
        again = go(raw, resume=True)
    for report in (first, second):
        found = [json.loads(path.read_text())["metadata"]["run_id"] for path in report.files]
        assert found == [report.run_id] * 2
    assert again.files == second.files


def test_a_model_with_a_long_name_gets_its_result_file(tmp_path: Path) -> None:
    """Paths are names of local models, and file systems take 255 bytes."""
    names = [f"/models/{'deep/' * 60}one", f"/models/{'deep/' * 60}two"]
    models = [{"name": name, "type": "one", "temperature": 0.0} for name in names]
    with registered(one=Scripted()):
        report = go(config(tmp_path, *models))
    assert report.complete
    assert len(set(report.files)) == 3
    found = [json.loads(path.read_text())["runs"][0]["model_config"] for path in report.files]
    assert [each["name"] for each in found[:2]] == names


def test_changed_labels_are_refused_and_shown_and_accepted_without_asking(tmp_path: Path) -> None:
    one = Scripted()
    raw = config(tmp_path, count=4)
    prompts = json.loads(Path(raw["prompts_file"]).read_text())
    with registered(one=one):
        go(raw)
        Path(raw["prompts_file"]).write_text(json.dumps(prompts, indent=3))
        assert go(raw, resume=True).sent == 0
        prompts["prompts"][1] |= {"category": "other", "gold_label": None}
        Path(raw["prompts_file"]).write_text(json.dumps(prompts))
        shown = "else: prompt 'prompt_0002': category, gold_label differs$"
        with pytest.raises(RunChangedError, match=shown):
            go(raw, resume=True)
        assert {r.prompt_category for r in results(tmp_path)} == {"cve", "malware"}
        assert go(raw, resume=True, accept_changes=True).sent == 0
    assert {r.prompt_category for r in results(tmp_path)} == {"cve", "malware", "other"}


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    raw = config(tmp_path)
    with (
        registered(one=Scripted()),
        directory.held(tmp_path / "out"),
        pytest.raises(RunLockedError, match="in use"),
    ):
        go(raw)


def test_models_run_side_by_side_and_all_are_in_the_combined_file(tmp_path: Path) -> None:
    """The first service is down for good; it must not hold the second one back."""
    gate = threading.Event()
    one = Scripted(lambda r, n: say(r))
    two = ScriptedBatches()

    async def hold(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        while not gate.is_set():
            await asyncio.sleep(0.001)
        return say(args[0])

    one.answer = hold  # type: ignore[method-assign]
    models: list[dict[str, Any]] = [
        {"name": "m1", "type": "one", "temperature": [0.0, 1.0]},
        {"name": "m2", "type": "two", "temperature": 0.5, "batch_size": 4},
    ]

    def seen(key: str, outcome: Any) -> None:
        if sum(two.asked.values()) == 6:
            gate.set()

    with registered(one=one, two=two):
        report = run_experiment(config(tmp_path, *models), display=None, on_result=seen)
    assert report.complete
    document = json.loads(report.files[-1].read_text())
    assert [run["model_config"]["temperature"] for run in document["runs"]] == [0.0, 1.0, 0.5]
    assert [len(run["results"]) for run in document["runs"]] == [6, 6, 6]
    assert [path.name.rsplit("_", 2)[0] for path in report.files] == [
        "pilot_m1_temp0.0",
        "pilot_m1_temp1.0",
        "pilot_m2",
        "pilot_results",
    ]
    assert max(two.sizes) == 4
    assert (one.closed, two.closed) == (1, 1)


def test_a_sample_has_the_same_seed_in_every_run_and_its_own(tmp_path: Path) -> None:
    with registered(one=Scripted()):
        go(config(tmp_path, samples=3, count=5))
        first = [(r.prompt_id, r.sample_index, r.seed) for r in results(tmp_path)]
    assert len({seed for _, _, seed in first}) == 15
    with registered(one=Scripted()):
        raw = config(tmp_path, samples=3, count=2)
        go(raw | {"output_dir": str(tmp_path / "other")})
    other = [(r.prompt_id, r.sample_index, r.seed) for r in read_results(tmp_path / "other")]
    assert other == first[:6]


def test_a_subset_keeps_the_share_of_synthetic_probes(tmp_path: Path) -> None:
    with registered(one=Scripted()):
        report = go(config(tmp_path, count=90, num_prompts=30))
    found = results(tmp_path)
    assert report.samples == 30
    assert sum(r.is_synthetic_probe for r in found) == 10


PRICES = 'as_of = 2026-01-01\n[one]\n"m1" = { input = 0.0, output = 1000.0 }\n'


def priced(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """A model whose answers cost 0.01 dollars, and 0.1 at most."""
    (tmp_path / "prices.toml").write_text(PRICES)
    model = {"name": "m1", "type": "one", "max_tokens": 100}
    return config(tmp_path, model, prices_file=str(tmp_path / "prices.toml"), **more)


def test_the_budget_holds_with_what_is_in_flight(tmp_path: Path) -> None:
    one = Scripted(lambda r, n: say(r, usage=Usage(input=5, output=100)), seconds=0.001)
    raw = priced(tmp_path, count=40, budget_usd=1.05)
    with registered(one=one):
        with pytest.raises(BudgetError, match="budget"):
            go(raw)
        # Ten answers at their worst case fit, an eleventh does not.
        assert sum(one.asked.values()) == 10
        report = go(raw | {"budget_usd": 10}, resume=True)
    assert report.spent == pytest.approx(4.0)
    assert set(one.asked.values()) == {1}


def test_an_answer_that_may_have_been_billed_counts_in_full(tmp_path: Path) -> None:
    one = Scripted(lambda r, n: ConnectionLostError("cut", sent=True))
    with registered(one=one):
        report = go(priced(tmp_path, count=2, max_retries=0))
    assert report.uncertain == pytest.approx(0.2)
    assert [r.uncertain_usd for r in results(tmp_path)] == [pytest.approx(0.1)] * 2


def test_an_answer_without_usage_counts_in_full_also_after_a_resume(tmp_path: Path) -> None:
    one = Scripted(lambda r, n: say(r, usage=Usage()), seconds=0.001)
    raw = priced(tmp_path, count=40, budget_usd=1.05)
    with registered(one=one):
        for resume in (False, True):
            with pytest.raises(BudgetError):
                go(raw, resume=resume)
            assert sum(one.asked.values()) == 10
    assert [r.uncertain_usd for r in results(tmp_path)] == [pytest.approx(0.1)] * 10


def test_a_budget_below_one_answer_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    one = Scripted()
    with registered(one=one), pytest.raises(BudgetError, match=r"next sample may cost \$0.1"):
        go(priced(tmp_path, count=2, budget_usd=0.05))
    assert not one.asked


def test_what_is_free_costs_nothing_and_what_is_not_known_costs_null(tmp_path: Path) -> None:
    with registered(one=Scripted(paid=False)):
        go(config(tmp_path))
    assert {r.cost_usd for r in results(tmp_path)} == {0.0}
    with registered(one=Scripted()):
        go(config(tmp_path) | {"output_dir": str(tmp_path / "paid")})
    assert {r.cost_usd for r in read_results(tmp_path / "paid")} == {None}


def test_an_error_that_nobody_foresaw_may_have_been_billed(tmp_path: Path) -> None:
    with registered(one=Scripted(lambda r, n: RuntimeError("a bug in an SDK"))):
        report = go(priced(tmp_path, count=1, max_retries=0))
    assert report.uncertain == pytest.approx(0.1)


@pytest.mark.parametrize("how", ["changed", "failed"])
def test_what_is_asked_again_was_paid_for_once_already(tmp_path: Path, how: str) -> None:
    """Two dollars are spent on answers that do not count any more; the budget still knows."""
    cut = ConnectionLostError("cut", sent=True)
    raw = priced(tmp_path, count=20, max_retries=0)
    one = Scripted(
        lambda r, n: cut if how == "failed" else say(r, usage=Usage(input=5, output=100))
    )
    with registered(one=one):
        go(raw)
        one.asked.clear()
        one.script = lambda r, n: say(r, usage=Usage(input=5, output=100))
        again = raw | {"budget_usd": 3.05}
        if how == "changed":
            again["system"] = "Be brief."
        with pytest.raises(BudgetError, match="budget"):
            go(again, resume=True, accept_changes=how == "changed", retry_failed=how == "failed")
        assert sum(one.asked.values()) == 10


def test_an_answer_without_text_costs_what_was_counted(tmp_path: Path) -> None:
    """Not its worst case, which a budget would have to hold back."""
    counted = Usage(input=5, output=10, reasoning=10)
    one = Scripted(lambda r, n: MalformedAnswerError("the answer is empty", usage=counted))
    raw = priced(tmp_path, count=8, budget_usd=0.2)
    with registered(one=one):
        report = go(raw)
        assert go(raw, resume=True).spent == pytest.approx(0.08)
    assert report.spent == pytest.approx(0.08)
    assert report.uncertain == 0.0
    for found in results(tmp_path):
        assert (found.status, found.error_type) == ("failed", "malformed_answer")
        assert found.tokens_used == {"input": 5, "output": 10, "total": 15}
        assert found.token_details == {"reasoning": 10}
        assert found.cost_usd == pytest.approx(0.01)
        assert found.uncertain_usd is None


def test_a_budget_needs_known_prices(tmp_path: Path) -> None:
    raw = config(tmp_path, budget_usd=1)
    one = Scripted()
    with registered(one=one):
        with pytest.raises(ConfigError, match="price"):
            go(raw)
        assert not one.asked
        assert go(raw, allow_unknown_prices=True).complete


def test_an_account_that_answers_no_more_stops_the_run(tmp_path: Path) -> None:
    one = Scripted(lambda r, n: AuthenticationError("the key is not accepted"))
    raw = config(tmp_path, count=50, concurrency=2)
    with registered(one=one):
        with pytest.raises(AuthenticationError):
            go(raw)
        assert len(one.asked) <= 5
        one.script = lambda r, n: say(r)
        report = go(raw, resume=True, retry_failed=True)
    assert report.complete


@pytest.mark.parametrize("kind", [RateLimitError, ServiceError])
def test_a_service_that_asks_for_a_wait_of_hours_stops_the_run(tmp_path: Path, kind: Any) -> None:
    """A wait that long would look as if the run hung, and holds the place of another call."""
    one = Scripted(lambda r, n: kind("later", wait_seconds=1e9))
    raw = config(tmp_path, count=50, concurrency=2)
    with registered(one=one):
        with pytest.raises(kind, match="later"):
            go(raw)
        assert len(one.asked) <= 5
        assert max(one.asked.values()) == 1
        found = results(tmp_path)[0]
        assert (found.error_type, found.retry_count) == (kind.code, 0)
        assert found.error_detail == "later; the service asks for a wait of 1000000000 s"
        one.script = lambda r, n: say(r)
        assert go(raw, resume=True, retry_failed=True).complete


def test_what_a_model_does_not_take_is_told_or_refused(tmp_path: Path) -> None:
    one = Scripted(
        lambda r, n: say(r, applied={"max_tokens": 2048}, not_applied={"temperature": "fixed"}),
        sampling=frozenset(["max_tokens", "seed"]),
    )
    with registered(one=one):
        with pytest.raises(ConfigError, match="no temperature"):
            go(config(tmp_path, on_not_applied="refuse"))
        assert not one.asked
        report = go(config(tmp_path))
        assert any("takes no temperature" in note for note in report.notes)
        assert results(tmp_path)[0].not_applied == {"temperature": "fixed"}
        sweep = {"name": "m", "type": "one", "temperature": [0, 1]}
        with pytest.raises(ConfigError, match="2 times"):
            go(config(tmp_path, sweep) | {"output_dir": str(tmp_path / "sweep")})


def test_what_a_model_does_not_take_beside_another_is_found_too(tmp_path: Path) -> None:
    one = Scripted(not_with={"top_p": "temperature"})
    with registered(one=one):
        with pytest.raises(ConfigError, match="takes no top_p"):
            go(config(tmp_path, top_p=0.9, on_not_applied="refuse"))
        alone = {"name": "m", "type": "one", "top_p": 0.9}
        assert go(config(tmp_path, alone, on_not_applied="refuse")).complete


def test_a_temperature_that_no_request_could_have_is_found_before_the_run(tmp_path: Path) -> None:
    one = Scripted(most_temperature=1.0)
    hot = {"name": "m", "type": "one", "temperature": [0.5, 1.5]}
    with registered(one=one), pytest.raises(ConfigError, match=r"1\.5; its service takes 0 … 1"):
        go(config(tmp_path, hot))
    assert not one.asked


def test_keys_stay_out_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "sk-very-secret")
    model = {"name": "m1", "type": "one", "api_key": "${ACME_KEY}"}
    with registered(one=Scripted()):
        go(config(tmp_path, model))
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"sk-very-secret" not in path.read_bytes(), path


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = config(tmp_path, count=30, concurrency=3)
    real, written = JournalRun.record, 0

    def record(run: JournalRun, found: Any) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise StorageError("writing the journal failed: disk full")
        real(run, found)

    monkeypatch.setattr(JournalRun, "record", record)
    one = Scripted(seconds=0.001)
    with registered(one=one):
        with pytest.raises(StorageError, match="disk full"):
            go(raw)
        kept = {f"{r.variant}|{r.prompt_id}|0" for r in results(tmp_path)}
        before = dict(one.asked)
        report = go(raw, resume=True)
    assert kept
    assert all(one.asked[key] == before[key] for key in kept)
    assert report.complete
    # What was on the wire when the disk was full may have been billed.
    assert set(report.possibly_billed_twice) == before.keys() - kept


def test_what_was_cut_off_is_listed_and_counts_against_the_budget(tmp_path: Path) -> None:
    """A crash leaves begun attempts behind; a stop takes back those that never left."""
    raw = priced(tmp_path, count=3)
    stop = threading.Event()
    stop.set()
    with registered(one=Scripted()):
        with pytest.raises(InterruptedRunError):
            run_experiment(raw, display=None, stop=stop)
        with directory.held(tmp_path / "out") as journal:
            last = directory.latest(journal)
            assert last is not None
            assert last.open_attempts == 0
            with journal.resume_run(
                last.run_id, config=asked(parse_config(raw)), items=None
            ) as cut_off:
                cut_off.begin(["m1_tempdefault|prompt_0001|0"])
        report = go(raw, resume=True)
        again = go(raw, resume=True)
    for each in (report, again):
        assert each.possibly_billed_twice == ("m1_tempdefault|prompt_0001|0",)
        assert each.uncertain == pytest.approx(0.1)
        assert each.spent == pytest.approx(0.03)
