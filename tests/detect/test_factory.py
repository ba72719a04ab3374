"""Detectors by the names and variables of a two-layer deployment."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnx
import pytest
from onnx import helper
from support.detectors import ATTACKS, HARMLESS, tokenizer_json, write_bundle
from support.models import FLOAT, INT64, build, constant, tensor

from interlock.detect import (
    L2Result,
    StubL2Detector,
    create_best_l2_detector,
    create_onnx_only_detector,
    factory,
    model,
    tokenizer,
)
from interlock.errors import BundleFormatError, ConfigError, InputError, MissingExtraError
from interlock.kernel.outcome import Status

VARIABLES = (
    "ONNX_MODEL_PATH",
    "ONNX_TOKENIZER",
    "ONNX_CONFIDENCE_THRESHOLD",
    "ONNX_MAX_BATCH_SIZE",
    "ONNX_NUM_THREADS",
    "USE_ONNX_ONLY",
    "ENABLE_ANOMALY_DETECTION",
    "ENVIRONMENT",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What ships with the package must not decide these tests.
    monkeypatch.setattr(model, "SHIPPED", tmp_path / "not-shipped")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A bare sentence encoder with its tokenizer beside it: token vectors, to be averaged."""
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    weights = np.random.default_rng(0).normal(size=(200, 8))
    model = build(
        [helper.make_node("Gather", ["weights", "input_ids"], ["last_hidden_state"])],
        [tensor("input_ids", INT64, ["n", "t"]), tensor("attention_mask", INT64, ["n", "t"])],
        [tensor("last_hidden_state", FLOAT, ["n", "t", 8])],
        [constant("weights", weights, np.float32)],
    )
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model)
    return path


def test_the_benchmark_script_of_the_guide(bundle: Path) -> None:
    """The code of the deployment guide runs with its import line changed."""
    detector = create_onnx_only_detector(
        onnx_model_path=str(bundle / "model.onnx"), confidence_threshold=0.6
    )
    detector.HIGH_CONFIDENCE_THRESHOLD = 0.80
    detector.MEDIUM_CONFIDENCE_THRESHOLD = 0.65
    detector.LOW_CONFIDENCE_THRESHOLD = 0.50
    detector.ANOMALY_THRESHOLD = 0.75
    l1_results = detector.scan_rules(ATTACKS[0])
    result = detector.analyze(ATTACKS[0], l1_results)
    assert isinstance(result, L2Result)
    assert result.has_predictions
    assert result.predictions[0].family
    assert result.confidence >= 0.6
    assert result.processing_time_ms > 0
    assert detector.model_info["model_id"] == "small-detector-1"
    embedder = detector.embedder
    assert embedder is not None
    assert embedder.encode("text", normalize_embeddings=True).shape == (32,)
    clean = detector.analyze(HARMLESS[0], detector.scan_rules(HARMLESS[0]))
    assert not clean.has_predictions
    assert clean.status is Status.ACCEPTED


def test_the_first_layers_answer_is_used_only_for_its_own_text(bundle: Path) -> None:
    detector = create_onnx_only_detector(bundle)
    alone = detector.analyze(ATTACKS[0]).confidence
    of_another = detector.scan_rules(HARMLESS[0])
    assert detector.analyze(ATTACKS[0], of_another).confidence == alone
    assert detector.analyze(ATTACKS[0], []).confidence == alone
    with pytest.raises(InputError, match="l1_results"):
        detector.analyze(ATTACKS[0], object())


