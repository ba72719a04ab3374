"""What a model must show before it is served, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from support import models
from support.bundles import strict_bundle

from interlock.errors import BundleContractError, BundleFormatError, ConfigError, InputError
from interlock.kernel.batch import BatchOutcome
from interlock.kernel.clock import NO_DEADLINE
from interlock.serve.onnx_served import OnnxServed
from interlock.serve.opening import kind_of, open_model
from interlock.serve.settings import ModelSettings, Settings
from interlock.serve.stub import depends_on_inputs
from interlock.serve.version import open_version


def opened(place: Path, **settings: Any) -> OnnxServed:
    served = open_model("m", ModelSettings(**settings), place)
    assert isinstance(served, OnnxServed)
    return served


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("affine", "centred", "stub", "endless_loop", "steered"):
        (tmp_path / f"{name}.onnx").write_bytes(getattr(models, name)())
    return tmp_path


def test_a_model_whose_rows_depend_on_one_another_is_not_merged(place: Path) -> None:
    served = opened(place, path="centred.onnx", merge=True)
    try:
        with pytest.raises(BundleContractError, match="its rows depend on the rows beside them"):
            served.start(NO_DEADLINE)
    finally:
        served.close()
    served = opened(place, path="centred.onnx")
    assert served.by_rows
    assert not served.mergeable


@pytest.mark.parametrize("path", ["affine.onnx", "steered.onnx"])
def test_a_model_whose_rows_stand_alone_is_merged_where_it_is_told_to(
    place: Path, path: str
) -> None:
    served = opened(place, path=path, merge=True)
    try:
        served.start(NO_DEADLINE)
        assert served.mergeable
    finally:
        served.close()
    assert not opened(place, path=path).mergeable


def test_a_strict_bundle_is_merged_and_its_canary_is_its_smoke_vector(place: Path) -> None:
    bundle = strict_bundle(place / "strict")
    served = opened(place, path="strict")
    assert served.smoke == bundle.metadata.smoke
    assert served.version == bundle.digest
    try:
        served.start(NO_DEADLINE)
        assert served.mergeable
        served.canary(deadline=NO_DEADLINE)
        assert len(served.workers().pids) == 1
        x = np.array([[0, 0, 0, 0], [1, -1, 1, 1]], dtype=np.float32)
        answer = served.infer({"x": x}, deadline=NO_DEADLINE)
        assert isinstance(answer.outcome, BatchOutcome)
        assert np.isnan(answer.outputs["decoded"][0]).all()
        part = answer.part(1, 2)
        assert not part.lost
        assert np.array_equal(part.outputs["decoded"], answer.outputs["decoded"][1:])
    finally:
        served.close()


def test_a_graph_that_ignores_its_inputs_is_a_stub(place: Path) -> None:
    assert not depends_on_inputs(models.stub())
    assert depends_on_inputs(models.affine())
    assert depends_on_inputs(models.endless_loop())  # through a loop's state
    with pytest.raises(BundleContractError, match="is a stub"):
        opened(place, path="stub.onnx").start(NO_DEADLINE)


def test_what_a_path_means(place: Path) -> None:
    strict_bundle(place / "strict")
    (place / "verified").mkdir()
    (place / "verified" / "model.onnx").write_bytes(models.affine())
    (place / "empty").mkdir()
    (place / "route.toml").write_text("")
    (place / "notes.txt").write_text("")
    found = {
        path: kind_of(ModelSettings(path=path), place)
        for path in ("strict", "verified", "affine.onnx", "route.toml", "route:arm")
    }
    assert list(found.values()) == ["bundle", "verified", "onnx", "route", "route"]
    for path in ("empty", "notes.txt", "nowhere"):
        with pytest.raises(ConfigError, match=path):
            kind_of(ModelSettings(path=path), place)


def test_what_is_no_model_is_refused_before_anything_runs(place: Path) -> None:
    (place / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(BundleFormatError):
        opened(place, path="junk.onnx")
    with pytest.raises(ConfigError, match="only a bundle can be signed"):
        opened(place, path="affine.onnx", require_signature="key.pem")


def test_a_tensor_that_the_protocol_cannot_carry_is_told_when_the_model_is_opened(
    place: Path,
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        "halved",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (place / "halved.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleContractError, match="output 'y' is of bfloat16"):
        opened(place, path="halved.onnx")


def test_inputs_are_checked_before_they_wait(place: Path) -> None:
    served = opened(place, path="affine.onnx")
    assert served.check({"x": np.ones((4, 3), np.float32)}) == 4
    with pytest.raises(InputError, match="has shape \\[4, 2\\]"):
        served.check({"x": np.ones((4, 2), np.float32)})


def test_feedback_by_an_output_that_is_none_is_told_when_the_model_is_opened(place: Path) -> None:
    own = ModelSettings(path="affine.onnx", positive="y")
    open_version("m", own, Settings(), place, lambda ran: None).retire(0)
    own = ModelSettings(path="affine.onnx", positive="gone")
    with pytest.raises(ConfigError, match="positive is 'gone', which is no output"):
        open_version("m", own, Settings(), place, lambda ran: None)
