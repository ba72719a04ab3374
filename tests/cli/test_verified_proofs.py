"""`interlock verified prove` and `verify`, with real proofs of a tiny network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import helper
from support.circuits import image, shared_cache, tiny
from support.models import FLOAT, INT64, build, tensor

from interlock.cli.app import run
from interlock.verified import NoProver, RunnerMetadata

pytestmark = pytest.mark.zk

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(["verified", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(tiny().model)
    data = {"input_data": [image()["x"].reshape(-1).tolist()]}
    (directory / "input.json").write_text(json.dumps(data))
    return directory


def prove(verified: Call, model: Path, *more: object) -> tuple[int, Any]:
    bundle = model.parent / "bundle"
    code, out, err = verified(
        *("prove", model, "--output", bundle, "--cache", shared_cache(), "--json", *more)
    )
    return code, json.loads(out) if out else err


def test_a_model_is_proved_and_verified(verified: Call, model: Path) -> None:
    code, document = prove(verified, model)
    assert code == 0
    assert [entry["method"] for entry in document["slices"]] == ["circuit"] * 3
    assert document["verdict"]["accepted"] is True
    assert document["verdict"]["overall_security"] == 100
    bundle = document["bundle"]
    code, out, _ = verified("verify", bundle, "--model", model, "--cache", shared_cache())
    assert code == 0
    assert "accepted: 3 of 3 slices proved (100%)" in out
    assert "development SRS: not sound against whoever made it" in out
    assert not list(model.parent.glob(".bundle*"))


def test_a_tensors_name_steers_no_terminal(verified: Call, model: Path) -> None:
    """The reason of a fallback quotes it."""
    nodes = [
        helper.make_node("Cast", ["x"], ["i\x1b]0;\a"], to=INT64),
        helper.make_node("Cast", ["i\x1b]0;\a"], ["y"], to=FLOAT),
    ]
    found = build(nodes, [tensor("x", FLOAT, [1, 24])], [tensor("y", FLOAT, [1, 24])])
    (model / "model.onnx").write_bytes(found)
    assert verified("slice", model, "--at", "i\x1b]0;\a")[0] == 0
    code, _, err = verified("prove", model, "--output", model.parent / "bundle")
    assert code == 1
    assert r"the tensor 'i\x1b]0;\x07' is int64" in err
    assert "\x1b" not in err


def test_what_is_not_proved_makes_the_exit_code_1(verified: Call, model: Path) -> None:
    code, document = prove(verified, model, "--slice", "slice_2")
    assert code == 1
    assert [entry["method"] for entry in document["slices"]] == ["onnx", "onnx", "circuit"]
    verdict = document["verdict"]
    assert (verdict["accepted"], verdict["proved"], verdict["replayed"]) == (True, 1, 2)


def test_what_the_metadata_exclude_or_limit_is_not_proved(verified: Call, model: Path) -> None:
    assert verified("slice", model)[0] == 0
    path = RunnerMetadata.generate_for_model(model, prover=NoProver("no circuit: not yet"))
    document = json.loads(path.read_text())
    document["verified_slices"] = {"slice_0": False, "slice_1": True, "slice_2": True}
    path.write_text(json.dumps(document))
    code, found = prove(verified, model)
    assert code == 1
    assert [entry["method"] for entry in found["slices"]] == ["onnx", "circuit", "circuit"]
    assert found["slices"][0]["reason"].startswith("excluded: verified_slices says false")
    shutil.rmtree(model.parent / "bundle")
    path.write_text(json.dumps(document | {"size_limit": 100}))
    code, found = prove(verified, model)
    assert code == 1
    assert [entry["method"] for entry in found["slices"]] == ["onnx"] * 3
    assert "compiled circuits" in found["slices"][1]["reason"]


def test_a_limit_that_nothing_fits_is_told_slice_by_slice(verified: Call, model: Path) -> None:
    code, document = prove(verified, model, "--key-bytes", 1000)
    assert code == 1
    assert document["verdict"]["proved"] == 0
    assert all("proving key" in entry["reason"] for entry in document["slices"])


def test_an_edited_bundle_is_refused(verified: Call, model: Path) -> None:
    _, document = prove(verified, model, "--slice", "slice_2")
    bundle = Path(document["bundle"])
    path = bundle / "slice_2-0.proof.json"
    path.write_bytes(
        path.read_bytes().replace(b'"rescaled_outputs":[["', b'"rescaled_outputs":[["9')
    )
    code, out, _ = verified("verify", bundle)
    assert code == 1
    assert "REFUSED" in out
    assert "proof_changed" in out
    code, out, _ = verified("verify", bundle, "--json")
    assert code == 1
    assert json.loads(out)["reasons"][0]["code"] == "proof_changed"


def test_mistakes_are_told_before_work_starts(verified: Call, model: Path) -> None:
    code, _, err = verified("prove", model, "--output", model)
    assert code == 2
    assert "exists" in err
    code, _, err = verified("prove", model, "--output", model / "b", "--slice", "slice_9")
    assert code == 2
    assert "slice_9" in err
    code, _, err = verified(
        *("prove", model, "--output", model / "b", "--srs", model / "input.json")
    )
    assert code == 2
    assert "no SRS file" in err


def test_what_is_no_bundle_is_refused(verified: Call, tmp_path: Path) -> None:
    code, out, _ = verified("verify", tmp_path / "nothing")
    assert code == 1
    assert "malformed" in out


def test_an_inference_says_what_weakens_its_proofs(verified: Call, model: Path) -> None:
    assert verified("slice", model)[0] == 0
    options = ("--slice", "slice_2", "--cache", shared_cache())
    assert verified("setup", model, *options)[0] == 0
    report = model.parent / "page.html"
    code, out, _ = verified("run", model, "--cache", shared_cache(), "--report", report)
    assert code == 0
    assert "development SRS: not sound against whoever made it" in out
    assert "development SRS: not sound against whoever made it" in report.read_text()
    code, out, _ = verified("run", model, "--cache", shared_cache(), "--json")
    assert json.loads(out)["warnings"][-1].startswith("development SRS")
