"""Exporting ONNX models with P and Q as strict bundles; no torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.adversarial import FORMATS, values
from support.adversarial import pairs as adversarial_pairs
from support.counts import count
from support.parity import assert_same
from support.projective import (
    columns_model,
    fixed_inside_model,
    pairs,
    random_model,
    two_input_model,
)

from interlock.errors import BundleContractError, ConfigError, InputError
from interlock.strict import (
    InferenceConfig,
    export_bundle,
    load_onnx_runtime_bundle,
    strict_inference,
)
from interlock.strict.export import SMOKE_ROWS

CONFIG = InferenceConfig(tau_infer=1e-4, tau_train=1e-2)
X = pairs(100, 1)


def as_bytes(model: onnx.ModelProto, directory: Path) -> bytes:
    return bytes(model.SerializeToString())


def as_path(model: onnx.ModelProto, directory: Path) -> Path:
    onnx.save(model, directory / "source.onnx")
    return directory / "source.onnx"


def as_path_with_external_tensors(model: onnx.ModelProto, directory: Path) -> str:
    path = directory / "source.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (directory / "weights.bin").stat().st_size > 0
    return str(path)


@pytest.mark.parametrize(
    "given", [lambda model, _: model, as_bytes, as_path, as_path_with_external_tensors]
)
def test_a_model_of_any_form_answers_as_strict_inference_does(
    given: Callable[[onnx.ModelProto, Path], Any], tmp_path: Path
) -> None:
    source = given(columns_model(), tmp_path)
    bundle = export_bundle(source, tmp_path / "bundle", example_inputs=(X,), config=CONFIG)
    runtime = load_onnx_runtime_bundle(tmp_path / "bundle", expected_digest=bundle.digest)
    assert_same(runtime.run(X), strict_inference(X[:, :2], X[:, 2:], config=CONFIG))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [False, True])
def test_bundles_answer_hostile_pairs_to_the_bit(dtype: str, rows: bool, tmp_path: Path) -> None:
    form, n = FORMATS[dtype], count(50_000, 1_000_000)
    p_bits, q_bits = adversarial_pairs(form, n, CONFIG, np.random.default_rng(5))
    p, q = values(p_bits, form), values(q_bits, form)
    x = np.column_stack([p, p[::-1], q])
    export_bundle(
        columns_model(dtype, rows=rows),
        tmp_path / "b",
        example_inputs=(pairs(50, 2, dtype),),
        config=CONFIG,
    )
    found = load_onnx_runtime_bundle(tmp_path / "b").run(x)
    assert_same(found, strict_inference(x[:, :2], q if rows else x[:, 2:], config=CONFIG))


def test_the_metadata_says_what_was_exported(tmp_path: Path) -> None:
    bundle = export_bundle(
        columns_model(),
        tmp_path / "b",
        example_inputs=(X,),
        config=CONFIG,
        name="columns",
        provenance={"by": "test", "n": 3},
    )
    metadata = bundle.metadata
    assert (metadata.name, metadata.kind) == ("columns", "strict")
    assert metadata.provenance == {"by": "test", "n": 3}
    assert [spec.name for spec in metadata.outputs] == ["decoded", "bottom_mask", "gap_mask"]
    assert metadata.inputs[0].shape == ("batch", 3)
    strict = metadata.strict
    assert strict is not None
    assert (strict.p, strict.q, strict.dtype) == ("P", "Q", "float32")
    assert (strict.tau_infer, strict.tau_train) == (CONFIG.tau_infer, CONFIG.tau_train)
    assert bundle.path == (tmp_path / "b").resolve()


def test_the_name_is_the_directorys_and_the_gap_may_be_absent(tmp_path: Path) -> None:
    bundle = export_bundle(
        columns_model(), tmp_path / "arm", example_inputs=(X,), config=InferenceConfig(1e-4)
    )
    assert bundle.metadata.name == "arm"
    assert not load_onnx_runtime_bundle(tmp_path / "arm").run(X).gap_mask.any()


def test_outputs_of_other_names_can_be_named(tmp_path: Path) -> None:
    model = columns_model(names=("numerator", "denominator"))
    export_bundle(
        model,
        tmp_path / "b",
        example_inputs=(X,),
        config=CONFIG,
        outputs=("numerator", "denominator"),
    )
    found = load_onnx_runtime_bundle(tmp_path / "b").run(X)
    assert_same(found, strict_inference(X[:, :2], X[:, 2:], config=CONFIG))


def test_the_source_is_not_changed(tmp_path: Path) -> None:
    model = columns_model()
    before = model.SerializeToString()
    export_bundle(model, tmp_path / "b", example_inputs=(X,), config=CONFIG)
    assert model.SerializeToString() == before


def test_one_export_gives_the_same_digest_as_another(tmp_path: Path) -> None:
    first, again = (
        export_bundle(
            columns_model(), tmp_path / where, name="c", example_inputs=(X,), config=CONFIG
        )
        for where in ("one", "two")
    )
    assert first.digest == again.digest


def test_smoke_rows_are_few_and_not_where_rounding_decides(tmp_path: Path) -> None:
    x = pairs(500, 9)
    x[0, 2], x[1, 2] = CONFIG.tau_infer, np.nextafter(np.float32(CONFIG.tau_infer), np.float32(1))
    bundle = export_bundle(columns_model(), tmp_path / "b", example_inputs=(x,), config=CONFIG)
    (vector,) = bundle.metadata.smoke
    kept = vector.inputs["x"]
    assert 0 < len(kept) <= SMOKE_ROWS - 2
    assert not (kept[:, 2] == x[:2, 2][:, None]).any()
    assert_same(
        [vector.outputs[name] for name in ("decoded", "bottom_mask", "gap_mask")],
        strict_inference(kept[:, :2], kept[:, 2:], config=CONFIG),
    )


def test_smoke_inputs_are_kept_instead_of_the_examples(tmp_path: Path) -> None:
    smoke = np.array([[1.0, 2.0, 0.5], [1.0, 2.0, 0.0]], np.float32)
    bundle = export_bundle(
        columns_model(), tmp_path / "b", example_inputs=(X,), config=CONFIG, smoke_inputs=(smoke,)
    )
    (vector,) = bundle.metadata.smoke
    np.testing.assert_array_equal(vector.inputs["x"], smoke)
    np.testing.assert_array_equal(vector.outputs["bottom_mask"], [[False, False], [True, True]])


def test_a_published_bundle_is_replaced_by_a_later_export(tmp_path: Path) -> None:
    for tau in (1e-4, 1e-3):
        export_bundle(
            columns_model(), tmp_path / "b", example_inputs=(X,), config=InferenceConfig(tau)
        )
    assert load_onnx_runtime_bundle(tmp_path / "b").config == InferenceConfig(1e-3)


def fixed_batch() -> dict[str, Any]:
    return {"source": columns_model(batch=4), "example_inputs": (X[:4],)}


def open_in_name_only() -> dict[str, Any]:
    return {"source": fixed_inside_model(4), "example_inputs": (X[:4],)}


def with_lost_tensors() -> dict[str, Any]:
    model = columns_model()
    for tensor in model.graph.initializer:
        data = numpy_helper.to_array(tensor).tobytes()
        onnx.external_data_helper.set_external_data(tensor, "gone.bin", length=len(data))
        tensor.ClearField("raw_data")
    return {"source": model}


def decode_names() -> dict[str, Any]:
    return {"source": columns_model(names=("decoded", "Q")), "outputs": ("decoded", "Q")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"example_inputs": (X, X)}, "has 2 arrays; the model has the inputs x"),
        ({"example_inputs": ()}, "is empty"),
        ({"example_inputs": X}, "must be a tuple with one array for each"),
        ({"example_inputs": (X.astype(np.float64),)}, "float64; the model takes float32"),
        ({"example_inputs": (X[:, :2],)}, r"shape \(100, 2\); the model takes"),
        ({"example_inputs": (X[:0],)}, "at least one row"),
        ({"example_inputs": (np.array(1.0, np.float32),)}, "at least one row"),
        ({"example_inputs": (X.tolist(),)}, "is a list; it must be a NumPy array"),
        ({"smoke_inputs": (X[:, :1],)}, r"smoke_inputs: 'x' has shape"),
        ({"smoke_inputs": (np.zeros((2, 3), np.float32) + CONFIG.tau_infer,)}, "no row"),
        (fixed_batch, "its first axis, the batch, must be open"),
        (open_in_name_only, "answers 4 rows but not 1"),
        (with_lost_tensors, "external tensors"),
        (decode_names, "which the decode needs"),
        ({"source": columns_model(q_dtype="float64")}, "p is float32 and q is float64"),
        (
            {"source": columns_model("float16"), "example_inputs": (X.astype(np.float16),)},
            "FLOAT16",
        ),
        ({"source": columns_model(names=("A", "B"))}, "no output 'P'"),
        ({"source": b"no model"}, "no ONNX model"),
        ({"source": b""}, "no ONNX model"),
        ({"source": "absent.onnx"}, "cannot be read"),
        ({"source": 3}, "source is a int"),
        ({"outputs": ("P", "x")}, "no output 'x'"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    changes: dict[str, Any] | Callable[[], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    call: dict[str, Any] = {"source": columns_model(), "example_inputs": (X,), "config": CONFIG}
    call |= changes() if callable(changes) else changes
    if str(call["source"]) == "absent.onnx":
        call["source"] = tmp_path / "absent.onnx"
    with pytest.raises(InputError, match=message):
        export_bundle(directory=tmp_path / "b", **call)
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_model_needs_thresholds_that_its_dtype_can_hold(tmp_path: Path) -> None:
    for config in (None, InferenceConfig(1e-60)):
        with pytest.raises(ConfigError):
            export_bundle(columns_model(), tmp_path / "b", example_inputs=(X,), config=config)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_disagrees_with_its_source_is_not_published(tmp_path: Path) -> None:
    # ONNX Runtime seeds its generator by session, so only the second run tells.
    with pytest.raises(BundleContractError, match="the exported graph on smoke_inputs: accepted"):
        export_bundle(random_model(), tmp_path / "b", example_inputs=(X,), config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_several_inputs_must_have_the_same_number_of_rows(tmp_path: Path) -> None:
    a, b = X[:, :2].copy(), X[:, 2:].copy()
    with pytest.raises(InputError, match="has 1 rows and"):
        export_bundle(two_input_model(), tmp_path / "b", example_inputs=(a, b[:1]), config=CONFIG)
    export_bundle(two_input_model(), tmp_path / "b", example_inputs=(a, b), config=CONFIG)
    found = load_onnx_runtime_bundle(tmp_path / "b").run(a, b)
    assert_same(found, strict_inference(a + b, b, config=CONFIG))


def test_a_directory_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError):
        export_bundle(columns_model(), tmp_path / "mine", example_inputs=(X,), config=CONFIG)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
