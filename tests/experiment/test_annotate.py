"""Annotators' files: blinded, complete, shuffled; and labels read back with their agreement."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from support.experiment_runs import Habits, write_run

from interlock.errors import ConfigError, InputError
from interlock.experiment.annotate import LABELS, Exported, export_annotation
from interlock.experiment.annotations import read_annotation
from interlock.experiment.report import make_report
from interlock.experiment.report_input import load_answers


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of an exported file."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def fill(path: Path, label: Callable[[dict[str, str]], dict[str, str]], mark: str = ",") -> None:
    """Fill in labels, and write the file as a spreadsheet would."""
    rows = rows_of(path)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows({**row, **label(row)} for row in rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two models, one of which fails now and then."""
    return write_run(tmp_path / "run", [Habits("secret/alpha"), Habits("secret/beta", fails=0.2)])


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Exported:
    """An export for two annotators."""
    return export_annotation(load_answers(run), tmp_path / "people", annotators=("ann", "bob"))


def test_annotators_see_the_question_and_the_answer_alone(exported: Exported) -> None:
    rows = rows_of(exported.annotators[0])
    assert list(rows[0]) == ["row_id", "prompt", "response", *LABELS, "notes"]
    text = exported.annotators[0].read_text("utf-8-sig")
    for hidden in ("secret/", "small_0", "synthetic", "cve_existence"):
        assert hidden not in text
    assert all(not row[column] for row in rows for column in LABELS)


def test_every_answer_is_there_once_and_failures_are_counted(exported: Exported) -> None:
    assert exported.rows + exported.left_out == 64
    assert exported.left_out > 0
    first, second = (rows_of(path) for path in exported.annotators)
    assert {row["row_id"] for row in first} == {row["row_id"] for row in second}
    assert len(first) == exported.rows == len(rows_of(exported.key))
    assert [row["row_id"] for row in first] != [row["row_id"] for row in second]


def test_an_export_is_the_same_for_the_same_seed(run: Path, tmp_path: Path) -> None:
    answers = load_answers(run)
    made = [
        export_annotation(answers, tmp_path / f"e{k}", seed=seed)
        for k, seed in enumerate((1, 1, 2))
    ]
    texts = [each.annotators[0].read_bytes() for each in made]
    assert texts[0] == texts[1] != texts[2]


def test_a_part_keeps_its_proportions(run: Path, tmp_path: Path) -> None:
    made = export_annotation(load_answers(run), tmp_path / "part", number=20)
    key = rows_of(made.key)
    assert len(key) == 20
    synthetic = sum(row["is_synthetic_probe"] == "true" for row in key)
    assert 8 <= synthetic <= 12


def test_an_export_is_never_written_over(run: Path, exported: Exported) -> None:
    with pytest.raises(InputError, match="holds an export already"):
        export_annotation(load_answers(run), exported.key.parent)


@pytest.mark.parametrize(
    ("annotators", "number"),
    [
        ((), None),
        (("a", "a"), None),
        (("Ann", "ann"), None),
        (("../a",), None),
        (("key",), None),
        (("a", "KEY"), None),
        (("a",), 0),
    ],
)
def test_wrong_options_are_refused(
    run: Path, tmp_path: Path, annotators: tuple[str, ...], number: int | None
) -> None:
    with pytest.raises(ConfigError):
        export_annotation(load_answers(run), tmp_path / "x", annotators=annotators, number=number)
    assert not (tmp_path / "x").exists()


def stance(row: dict[str, str]) -> dict[str, str]:
    """Labels of an annotator who reads the made answers rightly."""
    text = row["response"]
    if text.startswith("Yes"):
        return {"stance": "claims"}
    if text.startswith("No"):
        return {"stance": "denies"}
    return {"stance": "hedges"}


def test_people_who_agree_have_a_kappa_of_one(exported: Exported) -> None:
    for mark, path in zip(",;", exported.annotators, strict=True):
        fill(path, stance, mark)
    found = read_annotation(exported.key, exported.annotators)
    assert found.annotators == ("ann", "bob")
    pair = next(one for column, _, _, one in found.pairs if column == "stance")
    assert (pair.n, pair.value) == (exported.rows, 1.0)
    assert found.alpha["stance"].value == 1.0
    assert found.alpha["correct"].n == 0
    assert len(found.majority["stance"]) == exported.rows


def test_labels_of_long_answers_are_read_back(exported: Exported) -> None:
    """The csv module takes no more than 131,072 characters a cell by itself."""
    limit = csv.field_size_limit()
    long = {"prompt": "word " * 40_000, "response": "word " * 40_000}
    fill(exported.annotators[0], lambda row: long | {"stance": "denies"})
    found = read_annotation(exported.key, exported.annotators[:1])
    assert len(found.labels["stance"]) == exported.rows
    assert csv.field_size_limit() == limit


def test_empty_rows_of_a_spreadsheet_are_left_out(exported: Exported) -> None:
    fill(exported.annotators[0], lambda row: {"stance": "denies"}, ";")
    text = exported.annotators[0].read_text("utf-8-sig")
    columns = text.split("\n", 1)[0].count(";")
    exported.annotators[0].write_text(text + f"{';' * columns}\r\n \r\n", "utf-8")
    found = read_annotation(exported.key, exported.annotators[:1])
    assert len(found.labels["stance"]) == exported.rows


def test_people_who_disagree_have_no_majority(exported: Exported) -> None:
    fill(exported.annotators[0], lambda _: {"correct": "yes"})
    fill(exported.annotators[1], lambda _: {"correct": "No "})
    found = read_annotation(exported.key, exported.annotators)
    assert found.majority["correct"] == {}
    assert next(one for column, _, _, one in found.pairs if column == "correct").share == 0.0


def test_scorers_are_compared_with_people(run: Path, exported: Exported) -> None:
    fill(exported.annotators[0], stance)
    scored = make_report(run).scored
    found = read_annotation(exported.key, exported.annotators[:1], scored)
    hedging = next(pair for pair in found.scorers if pair.scorer == "hedging")
    assert set(hedging.table) <= {"yes / yes", "no / no"}
    assert hedging.kappa.value == 1.0
    assert found.alpha == {}


def test_labels_of_another_run_are_refused(tmp_path: Path, exported: Exported) -> None:
    fill(exported.annotators[0], stance)
    other = write_run(tmp_path / "other", [Habits("secret/alpha")], seed=5)
    with pytest.raises(InputError, match="labelled for another answer"):
        read_annotation(exported.key, exported.annotators[:1], make_report(other).scored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stance": "maybe"}, r"annotation_ann\.csv, line \d+: stance is 'maybe'"),
        ({"row_id": "R999"}, "no row 'R999'"),
        ({"row_id": "R01"}, "is there twice"),
    ],
)
def test_wrong_labels_are_named_with_file_and_line(
    exported: Exported, change: dict[str, str], message: str
) -> None:
    fill(exported.annotators[0], lambda _: change)
    with pytest.raises(InputError, match=message):
        read_annotation(exported.key, exported.annotators)


def test_a_file_that_is_no_annotation_is_named(tmp_path: Path, exported: Exported) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="no column 'row_id'"):
        read_annotation(exported.key, [tmp_path / "a.csv"])
    with pytest.raises(InputError, match="cannot be read"):
        read_annotation(exported.key, [tmp_path / "b.csv"])
    (tmp_path / "c.csv").write_bytes("row_id;café".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_annotation(exported.key, [tmp_path / "c.csv"])
