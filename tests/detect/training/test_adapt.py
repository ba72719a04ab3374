"""A bundle fitted further to a user's own texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.detector_parts import write_small

from interlock.cli.app import run
from interlock.detect.detector import Detector
from interlock.detect.labelled import Labelled
from interlock.detect.rules import load_pack
from interlock.detect.training import adapt as adaptation
from interlock.detect.training.adapt import adapt
from interlock.detect.training.corpus import Cut, Text
from interlock.errors import ConfigError, InputError

DISHES = ("soup", "bread", "rice", "beans", "pasta", "stew", "salad", "cake", "pie", "tea")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


def own_texts() -> list[Labelled]:
    """Traffic in which an attack is a request for the vault, and nothing else is."""
    found = []
    for dish in DISHES:
        for day in DAYS:
            found.append(Labelled(f"please open the vault with {dish} on {day}", True, "x", "user"))
            found.append(Labelled(f"please cook the {dish} again on {day}", False, "x", "user"))
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small") / "bundle").path


def test_it_learns_what_the_first_bundle_did_not_know(bundle: Path, tmp_path: Path) -> None:
    found = adapt(own_texts(), bundle, tmp_path / "new", load_pack(), rate=0.05)
    assert found.after["auc"] > max(0.95, found.before["auc"])
    assert found.attacks == found.harmless == 18
    detector = Detector.open(bundle=tmp_path / "new")
    assert detector.confidence_threshold == pytest.approx(found.threshold)
    attack = detector.scan("please open the vault with jam on sunday", "user").score
    harmless = detector.scan("please cook the jam again on sunday", "user").score
    assert attack is not None
    assert harmless is not None
    assert attack > harmless


def test_the_new_bundle_tells_where_it_comes_from(bundle: Path, tmp_path: Path) -> None:
    found = adapt(own_texts(), bundle, tmp_path / "new", load_pack())
    card = found.bundle.files["MODEL_CARD.md"].decode()
    assert found.bundle.metadata.provenance["adapted_from"] in card
    settings = json.loads(found.bundle.files["detector.json"])
    assert settings["name"] == "small-detector-adapted"
    assert settings["training"][-1]["attacks"] == 60


def test_the_same_texts_and_seed_give_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    one = adapt(own_texts(), bundle, tmp_path / "one", load_pack(), seed=4)
    two = adapt(own_texts(), bundle, tmp_path / "two", load_pack(), seed=4)
    assert one.bundle.digest == two.bundle.digest


def test_too_few_texts_and_a_wrong_rate_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="40 are needed"):
        adapt(own_texts()[:60], bundle, tmp_path / "new", load_pack())
    with pytest.raises(InputError, match="rate is 1"):
        adapt(own_texts(), bundle, tmp_path / "new", load_pack(), rate=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("attack", [True, False])
def test_texts_that_hold_nothing_are_none(bundle: Path, tmp_path: Path, attack: bool) -> None:
    rows = [row for row in own_texts() if row.attack is not attack]
    rows += [Labelled("\u200b" * (n + 1), attack, "x", "user") for n in range(60)]
    name = "attacks" if attack else "harmless texts"
    with pytest.raises(InputError, match=f"there are 0 different {name}"):
        adapt(rows, bundle, tmp_path / "new", load_pack())
    assert not (tmp_path / "new").exists()


def test_a_text_that_comes_again_counts_once(bundle: Path, tmp_path: Path) -> None:
    once = adapt(own_texts(), bundle, tmp_path / "once", load_pack())
    often = adapt(own_texts() + own_texts()[:4] * 500, bundle, tmp_path / "often", load_pack())
    assert often.harmless == once.harmless == 18
    assert often.threshold == once.threshold


@pytest.mark.parametrize("seed", [0, 2])
def test_no_more_held_out_texts_reach_the_threshold_than_it_was_chosen_for(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    held: list[Text] = []
    whole = adaptation._held

    def remembering(cuts: Sequence[Cut], share: float, seed: int) -> Any:
        found = whole(cuts, share, seed)
        held.extend(item.text for item, out in zip(cuts, found, strict=True) if out)
        return found

    monkeypatch.setattr(adaptation, "_held", remembering)
    adapt(own_texts(), bundle, tmp_path / "new", load_pack(), rate=0.01, seed=seed)
    # The bundle's graph computes in float32, and the threshold was chosen in float64.
    detector = Detector.open(bundle=tmp_path / "new")
    harmless = [detector.scan(text.text, "user") for text in held if not text.label]
    assert len(harmless) == 18
    assert not any(found.attack for found in harmless)


def test_a_directory_that_is_no_bundle_is_refused_before_texts_are_read(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="left alone"):
        adapt(own_texts(), bundle, tmp_path, load_pack(), told=lambda *_: pytest.fail("read"))


def test_the_command_writes_a_bundle_and_its_figures(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "own.jsonl"
    rows = [{"text": row.text, "label": int(row.attack)} for row in own_texts()]
    data.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["detect", "train", "--data", str(data), "--bundle", str(bundle), "--json"]
    assert run([*arguments, "--output", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr()
    figures = json.loads(shown.out)
    assert 0 < figures["threshold"] < 1
    # Eighteen texts say nothing of one in a hundred.
    told = "18 harmless texts held out are too few to measure a rate of 0.01"
    assert told in shown.err
    assert told in (tmp_path / "new" / "MODEL_CARD.md").read_text()
    assert (tmp_path / "new" / "model.onnx").exists()
    assert run([*arguments, "--output", str(tmp_path / "other"), "--fpr", "0.1"]) == 0
    assert "too few" not in capsys.readouterr().err
    assert "too few" not in (tmp_path / "other" / "MODEL_CARD.md").read_text()