def test_variables_stand_for_arguments(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNX_MODEL_PATH", str(bundle))
    monkeypatch.setenv("ENVIRONMENT", "staging")
    monkeypatch.setenv("ENABLE_ANOMALY_DETECTION", "false")
    monkeypatch.setenv("ONNX_NUM_THREADS", "2")
    detector = create_onnx_only_detector()
    assert detector.confidence_threshold == 0.5
    assert not detector.anomaly_enabled
    assert detector.scan("text").distance is None
    monkeypatch.setenv("ONNX_CONFIDENCE_THRESHOLD", "0.7")
    assert create_onnx_only_detector().confidence_threshold == 0.7
    assert create_onnx_only_detector(confidence_threshold=0.2).confidence_threshold == 0.2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ONNX_CONFIDENCE_THRESHOLD", "high"),
        ("ONNX_CONFIDENCE_THRESHOLD", "2"),
        ("ONNX_CONFIDENCE_THRESHOLD", "nan"),
        ("ONNX_NUM_THREADS", "0"),
        ("ONNX_NUM_THREADS", "inf"),
        ("ONNX_NUM_THREADS", "nan"),
        ("ENABLE_ANOMALY_DETECTION", "perhaps"),
        ("ENVIRONMENT", "moon"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        create_onnx_only_detector(bundle)
    assert name in create_best_l2_detector(True, bundles=[bundle]).analyze("text").reasons[0]


def test_a_batch_size_that_cannot_be_read_is_named(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNX_MAX_BATCH_SIZE", "1.5")
    with pytest.raises(ConfigError, match="ONNX_MAX_BATCH_SIZE"):
        create_onnx_only_detector(encoder)


def test_a_bare_encoder_embeds_and_says_that_it_does_not_judge(encoder: Path) -> None:
    detector = create_onnx_only_detector(encoder)
    assert detector.embedder is not None
    one = detector.embedder.encode("abc", normalize_embeddings=True)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert detector.embedder.encode(["a", "b"], normalize_embeddings=False).shape == (2, 8)
    result = detector.analyze(HARMLESS[0])
    assert not result.is_judged
    assert result.status is Status.REFUSED
    assert "no classifier" in result.reasons[0]
    assert any("rule" in reason for reason in detector.analyze(ATTACKS[0]).reasons)


def test_a_text_embeds_the_same_alone_and_among_longer_ones(encoder: Path) -> None:
    embedder = create_onnx_only_detector(encoder).embedder
    assert embedder is not None
    alone = embedder.encode("abc")
    among = embedder.encode(["abc", "a much longer text that pads the first one"])[0]
    assert among == pytest.approx(alone, abs=1e-6)


def test_a_vocabulary_serves_as_a_tokenizer(encoder: Path, tmp_path: Path) -> None:
    whole = create_onnx_only_detector(encoder).embedder
    import msgspec

    words = msgspec.json.decode(tokenizer_json())["model"]["vocab"]
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    other = create_onnx_only_detector(encoder, tokenizer_name=folder).embedder
    assert whole is not None
    assert other is not None
    assert other.encode("ignore abc") == pytest.approx(whole.encode("ignore abc"))


def test_what_is_not_there_is_named(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"moon\.onnx"):
        create_onnx_only_detector(tmp_path / "moon.onnx")
    with pytest.raises(ConfigError, match="no detector's bundle"):
        create_onnx_only_detector(tmp_path)
    with pytest.raises(ConfigError, match="moon"):
        create_onnx_only_detector(encoder, tokenizer_name="moon")
    bare = tmp_path / "deep" / "er"
    bare.mkdir(parents=True)
    (bare / "other.onnx").write_bytes(encoder.read_bytes())
    with pytest.raises(ConfigError, match="no tokenizer"):
        create_onnx_only_detector(bare / "other.onnx")


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_name_without_a_hub_is_a_clear_error(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    real = huggingface_hub.hf_hub_download

    def only_what_is_kept(*args: Any, **kwargs: Any) -> Any:
        assert kwargs.get("local_files_only"), "its client would try for half a minute"
        return real(*args, **kwargs)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", only_what_is_kept)
    monkeypatch.setattr(tokenizer, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with socket.socket() as deaf:  # bound, so that nobody else answers there; it does not listen
        deaf.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        with pytest.raises(ConfigError, match="the hub did not give it"):
            create_onnx_only_detector(encoder, tokenizer_name="nobody/no-such-model")


def test_a_tokenizer_that_was_fetched_before_is_taken(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = str(encoder.parent / "tokenizer.json")

    def download(name: str, file: str, *, local_files_only: bool = False) -> str:
        assert (name, file, local_files_only) == ("somebody/model", "tokenizer.json", True)
        return kept

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = create_onnx_only_detector(encoder, tokenizer_name="somebody/model")
    assert found.embedder is not None
    assert found.embedder.encode("text").shape == (8,)


def test_a_detectors_graph_without_its_bundle_says_so(bundle: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    (tmp_path / "model.onnx").rename(tmp_path / "model_quantized_int8.onnx")
    with pytest.raises(ConfigError) as raised:
        create_onnx_only_detector(tmp_path / "model_quantized_int8.onnx")
    assert "bundle" in str(raised.value.hint)


def test_a_graph_that_is_no_encoder_is_refused(encoder: Path, tmp_path: Path) -> None:
    model = onnx.load(encoder)
    model.graph.input[0].name = "pixels"
    model.graph.node[0].input[1] = "pixels"
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with pytest.raises(ConfigError, match="pixels"):
        create_onnx_only_detector(path)


def test_the_chain_ends_in_a_stub_that_clears_nothing(
    encoder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = create_best_l2_detector()
    assert isinstance(stub, StubL2Detector)
    result = stub.analyze(HARMLESS[0])
    assert result.status is Status.REFUSED
    assert not result.is_judged
    assert "no usable model" in result.reasons[0]
    assert stub.model_info["kind"] == "stub"
    monkeypatch.setenv("ONNX_MODEL_PATH", str(encoder))
    assert create_best_l2_detector().model_info["kind"] == "onnx-only"
    with_bundle = create_best_l2_detector(bundles=[tmp_path / "none", bundle])
    assert with_bundle.model_info["kind"] == "bundle"
    only = create_best_l2_detector(True, bundles=[bundle])
    assert only.model_info["kind"] == "onnx-only"


def test_criteria_choose_among_bundles(bundle: Path, tmp_path: Path) -> None:
    larger = write_bundle(tmp_path / "larger", seed=1)
    for criteria in ("balanced", "speed", "accuracy"):
        found = create_best_l2_detector(criteria=criteria, bundles=[larger, bundle])
        assert found.model_info["kind"] == "bundle"
    with pytest.raises(ConfigError, match="criteria"):
        create_best_l2_detector(criteria="best")  # type: ignore[arg-type]


def test_one_directory_is_not_taken_for_many_of_one_character(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="bundles"):
        create_best_l2_detector(bundles=str(bundle))
    with pytest.raises(ConfigError, match="bundles"):
        create_best_l2_detector(bundles=bundle)  # type: ignore[arg-type]


def test_a_file_that_is_no_model_is_named(encoder: Path) -> None:
    broken = encoder.with_name("broken.onnx")
    broken.write_bytes(b"not a model")
    with pytest.raises(BundleFormatError, match=r"^broken\.onnx") as raised:
        create_onnx_only_detector(broken)
    assert "bundle pack" not in (raised.value.hint or "")


def test_a_variable_that_cannot_be_read_ends_in_the_stub(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "moon")
    stub = create_best_l2_detector(bundles=[bundle])
    assert "ENVIRONMENT" in stub.analyze("text").reasons[0]


def test_an_empty_variable_is_as_good_as_none(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "SHIPPED", bundle)
    for name in VARIABLES:
        if name != "ENVIRONMENT":
            monkeypatch.setenv(name, "")
    assert create_onnx_only_detector().model_info["kind"] == "bundle"
    assert create_best_l2_detector().model_info["kind"] == "bundle"


def test_a_stub_without_rules_has_no_first_layer(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("detect", "matching rules")

    whole = create_onnx_only_detector(bundle)
    monkeypatch.setattr(factory, "load_pack", missing)
    stub = StubL2Detector()
    with pytest.raises(MissingExtraError, match="detect"):
        stub.scan_rules(ATTACKS[0])
    assert stub.analyze(ATTACKS[0]).status is Status.REFUSED
    assert whole.scan_rules(ATTACKS[0]).has_threats


def test_the_first_layers_answer_is_used_only_if_it_is_by_the_same_rules(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_DIGEST_KEY", "one key for all")
    detector = create_onnx_only_detector(bundle)
    alone = detector.analyze(ATTACKS[0]).confidence
    own = detector.scan_rules(ATTACKS[0])
    by_others = dataclasses.replace(own, hits=(), rules="another pack")
    assert detector.analyze(ATTACKS[0], by_others).confidence == alone
    assert detector.analyze(ATTACKS[0], dataclasses.replace(own, hits=())).confidence < alone
