"""From result files of models with known habits to figures and pages."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.experiment_runs import SMALL, Habits, result, write_run

from interlock.errors import InputError
from interlock.experiment.figures import Analysis, RateRow
from interlock.experiment.prompts import Prompt, load_prompts
from interlock.experiment.records import PromptResult
from interlock.experiment.report import make_report, write_report
from interlock.experiment.report_input import RunFacts, gather, load_answers, without_secrets
from interlock.experiment.report_tables import rate_rows, score_rows, write_rows
from interlock.experiment.scoring import from_function

HONEST = Habits("org/honest", knows=1.0, denies_real=0.0, makes_up=0.0, denies_made_up=1.0)
INVENTIVE = Habits("org/inventive", knows=1.0, denies_real=0.0, makes_up=1.0, denies_made_up=0.0)


def overall(found: Analysis, scorer: str, model: str) -> RateRow:
    """A scorer's rate for a model on all prompts."""
    variants = {summary.model: summary.variant for summary in found.variants}
    return next(
        row
        for row in found.rates
        if row.scorer == scorer and row.variant == variants[model] and row.group == "all"
    )


def test_known_habits_come_out_as_rates(tmp_path: Path) -> None:
    found = make_report(write_run(tmp_path, [HONEST, INVENTIVE])).analysis
    assert overall(found, "hallucination", "org/honest").rate.yes == 0
    assert overall(found, "hallucination", "org/inventive").rate.share == 1.0
    assert overall(found, "existence", "org/honest").rate.share == 1.0
    assert overall(found, "existence", "org/inventive").rate.share == 0.5
    one = next(row for row in found.comparisons if row.scorer == "hallucination").comparison
    assert (one.n, one.second_only, one.first_only) == (16, 16, 0)
    assert one.p == pytest.approx(2 / 2**16)
    assert one.p_holm is not None
    assert one.p_holm >= one.p
    gap = next(gap for gap in found.gaps if gap.variant.startswith("org/inventive"))
    assert (gap.scorer, gap.difference) == ("existence", -1.0)


def test_what_is_missing_is_counted_and_bounded(tmp_path: Path) -> None:
    """A failed request, and one of which there is no record at all."""
    directory = write_run(tmp_path, [HONEST, INVENTIVE])
    file = next(directory.glob("*.json"))
    document = json.loads(file.read_text("utf-8"))
    results = document["runs"][0]["results"]
    made_up = [r for r in results if r["is_synthetic_probe"]]
    results.remove(made_up[0])
    made_up[1] |= {"full_response": "", "error": "Failed after 3 retries: overloaded"}
    file.write_text(json.dumps(document), "utf-8")
    found = make_report(directory).analysis
    row = overall(found, "hallucination", "org/honest")
    assert (row.rate.n, row.rate.missing, row.rate.lowest, row.rate.highest) == (14, 2, 0.0, 2 / 16)
    assert row.verdicts == {"no": 14, "no_answer": 2}
    assert found.variants[0].failures == {"missing": 1, "unknown": 1}
    assert any("2 of 32 samples have no answer" in line for line in found.limits)


def test_samples_of_a_prompt_are_clusters(tmp_path: Path) -> None:
    found = make_report(write_run(tmp_path, [Habits("m")], samples=3)).analysis
    row = overall(found, "existence", "m")
    assert row.rate.clusters <= 32 < row.rate.n
    assert row.rate.interval == "clustered bootstrap"


def test_a_temperature_sweep_is_told_apart_by_temperature(tmp_path: Path) -> None:
    runs = [Habits("m", temperature=0.0), Habits("m", temperature=1.0)]
    report = make_report(write_run(tmp_path, runs))
    assert [s.label for s in report.analysis.variants] == [
        "m, temperature 0.0",
        "m, temperature 1.0",
    ]
    page = write_report(report, tmp_path / "r.html", "today").read_text("utf-8")
    assert "<h2>Temperature</h2>" in page


def test_confidence_is_compared_with_correctness(tmp_path: Path) -> None:
    sure = Habits("m", sure_when_right=0.5)
    found = make_report(write_run(tmp_path, [sure], samples=3)).analysis
    row = next(row for row in found.calibrations if row.scorer == "existence")
    assert row.calibration.auroc is not None
    assert row.calibration.auroc > 0.9


def test_examples_show_the_surest_mistakes_first(tmp_path: Path) -> None:
    found = make_report(write_run(tmp_path, [INVENTIVE])).analysis
    shown = [e for e in found.examples if e.scorer == "hallucination"]
    sure = [e.confidence for e in shown if e.confidence is not None]
    assert len(shown) == 3
    assert sure == sorted(sure, reverse=True)
    assert all(e.label.startswith("claims") for e in shown)


