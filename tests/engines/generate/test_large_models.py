"""Models too large for one ONNX file: their tensors lie beside the graph, and are hashed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.text_models import save_directory

from interlock.bundle import pack, structure
from interlock.bundle.metadata import parse_metadata
from interlock.engines.chat import Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator, load_text_model
from interlock.engines.generate.convert import graph, publish
from interlock.engines.generate.convert.publish import convert
from interlock.engines.generate.spec import WEIGHTS, Weights
from interlock.engines.onnx import create_session
from interlock.errors import (
    BundleContractError,
    BundleFormatError,
    BundleIntegrityError,
    EngineUnavailableError,
)

FULL = bool(os.environ.get("INTERLOCK_FULL"))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ONNX file holds 100 kB, so that the tiny model is too large for it."""
    monkeypatch.setattr(graph, "LARGEST", 100_000)
    monkeypatch.setattr(structure, "PROTOBUF_LIMIT", 100_000 + (1 << 16))


def written(directory: Path) -> GenerateResult:
    """A text with every logit's mark on it."""
    sampling = Sampling(max_tokens=12, logprobs=5, logprob_tokens=None)
    with Generator(load_text_model(directory)) as generator:
        [found] = generator.generate([GenerateRequest(text="the thing", sampling=sampling)])
    assert isinstance(found, GenerateResult)
    return found


@pytest.mark.parametrize("kind", ["int8", "fp32"])
def test_tensors_beside_the_graph_give_the_same_bits(
    tmp_path: Path, kind: Weights, request: pytest.FixtureRequest
) -> None:
    source = save_directory(tmp_path / "source")
    convert(source, tmp_path / "one", weights=kind, accept_fidelity=True)
    request.getfixturevalue("small_limit")
    bundle = convert(source, tmp_path / "two", weights=kind, accept_fidelity=True)
    assert bundle.tensors
    assert (tmp_path / "two" / WEIGHTS).stat().st_size > 100_000
    assert (tmp_path / "two" / "model.onnx").stat().st_size < 100_000
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert (two.tokens, two.logprobs) == (one.tokens, one.logprobs)


def test_the_bytes_that_are_hashed_are_those_that_run(tmp_path: Path, small_limit: None) -> None:
    convert(save_directory(tmp_path / "source"), tmp_path / "large", accept_fidelity=True)
    before = written(tmp_path / "large")
    model = load_text_model(tmp_path / "large")
    # What is on the disk afterwards is of no interest to a model that was loaded.
    shutil.rmtree(tmp_path / "large")
    with Generator(model) as generator:
        [after] = generator.generate(
            [GenerateRequest(text="the thing", sampling=Sampling(max_tokens=12))]
        )
    assert isinstance(after, GenerateResult)
    assert after.tokens == before.tokens


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path: Path, small_limit: None) -> None:
    convert(save_directory(tmp_path / "source"), tmp_path / "large", accept_fidelity=True)
    with (tmp_path / "large" / WEIGHTS).open("r+b") as file:
        file.seek(50_000)
        byte = file.read(1)
        file.seek(50_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(BundleIntegrityError, match=WEIGHTS):
        load_text_model(tmp_path / "large")


def test_a_session_without_the_tensors_does_not_open(tmp_path: Path, small_limit: None) -> None:
    source = save_directory(tmp_path / "source")
    bundle = convert(source, tmp_path / "large", accept_fidelity=True)
    with pytest.raises(EngineUnavailableError):
        create_session(bundle.model)


def test_only_text_models_are_taken_in_two_pieces(tmp_path: Path, small_limit: None) -> None:
    source = save_directory(tmp_path / "source")
    bundle = convert(source, tmp_path / "large", accept_fidelity=True)
    files = {WEIGHTS: bundle.files[WEIGHTS]}
    with pytest.raises(BundleFormatError, match="protobuf carries"):
        pack(tmp_path / "other", bundle.model, parse_metadata(bundle.files["metadata.json"]), files)


def test_fidelity_that_memory_cannot_hold_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_free_memory", lambda: 1000)
    source = save_directory(tmp_path / "source")
    with pytest.raises(BundleContractError, match="cannot be measured"):
        convert(source, tmp_path / "bundle")
    bundle = convert(source, tmp_path / "bundle", accept_fidelity=True)
    assert bundle.metadata.extensions["text"]["fidelity"] is None


@pytest.mark.skipif(not FULL, reason="writes 5 GB; INTERLOCK_FULL=1 runs it")
def test_a_model_above_two_gigabytes(tmp_path: Path) -> None:
    """4.4 million tokens of 64 numbers, in and out: 2.25 GB of float32."""
    small = save_directory(tmp_path / "small")
    large = Path(shutil.copytree(small, tmp_path / "large"))
    config = json.loads((small / "config.json").read_text())
    (large / "config.json").write_text(json.dumps(config | {"vocab_size": 4_400_000}))
    weights = load_file(str(small / "model.safetensors"))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        # The further tokens are never the likeliest, so that both models write the same text.
        more = np.zeros((4_400_000 - len(weights[name]), 64), np.float32)
        weights[name] = np.concatenate([weights[name], more])
    save_file(weights, str(large / "model.safetensors"))
    del weights
    convert(small, tmp_path / "one", weights="fp32")
    bundle = convert(large, tmp_path / "two", weights="fp32")
    assert sum(each.nbytes for each in bundle.tensors.values()) > 1 << 31
    del bundle
    shutil.rmtree(large)
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert two.tokens == one.tokens
    # The further tokens' zeros count in the sum of all.
    assert two.mean_logprob is not None
    assert one.mean_logprob is not None
    assert two.mean_logprob < one.mean_logprob
    shutil.rmtree(tmp_path / "two")
