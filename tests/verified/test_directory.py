"""A model's directory: what ships, what is on disk, and what is refused there."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from pathlib import Path

import pytest
from support.counts import count
from support.kill import run_and_kill
from support.networks import MODELS, dense, shipped

from interlock.errors import BundleFormatError, BundleIntegrityError, InputError, StorageError
from interlock.verified.directory import (
    Cuts,
    ModelDirectory,
    cut,
    read_slices,
    shipped_models,
    write_slices,
)

SLICER = Path(__file__).parents[1] / "faults" / "slice_to_kill.py"


@pytest.mark.parametrize("name", ["net", "doom"])
def test_a_shipped_model_is_whole(name: str) -> None:
    directory = ModelDirectory.find(MODELS / name)
    found = read_slices(directory, directory.read_model())
    assert found is not None
    sliced, listing = found
    assert len(sliced.slices) == 5
    assert (listing.optimization, listing.compared) == ("all", 216)
    assert sliced.sha256 in (MODELS / name / "README.md").read_text("utf-8")
    assert shipped_models() == MODELS


def test_the_wheel_carries_each_file_of_the_shipped_models() -> None:
    project = tomllib.loads((MODELS.parent / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    kept = {
        f"models/{path.relative_to(MODELS).as_posix()}"
        for name in ("net", "doom")
        for path in (MODELS / name).iterdir()
        if not path.name.endswith("_Runner_Metadata.json")
    }
    assert included == {path: f"interlock/verified/{path}" for path in kept}


@pytest.mark.parametrize("name", ["net", "doom"])
def test_where_there_is_no_directory_the_shipped_model_is_copied(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = ModelDirectory.find(f"models/{name}")
    assert directory.path == tmp_path / "models" / name
    assert directory.read_model() == (MODELS / name / "model.onnx").read_bytes()
    assert not directory.metadata.exists()
    assert read_slices(directory, directory.read_model()) is not None
    assert ModelDirectory.find(f"models/{name}") == directory


@pytest.mark.parametrize("path", ["models/resnet", "net", "elsewhere/net", "model.onnx"])
def test_any_other_missing_directory_is_an_error(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").touch()
    with pytest.raises(InputError, match="there is no model directory"):
        ModelDirectory.find(path)


def test_whoever_copies_the_shipped_model_first_does_it_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process copies it at the same moment."""
    place = tmp_path / "models" / "net"
    rename = Path.rename

    def too_late(path: Path, target: Path) -> Path:
        shutil.copytree(path, target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", too_late)
    assert ModelDirectory.find(place).read_model() == shipped("net")
    assert [path.name for path in place.parent.iterdir()] == ["net"]


def test_a_place_that_cannot_be_written_to_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").touch()
    with pytest.raises(StorageError, match="cannot copy the shipped model"):
        ModelDirectory.find("models/net")


def test_slices_are_read_as_written(net: Path) -> None:
    directory = ModelDirectory.find(net)
    model = directory.read_model()
    cuts = Cuts(at=[["conv2_pool"], ["fc1_relu"]])
    write_slices(directory, cut(model, cuts), cuts, "none", 0)
    found = read_slices(directory, model)
    assert found is not None
    assert found[1].cuts == cuts
    assert found[1].optimization == "none"
    assert sorted(path.name for path in directory.slices.iterdir()) == [
        "slice_0.onnx",
        "slice_1.onnx",
        "slice_2.onnx",
        "slices.json",
    ]


def test_slices_of_another_model_do_not_count(net: Path) -> None:
    directory = ModelDirectory.find(net)
    (net / "model.onnx").write_bytes(dense([4, 3, 2]))
    assert read_slices(directory, directory.read_model()) is None


def test_cuts_that_a_new_model_does_not_have_do_not_count(net: Path) -> None:
    """The model was replaced by one that makes no tensor of that name."""
    directory = ModelDirectory.find(net)
    (net / "model.onnx").write_bytes(dense([4, 3, 2]))
    cuts = Cuts(at=[["h0"]], shapes={"x": [1, 4]})
    write_slices(directory, cut(directory.read_model(), cuts), cuts, "none", 0)
    (net / "model.onnx").write_bytes(shipped("net"))
    assert read_slices(directory, directory.read_model()) is None


def test_a_replaced_slice_is_refused_even_with_its_digest(net: Path) -> None:
    directory = ModelDirectory.find(net)
    model = directory.read_model()
    other = cut((MODELS / "net" / "model.onnx").read_bytes(), Cuts(at=[["conv1_pool"]])).slices[1]
    (directory.slices / "slice_3.onnx").write_bytes(other.model)
    with pytest.raises(BundleIntegrityError, match=r"slice_3.onnx is missing, or not what"):
        read_slices(directory, model)
    listing = directory.slices / "slices.json"
    document = json.loads(listing.read_text())
    document["slices"][3]["sha256"] = other.sha256
    listing.write_text(json.dumps(document))
    with pytest.raises(BundleIntegrityError, match="the entry of slice_3 is not what the model"):
        read_slices(directory, model)


def test_a_flipped_bit_in_any_slice_is_refused(net: Path) -> None:
    directory = ModelDirectory.find(net)
    rng = random.Random(4)
    for k in range(5):
        path = directory.slices / f"slice_{k}.onnx"
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(BundleIntegrityError, match=f"slice_{k}.onnx"):
            read_slices(directory, directory.read_model())
        path.write_bytes(good)


def test_a_missing_slice_is_refused(net: Path) -> None:
    directory = ModelDirectory.find(net)
    (directory.slices / "slice_2.onnx").unlink()
    with pytest.raises(BundleIntegrityError, match="slice_2"):
        read_slices(directory, directory.read_model())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model_sha256": 3}'])
def test_a_listing_that_is_none_is_refused(net: Path, text: str) -> None:
    directory = ModelDirectory.find(net)
    (directory.slices / "slices.json").write_text(text)
    with pytest.raises(BundleFormatError, match=r"slices\.json"):
        read_slices(directory, directory.read_model())


def test_a_slicer_that_is_killed_leaves_slices_whole_or_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(dense([8, 8, 8, 8, 8]))
    directory = ModelDirectory.find(tmp_path)
    rng = random.Random(11)
    states = set()
    for _ in range(count(6, 100)):
        ended = run_and_kill(SLICER, [str(tmp_path)], rng=rng, after_lines=(1, 30))
        assert ended.killed
        found = read_slices(directory, directory.read_model())
        states.add(None if found is None else len(found[0].slices))
    assert states <= {None, 2, 4}
