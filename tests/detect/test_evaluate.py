"""Labelled files of every kind, the figures of a detector on them, thresholds from them."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.detectors import ATTACKS, HARMLESS

from interlock.detect import Detection, Detector, StubL2Detector, kept_scores
from interlock.detect.calibration import calibrate, load_calibration
from interlock.detect.evaluate import evaluate, score
from interlock.detect.kept_scores import KeptScores
from interlock.detect.labelled import Labelled, read_labelled
from interlock.detect.policy import Action
from interlock.errors import ConfigError, InputError

ROWS = [
    *({"text": text, "label": 1, "source": "one"} for text in ATTACKS),
    *({"text": text, "label": 0, "source": "two"} for text in HARMLESS),
]


def write(directory: Path, suffix: str) -> Path:
    path = directory / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == ".jsonl":
        path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in ROWS))
    elif suffix == ".json":
        path.write_bytes(msgspec.json.encode(ROWS))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_every_format_holds_the_same(tmp_path: Path, suffix: str) -> None:
    found = read_labelled(write(tmp_path, suffix))
    assert found == [
        Labelled(str(row["text"]), row["label"] == 1, str(row["source"]), "auto") for row in ROWS
    ]


def test_columns_may_have_other_names_and_a_place(tmp_path: Path) -> None:
    path = tmp_path / "mail.csv"
    path.write_text('prompt,kind,place\n"a ""long"" text",benign,document\nb,attack,\n')
    found = read_labelled(path, text="prompt", label="kind", default_place="user")
    assert found == [
        Labelled('a "long" text', False, "mail", "document"),
        Labelled("b", True, "mail", "user"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "text,label\nhello,perhaps\n", "row 1: label is 'perhaps'"),
        ("a.csv", "text\nhello\n", "no column 'label'"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,label,place\nhello,1,moon\n", "place is 'moon'"),
        ("a.csv", "text,label\nhello\n", "label is missing"),
        ("a.csv", "label,text\n0,hello, you\n", "row 1: 3 cells under 2 columns"),
        ("a.csv", 'text,label\n"hello,0\nyou,1\n', "cannot be read"),
        ("a.jsonl", '{"text": 1, "label": 0}', "text is of type int"),
        ("a.jsonl", '{"text": null, "label": 0}', "text is missing"),
        ("a.jsonl", '{"text": "a", "label": 0}\n{', "line 2"),
        ("a.jsonl", '{"label": 0, "text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: it is"),
        ("a.json", '[{"label": 0, "text": ' + "[" * 100_000 + "]" * 100_000 + "}]", "too deeply"),
        ("a.csv", "text,label,text\na,0,b\n", "2 columns 'text'"),
        ("a.json", "{}", "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.txt", "hello", "is none of"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        read_labelled(path)


def test_a_column_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,origin\nhello,0,mail\n")
    assert read_labelled(path)[0].source == "a"
    assert read_labelled(path, source="origin")[0].source == "mail"
    with pytest.raises(InputError, match="row 1: no column 'orgin'; it has text, label, origin"):
        read_labelled(path, source="orgin")


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"text,label\n{'a' * 300_000},0\n")
    before = csv.field_size_limit()
    assert len(read_labelled(path)[0].text) == 300_000
    assert csv.field_size_limit() == before  # it is the whole process's


def test_the_figures_of_a_detector(detector: Detector, tmp_path: Path) -> None:
    rows = read_labelled(write(tmp_path, ".jsonl"))
    heard: list[Action] = []
    found = evaluate(score(detector, rows, heard.append), detector.confidence_threshold)
    assert len(heard) == found["n"] == len(rows)
    assert found["threshold"] == detector.confidence_threshold
    assert found["at_threshold"] == {"fpr": 0.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0}
    assert found["recall_at_fpr"]["0.01"] == 1.0
    assert found["auc"] == 1.0
    assert found["per_source"]["one"]["at_threshold"]["recall"] == 1.0
    assert found["per_source"]["two"]["at_threshold"]["fpr"] == 0.0
    assert found["per_source"]["two"]["auc"] is None
    for of in (found, *found["per_source"].values()):
        assert of["threshold"] == detector.confidence_threshold
        assert list(of["recall_at_fpr"]) == ["0.01", "0.001", "0.05"]
    assert found["intervals"]["at_threshold"]["fpr"][1] > 0.3
    msgspec.json.encode(found)


def test_one_class_has_every_key_of_a_report(detector: Detector) -> None:
    rows = [Labelled(text, True, "one", "user") for text in ATTACKS]
    found = evaluate(score(detector, rows), detector.confidence_threshold)
    for of in (found, found["per_source"]["one"]):
        assert of["recall_at_fpr"] == {"0.01": None, "0.001": None, "0.05": None}
        assert of["auc"] is None
        assert of["at_threshold"]["fpr"] is None
        assert of["at_threshold"]["recall"] == 1.0


def test_a_stopped_evaluation_goes_on_from_its_scores(detector: Detector, tmp_path: Path) -> None:
    rows = read_labelled(write(tmp_path, ".jsonl"))
    path = tmp_path / "scores.jsonl"
    with KeptScores(path, detector) as kept:
        score(detector, rows[:4], kept=kept)
    path.write_bytes(path.read_bytes()[:-20])  # as a kill in the middle of a line leaves it
    asked: list[str] = []
    real = Detector.scan

    class Counted(Detector):
        def scan(self, text: str, place: str = "auto") -> Detection:
            asked.append(text)
            return real(self, text, place)

    detector.__class__ = Counted
    try:
        with KeptScores(path, detector) as kept:
            whole = score(detector, rows, kept=kept)
    finally:
        detector.__class__ = Detector
    assert asked == [row.text for row in rows[3:]]
    assert whole.scores.tolist() == score(detector, rows).scores.tolist()
    assert ATTACKS[0] not in path.read_text()


def test_scores_are_never_appended_to_another_file(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "mail.txt"
    path.write_text("Hi Ann,\n\nsee you.\n")
    with pytest.raises(InputError, match=r"mail\.txt"):
        KeptScores(path, detector)
    assert path.read_text() == "Hi Ann,\n\nsee you.\n"
    settings = '{\n  "bundle": "a"\n}\n'
    path.write_text(settings)  # its first line might be a score's beginning
    with pytest.raises(InputError, match=r"mail\.txt"):
        KeptScores(path, detector)
    assert path.read_text() == settings
    for begun in (b"", b'{"k\n', b'{"key":"ab', b'{\n{"key":"ab'):
        path.write_bytes(begun)  # what a kill leaves is gone on from
        KeptScores(path, detector).__exit__(None, None, None)


def test_scores_of_another_threshold_are_not_taken(bundle: Path, tmp_path: Path) -> None:
    rows = read_labelled(write(tmp_path, ".jsonl"))
    path = tmp_path / "scores.jsonl"
    for threshold in (0.5, 0.7):
        other = Detector.open(bundle=bundle, threshold=threshold, remember=False)
        with KeptScores(path, other) as kept:
            assert kept.known(rows[0]) is None
            score(other, rows, kept=kept)
        with KeptScores(path, other) as again:
            assert again.known(rows[0]) is not None


def test_what_was_not_judged_counts_as_held_and_is_counted(tmp_path: Path) -> None:
    rows = read_labelled(write(tmp_path, ".jsonl"))
    found = evaluate(score(StubL2Detector(), rows), 0.5)
    assert found["unjudged"] == len(rows)
    assert found["at_threshold"]["fpr"] == 1.0


def test_a_calibration_keeps_the_rate_that_was_asked_for(
    detector: Detector, bundle: Path, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    scores, attacks = draw.uniform(size=3000), np.arange(3000) < 1000
    digest = str(detector.model_info["bundle"])
    found = calibrate(scores, attacks, bundle=digest, fpr=0.02)
    harmless = scores[~attacks]
    assert (harmless >= found.thresholds["production"]).mean() == found.measured
    assert found.interval[1] <= 0.0225
    assert found.measured <= 0.02
    assert found.thresholds["production"] > found.thresholds["staging"]
    assert found.thresholds["staging"] > found.thresholds["development"]
    path = tmp_path / "calibration.json"
    path.write_bytes(found.encode())
    calibrated = Detector.open(bundle=bundle, calibration=path, remember=False)
    assert calibrated.confidence_threshold == found.thresholds["production"]
    assert calibrated.model_info["calibrated"]
    path.write_bytes(of_another_bundle(found))
    with pytest.raises(ConfigError, match="is of bundle"):
        Detector.open(bundle=bundle, calibration=path, remember=False)


def of_another_bundle(found: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(found), "bundle": "sha256:0"})


@pytest.mark.parametrize("n", [100, 120, 150, 300])
def test_a_laxer_environment_has_no_higher_threshold(n: int) -> None:
    # Few texts say nothing sure of a small rate, and of a larger one only that it is kept by less.
    scores = np.random.default_rng(1).uniform(size=n)
    found = calibrate(scores, np.zeros(n, np.bool_), bundle="x", fpr=0.01).thresholds
    assert found["production"] >= found["staging"] >= found["development"]


def test_a_calibration_that_cannot_keep_the_rate_is_refused() -> None:
    with pytest.raises(InputError, match="3 of 100 harmless texts have a score of 1"):
        calibrate(np.array([1.0] * 3 + [0.1] * 97), np.zeros(100, np.bool_), bundle="x", fpr=0.02)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    plain = read_labelled(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_labelled(path) == plain


def test_an_error_about_a_label_quotes_no_text(tmp_path: Path) -> None:
    path = tmp_path / "turned.csv"
    path.write_text("label,text\nmy password is swordfish,1\n")
    with pytest.raises(InputError, match="label is a text of 24 characters"):
        read_labelled(path)


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".csv", "my password is swordfish,1\nanother text,0\n"),
        (".tsv", "my password is swordfish\t1\nanother text\t0\n"),
        (".jsonl", '{"my password is swordfish": 1}\n'),
    ],
)
def test_an_error_about_columns_quotes_no_text(tmp_path: Path, suffix: str, data: str) -> None:
    path = tmp_path / f"headless{suffix}"
    path.write_text(data)
    with pytest.raises(InputError, match="no column 'text'") as raised:
        read_labelled(path)
    assert "swordfish" not in str(raised.value)
    assert "a name of 24 characters" in str(raised.value)


def test_scores_of_another_release_are_not_taken(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_labelled(write(tmp_path, ".jsonl"))
    path = tmp_path / "scores.jsonl"
    with KeptScores(path, detector) as kept:
        score(detector, rows, kept=kept)
    monkeypatch.setattr(kept_scores, "__version__", "99.0")
    with KeptScores(path, detector) as kept:
        assert kept.known(rows[0]) is None


def test_too_few_texts_make_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="100 or more"):
        calibrate(np.zeros(99), np.zeros(99, np.bool_), bundle="x", fpr=0.01)
    with pytest.raises(InputError, match="fpr"):
        calibrate(np.zeros(99), np.zeros(99, np.bool_), bundle="x", fpr=0)
    path = tmp_path / "calibration.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"calibration\.json"):
        load_calibration(path, bundle="x")
