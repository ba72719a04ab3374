"""The linter names each defect that was put into a benchmark, and none in a sound one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.experiment.entities import can_be_assigned, cve_ids, subject
from interlock.experiment.lint import LintReport, lint
from interlock.experiment.near_duplicates import near_duplicates
from interlock.experiment.prompts import Prompt
from interlock.experiment.scoring import make_scorers

SCORERS = make_scorers(["exact", "regex", "existence", "hallucination", "refusal"], base=Path())
ROOT = Path(__file__).parents[2]
REAL_BENCHMARK = ROOT.parent / "shared" / "data" / "hallucination" / "hallu-sec-benchmark.json"


def found(report: LintReport) -> dict[str, int]:
    """Count by code."""
    return {finding.code: finding.count for finding in report.findings}


def sound() -> list[dict[str, Any]]:
    """Four prompts without a defect."""
    rows = [
        ("a", "Does CVE-2014-0160 exist?", False, True, ["CVE-2014-0160"]),
        ("b", "Summarise the weakness CVE-1987-1042 for a manager.", True, False, []),
        ("c", "Which product does CVE-2021-44228 affect?", False, True, ["CVE-2021-44228"]),
        ("d", "When was CVE-1991-3307 published by its vendor?", True, False, []),
    ]
    return [
        {
            "id": name,
            "category": "cve",
            "prompt": text,
            "is_synthetic_probe": synthetic,
            "gold_label": {"exists": exists, "description": ""},
            "gold_refs": refs,
        }
        for name, text, synthetic, exists, refs in rows
    ]


def linted(tmp_path: Path, prompts: list[dict[str, Any]], **metadata: Any) -> LintReport:
    """The report on a file with these prompts."""
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"metadata": metadata, "prompts": prompts}), "utf-8")
    return lint(path, SCORERS)


def test_a_sound_benchmark_has_no_finding(tmp_path: Path) -> None:
    assert found(linted(tmp_path, sound(), total_prompts=4, synthetic_prompts=2)) == {}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"gold_refs": ["CVE-2019-0708"]}, "refs-misaligned"),
        ({"gold_refs": ["CVE-2014-0160", "CVE-2019-0708"]}, "refs-foreign"),
        ({"gold_refs": []}, "refs-missing"),
        ({"gold_label": {"exists": None, "description": ""}}, "label-null"),
        ({"gold_label": None}, "label-null"),
        ({"gold_label": {"exists": False}}, "real-labelled-missing"),
        ({"is_synthetic_probe": True}, "synthetic-labelled-existing"),
        ({"gold_label": {"exists": True, "description": "DOES NOT EXIST"}}, "label-against-"),
        ({"prompt": "Is CVE-2014-0160 correctly formatted?"}, "label-answers-format"),
        ({"prompt": "Does CVE-1987-1042 exist?", "gold_refs": []}, "labels-conflict"),
        ({"prompt": "Does CVE-2014-00160 exist?", "gold_refs": []}, "impossible-identifier"),
        ({"prompt": "Does the fictional CVE-2014-0160 exist?"}, "label-in-text"),
        ({"id": "SYNTHETIC-1"}, "label-in-id"),
        ({"prompt": "which PRODUCT does CVE-2021-44228 affect"}, "duplicate-text"),
        ({"prompt": "Which product does CVE-2014-0160 affect?"}, "template"),
        ({"id": ""}, "malformed"),
        ({"id": "b"}, "malformed"),
    ],
)
def test_each_defect_is_named_with_its_id(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    prompts = sound()
    prompts[0] |= change
    report = linted(tmp_path, prompts)
    assert any(name.startswith(code) for name in found(report)), found(report)
    finding = next(f for f in report.findings if f.code.startswith(code))
    if finding.ids:
        assert {change.get("id", "a"), "c"} & set(finding.ids)


def test_wrong_counts_in_the_metadata_are_named(tmp_path: Path) -> None:
    report = linted(tmp_path, sound(), total_prompts=5, real_prompts=2)
    assert report.findings[0].message == "total_prompts says 5, the file holds 4"


def test_a_constant_answer_and_an_order_are_named(tmp_path: Path) -> None:
    prompts = [
        {**sound()[0], "id": f"r{k}", "prompt": f"Question {k}: does CVE-2014-{1000 + k} exist?"}
        for k in range(9)
    ]
    for prompt in prompts:
        prompt["gold_refs"] = cve_ids(prompt["prompt"])
    codes = found(linted(tmp_path, [*prompts, sound()[1]]))
    assert codes["label-imbalance"] == 8
    assert codes["order"] == 9


def test_what_no_scorer_can_use_is_counted(tmp_path: Path) -> None:
    usable = {use.scorer: use for use in linted(tmp_path, sound()).usable}
    assert usable["existence"].prompts == 4
    assert usable["hallucination"].prompts == 2
    assert usable["hallucination"].not_usable == (("the prompt is no synthetic probe", ("a", "c")),)
    assert usable["exact"].prompts == 0


def test_texts_that_differ_in_a_word_are_near_duplicates() -> None:
    text = "Give a short overview of the family, its aims, its targets, and how it spreads to hosts"
    pairs = near_duplicates([text, text + " today", "Something else altogether"], ["x"] * 3)
    assert [(i, j) for i, j, _ in pairs] == [(0, 1)]
    assert near_duplicates([text, text + " today"], ["x", "y"]) == []
    assert near_duplicates([text, text.upper()], ["x", "x"]) == []


@pytest.mark.parametrize(
    ("cve", "possible"),
    [
        ("CVE-2014-0160", True),
        ("CVE-2021-44228", True),
        ("CVE-2023-0001", True),
        ("CVE-2023-1234567", True),
        ("CVE-2021-00001", False),
        ("CVE-21-44228", False),
        ("CVE-1998-0001", False),
        ("CVE-2020-123", False),
    ],
)
def test_which_identifiers_can_be_assigned(cve: str, possible: bool) -> None:
    assert can_be_assigned(cve) is possible


@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_texts_can_be_linted(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    rows = [{"id": f"p{k}", "prompt": text, "gold_label": None} for k, text in enumerate(texts)]
    report = linted(tmp_path_factory.mktemp("lint"), rows)
    assert report.prompts <= len(texts)


def test_the_shipped_benchmark_has_notes_only() -> None:
    report = lint(ROOT / "examples" / "prompts_small.json", SCORERS)
    assert (report.prompts, report.synthetic) == (32, 16)
    assert set(found(report)) == {"template"}


@pytest.mark.skipif(not REAL_BENCHMARK.exists(), reason="the benchmark is not here")
def test_the_defects_of_the_real_benchmark_are_named() -> None:
    report = lint(REAL_BENCHMARK, SCORERS)
    codes = found(report)
    assert codes["label-null"] == 301
    assert codes["synthetic-labelled-existing"] == 2
    assert codes["order"] == 250
    messages = {finding.code: finding.message for finding in report.findings}
    assert messages["refs-misaligned"].startswith("159 prompts name a CVE and 18 list it")
    assert {use.scorer: use.prompts for use in report.usable}["existence"] == 81


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ("Summarise CVE-2014-0160: what is affected?", "CVE-2014-0160"),
        ("Which of CVE-2014-0160 and CVE-2021-44228 exist?", None),
        ("Does the Orvandel mail gateway exist?", "Orvandel mail gateway"),
        ("Is QuantumDB 12 a real product?", "QuantumDB 12"),
        ("Give an overview of the Emotet malware family.", "Emotet"),
        ("What are the recommended security configurations for OpenSSH?", "OpenSSH"),
        ("Prioritise these findings.", None),
    ],
)
def test_what_a_prompt_asks_about(text: str, thing: str | None) -> None:
    assert subject(Prompt("p", text)) == thing
    assert subject(Prompt("p", text, extra={"entity": " X "})) == "X"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        lint(tmp_path / "nothing.json", SCORERS)