def test_the_same_input_gives_the_same_report(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [HONEST, Habits("m", fails=0.1)], samples=2)
    first, second = make_report(directory), make_report(directory)
    assert first.to_dict() == second.to_dict()
    pages = [
        write_report(report, tmp_path / f"{k}.html", "today").read_bytes()
        for k, report in enumerate((first, second))
    ]
    assert pages[0] == pages[1]


def test_the_page_stands_alone_and_escapes_what_models_wrote(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [INVENTIVE])
    file = next(directory.glob("*.json"))
    hostile = "<script>alert(1)</script>"
    document = json.loads(file.read_text("utf-8"))
    for entry in document["runs"][0]["results"]:
        entry["full_response"] += hostile
        entry["model_version"] = hostile
    file.write_text(json.dumps(document), "utf-8")
    page = write_report(make_report(directory), tmp_path / "r.html", "today").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=", page)
    assert "sk-secret" not in page
    for heading in ("What cannot be concluded", "The benchmark itself", "The worst answers"):
        assert heading in page


def test_a_run_without_any_answer_still_has_a_report(tmp_path: Path) -> None:
    report = make_report(write_run(tmp_path, [Habits("m", fails=1.0)]))
    page = write_report(report, tmp_path / "r.html", "today").read_text("utf-8")
    assert "32 of 32 samples have no answer" in page
    assert overall(report.analysis, "existence", "m").rate.share is None


def test_a_scorer_of_the_user_gets_its_section(tmp_path: Path) -> None:
    scorer = from_function(
        lambda _, text: "vendor" in text, name="names a vendor", question="is a vendor named?"
    )
    report = make_report(write_run(tmp_path, [INVENTIVE]), scorers=[scorer])
    page = write_report(report, tmp_path / "r.html", "today").read_text("utf-8")
    assert "Is a vendor named?" in page
    assert {row.scorer for row in report.analysis.rates} == {"names a vendor"}


def test_tables_hold_each_verdict_and_each_rate(tmp_path: Path) -> None:
    report = make_report(write_run(tmp_path, [HONEST]))
    rows = score_rows(report.scored)
    lines = write_rows(rows, tmp_path / "v.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    with write_rows(rate_rows(report.analysis), tmp_path / "r.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(report.analysis.rates)
    assert {"yes", "n", "share", "low", "high", "missing"} <= set(read[0])
    with pytest.raises(InputError, match=r"must end in \.csv or \.jsonl"):
        write_rows(rows, tmp_path / "v.xlsx")


def test_cells_that_would_run_in_a_spreadsheet_are_marked(tmp_path: Path) -> None:
    path = write_rows([{"reason": "=HYPERLINK(1)"}], tmp_path / "v.csv")
    assert path.read_text() == "reason\n'=HYPERLINK(1)\n"


def test_labels_that_were_corrected_since_can_be_given(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [HONEST])
    document = json.loads(SMALL.read_text("utf-8"))
    for prompt in document["prompts"]:
        prompt["gold_label"] = None
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document), "utf-8")
    found = make_report(directory, prompts=other).analysis
    assert {s.name: s.applies for s in found.scorers}["existence"] == 0
    assert any("existence applies to no prompt" in line for line in found.limits)


def test_results_without_their_prompts_are_refused(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [HONEST], metadata={"prompts_file": "gone.json"})
    with pytest.raises(InputError, match="does not hold the prompts"):
        load_answers(directory)
    with pytest.raises(InputError):
        load_answers(tmp_path / "nowhere")


def test_unknown_prompts_and_repeats_without_an_index_are_kept_apart() -> None:
    prompts = load_prompts(SMALL)[:2]
    import numpy as np

    rng = np.random.default_rng(0)
    entries: list[dict[str, Any]] = [result(prompts[0], HONEST, rng) for _ in range(3)]
    for entry in entries:
        del entry["sample_index"]
    strange = Prompt("strange", "?")
    found = gather(
        [PromptResult.from_dict(e) for e in [*entries, result(strange, HONEST, rng)]],
        prompts,
        RunFacts("run"),
    )
    assert found.unknown == ("strange",)
    assert [r.sample_index for r in found.results] == [0, 1, 2, 0, 1, 2]
    assert [r.error_type for r in found.results[3:]] == ["missing"] * 3
    with pytest.raises(InputError, match="holds no result"):
        gather([], prompts, RunFacts("run"))


def test_keys_are_hidden_and_their_names_kept() -> None:
    config = {
        "api_key": "sk-1",
        "models": [{"api_key": "${ANTHROPIC_API_KEY}", "name": "m", "auth_token": "t"}],
        "max_tokens": 128,
        "base_url": "https://me:pw@host/v1",
        "headers": {"X-Api-Key": "k"},
    }
    assert without_secrets(config) == {
        "api_key": "(hidden)",
        "models": [{"api_key": "${ANTHROPIC_API_KEY}", "name": "m", "auth_token": "(hidden)"}],
        "max_tokens": 128,
        "base_url": "https://(hidden)@host/v1",
        "headers": {"X-Api-Key": "(hidden)"},
    }
