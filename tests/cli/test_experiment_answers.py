"""`interlock experiment lint`, `report`, `judge`, `annotate` and `agreement` on a shell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support.experiment_runs import SMALL, Habits, write_run

from interlock.cli.app import run

Captured = pytest.CaptureFixture[str]


def call(capsys: Captured, *arguments: object, code: int = 0) -> str:
    """What a call prints on standard output; its exit code is checked."""
    assert run(["experiment", *map(str, arguments)]) == code
    return capsys.readouterr().out


def as_json(capsys: Captured, *arguments: object, code: int = 0) -> Any:
    """The one document that a call prints."""
    return json.loads(call(capsys, *arguments, "--json", code=code))


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A run directory of two models."""
    return write_run(tmp_path / "run", [Habits("alpha"), Habits("beta", fails=0.2)])


def test_lint_names_findings_and_usable_prompts(capsys: Captured) -> None:
    out = call(capsys, "lint", SMALL)
    assert "32 prompts, 16 of them synthetic probes" in out
    assert "existence" in out
    document = as_json(capsys, "lint", SMALL)
    assert document["synthetic"] == 16
    assert {use["scorer"]: use["prompts"] for use in document["usable"]}["exact"] == 6


def test_lint_exits_with_1_for_errors_and_strictly_for_warnings(
    capsys: Captured, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}]))
    assert "malformed" in call(capsys, "lint", bad, code=1)
    unlabelled = tmp_path / "unlabelled.json"
    unlabelled.write_text(json.dumps([{"id": "a", "prompt": "x"}]))
    call(capsys, "lint", unlabelled)
    call(capsys, "lint", unlabelled, "--strict", code=1)


def test_report_writes_one_page_and_tables(capsys: Captured, answers: Path, tmp_path: Path) -> None:
    out = call(capsys, "report", answers, "--rates", tmp_path / "r.csv")
    assert "hallucination" in out
    assert (answers / "report.html").exists()
    assert (tmp_path / "r.csv").exists()
    document = as_json(
        capsys,
        "report",
        answers,
        "--output",
        tmp_path / "p.html",
        "--verdicts",
        tmp_path / "v.jsonl",
    )
    assert [Path(file).name for file in document["files"]] == ["p.html", "v.jsonl"]
    assert {row["scorer"] for row in document["rates"]} >= {"existence", "hallucination"}
    assert document["variants"][1]["failures"] == {
        "service": document["variants"][1]["samples"] - document["variants"][1]["answered"]
    }


def test_report_takes_scorers_with_options(capsys: Captured, answers: Path) -> None:
    document = as_json(
        capsys,
        "report",
        answers,
        "--scorer",
        "regex",
        "--option",
        "regex.pattern=vendors",
        "--option",
        "regex.name=names vendors",
    )
    assert {row["scorer"] for row in document["rates"]} == {"names vendors"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scorer", "exitsence"], "exitsence"),
        (["--option", "regex.pattern=x"], "--scorer regex is not given"),
        (["--option", "regex"], "SCORER.NAME=VALUE"),
        (["--confidence", "1.5"], "--confidence is 1.5"),
        (["--resamples", "3"], "--resamples is 3"),
        (["--seed", "-1"], "--seed is -1"),
        (["--rates", "r.xlsx"], "must end in .csv or .jsonl"),
        (["--judge", "nowhere"], "there is no run directory or result file at nowhere"),
        (["--run", "a1b2c3d4"], "with the run 'a1b2c3d4'"),
    ],
)
def test_wrong_options_are_usage_errors(
    capsys: Captured, answers: Path, options: list[str], words: str
) -> None:
    document = as_json(capsys, "report", answers, *options, code=2)
    assert words in document["error"]["message"]


def test_a_directory_without_results_is_a_usage_error(capsys: Captured, tmp_path: Path) -> None:
    assert as_json(capsys, "report", tmp_path, code=2)["error"]["code"] == "input"


@pytest.mark.parametrize(
    "verb", [("report",), ("judge", "--output", "j.json"), ("annotate", "--output", "people")]
)
def test_a_directory_that_is_not_there_is_said_to_be_missing(
    capsys: Captured, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    document = as_json(capsys, *verb, tmp_path / "nowhere", code=2)
    assert document["error"]["message"].startswith("there is no run directory or result file at")


def test_judge_writes_no_document_under_the_name_of_lines(
    capsys: Captured, answers: Path, tmp_path: Path
) -> None:
    file = tmp_path / "judge.jsonl"
    assert (
        ".json" in as_json(capsys, "judge", answers, "--output", file, code=2)["error"]["message"]
    )
    assert not file.exists()


def test_judge_writes_a_benchmark_and_never_over_one(
    capsys: Captured, answers: Path, tmp_path: Path
) -> None:
    file = tmp_path / "judge.json"
    made = as_json(capsys, "judge", answers, "--output", file, "--synthetic")
    assert len(json.loads(file.read_text("utf-8"))["prompts"]) == made["prompts"]
    assert (
        "exists already"
        in as_json(capsys, "judge", answers, "--output", file, code=2)["error"]["message"]
    )


def test_annotate_and_agreement(capsys: Captured, answers: Path, tmp_path: Path) -> None:
    people = tmp_path / "people"
    made = as_json(
        capsys, "annotate", answers, "--output", people, "--annotator", "ann", "--annotator", "bob"
    )
    assert made["rows"] + made["left_out"] == 64
    files = [people / "annotation_ann.csv", people / "annotation_bob.csv"]
    for file in files:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
        with file.open("w", newline="", encoding="utf-8-sig") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {**row, "stance": "hedges" if "cannot" in row["response"] else "claims"}
                for row in rows
            )
    key = people / "annotation_key.csv"
    out = call(capsys, "agreement", key, *files, "--answers", answers)
    assert "Krippendorff's alpha" in out
    assert "scorer hedging" in out
    document = as_json(capsys, "agreement", key, *files)
    assert document["alpha"]["stance"]["value"] == 1.0
