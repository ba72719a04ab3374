"""Checkpoints that somebody tampered with: converted, or refused by an error of ours."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file
from support.counts import count
from support.gguf_models import save_gguf
from support.text_models import save_directory

from interlock.engines.generate.chat_template import ChatTemplate
from interlock.engines.generate.convert.gguf_vocabulary import vocabulary_of
from interlock.engines.generate.convert.graph import build_graph
from interlock.engines.generate.convert.publish import convert, open_checkpoint
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.errors import BundleFormatError, InterlockError

ODD: list[Any] = [
    None, 0, -1, 3, 7, 2**63, 10**30, 10**400, float("inf"), float("nan"), 1e-320, "", "x",
    "../../x", [], [[]], [1], {}, {"a": 1}, 1.5, 1e308, True,
]  # fmt: skip


def converted(source: Path) -> bool:
    """Whether the source can be converted; anything but an error of ours is raised."""
    try:
        checkpoint = open_checkpoint(source)
        vocabulary = checkpoint.vocabulary
        Tokenizer(vocabulary.tokenizer)
        if vocabulary.chat_template is not None:
            ChatTemplate(vocabulary.chat_template, vocabulary.specials)
        build_graph(checkpoint, "int8")
    except InterlockError:
        return False
    return True


def test_a_gguf_file_with_any_bytes_changed_is_converted_or_refused(tmp_path: Path) -> None:
    data = save_gguf(tmp_path / "tiny.gguf", "Q8_0").read_bytes()
    # Most of the changes go to what the file says of itself.
    head = data.find(b"token_embd") + 4000
    rng = random.Random(7)
    found = []
    for _ in range(count(60, 1000)):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(head if rng.random() < 0.9 else len(data))
            changed[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        if rng.random() < 0.1:
            del changed[rng.randrange(len(changed)) :]
        (tmp_path / "changed.gguf").write_bytes(changed)
        found.append(converted(tmp_path / "changed.gguf"))
    assert len(set(found)) == 2


def test_a_directory_with_any_setting_changed_is_converted_or_refused(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    more = {"rope_scaling": None, "sliding_window": None, "num_key_value_heads": 2}
    rng = random.Random(3)
    found = []
    for _ in range(count(60, 1000)):
        path = source / rng.choice(("config.json", "config.json", "tokenizer_config.json"))
        kept = path.read_text()
        document = {**(more if path.name == "config.json" else {}), **json.loads(kept)}
        document[rng.choice(list(document))] = rng.choice(ODD)
        path.write_text(json.dumps(document))
        found.append(converted(source))
        path.write_text(kept)
    assert len(set(found)) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "tensor", ["model.layers.0.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, tensor: str, value: float) -> None:
    source = save_directory(tmp_path / "source")
    path = source / "model.safetensors"
    weights = load_file(str(path))
    weights[tensor].flat[5] = value
    save_file(weights, str(path))
    for kind in ("int8", "fp32"):
        with pytest.raises(BundleFormatError, match="not finite"):
            build_graph(open_checkpoint(source), kind)


@pytest.mark.parametrize("theta", [1e300, -1.0])
def test_a_rotary_base_that_gives_no_angles_is_refused(tmp_path: Path, theta: float) -> None:
    source = save_directory(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps(config | {"rope_parameters": {"rope_theta": theta}})
    )
    with pytest.raises(
        BundleFormatError, match=r"rope_theta (.* gives no finite angles|is '-1.0')"
    ):
        build_graph(open_checkpoint(source), "int8")


LONG = {"rope_type": "longrope", "original_max_position_embeddings": 64, "long_factor": [1.0] * 8}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": float("inf")}, "hidden_size is 'inf'"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers is '1.5', no whole number"),
        ({"num_attention_heads": 1e-320, "head_dim": None}, "num_attention_heads is '1e-320'"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is '1000"),
        ({"max_position_embeddings": 1}, "context is 1; it must be 16 to"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x'"),
        ({"rope_theta": 0}, "rope_theta is '0'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling has no factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope_scaling.factor is '2'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope_scaling.factor is '0'"),
        (
            {"rope_scaling": LONG | {"original_max_position_embeddings": None}},
            "rope_scaling has no original_max_position_embeddings",
        ),
        ({"rope_scaling": LONG | {"long_factor": ["x"] * 8}}, "long_factor holds no numbers"),
        ({"rope_scaling": LONG | {"long_factor": [[1], 2]}}, "long_factor holds no numbers"),
        ({"rope_scaling": LONG | {"long_factor": [1.0]}}, "long_factor has 1 numbers"),
        ({"rope_scaling": LONG | {"attention_factor": []}}, "attention_factor is '[]'"),
        ({"model_type": "qwen2", "layer_types": 5}, "q_proj.bias"),
    ],
)
def test_a_setting_that_is_no_such_number_is_named(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    source = save_directory(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(BundleFormatError) as caught:
        build_graph(open_checkpoint(source), "int8")
    assert named in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("tokens", [1, 2, 3], "tokens are no texts"),
        ("merges", [1], "no merges"),
        ("scores", ["x", "y", "z"], "scores are no finite numbers"),
        ("scores", [0.0, float("nan"), 1.0], "scores are no finite numbers"),
        ("unknown_token_id", 3, "unknown_token_id is 3"),
        ("unknown_token_id", -2, "unknown_token_id is -2"),
        ("bos_token_id", -2, "bos_token_id is -2"),
        ("bos_token_id", 0xFFFFFFFF, ""),
        ("bos_token_id", -1, ""),
        ("eot_token_id", 0xFFFFFFFF, ""),
    ],
)
def test_a_vocabulary_of_another_kind_is_refused_by_name(
    kind: str, name: str, value: Any, named: str
) -> None:
    fields = {
        "model": kind,
        "tokens": ["a", "b", "ab"],
        "token_type": [1, 1, 1],
        "merges": ["a b"],
        "scores": [0.0, 0.0, -1.0],
        "eos_token_id": 1,
        "bos_token_id": 0,
        "add_bos_token": True,
    }
    changed = {f"tokenizer.ggml.{key}": each for key, each in (fields | {name: value}).items()}
    used = {"merges": "gpt2", "scores": "llama", "unknown_token_id": "llama"}
    if not named:
        found = vocabulary_of(changed)
        assert found.end_tokens == (1,)
        assert found.start_token == (None if name == "bos_token_id" else 0)
    elif used.get(name, kind) == kind:
        with pytest.raises(BundleFormatError, match=named):
            vocabulary_of(changed)
    else:
        assert vocabulary_of(changed).start_token == 0


def test_a_tokenizer_that_makes_no_token_is_refused(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({name: number for number, name in enumerate(names)}, [])
    )
    made.add_special_tokens(list(names))
    made.save(str(source / "tokenizer.json"))
    with pytest.raises(BundleFormatError, match="makes no token of a text"):
        convert(source, tmp_path / "bundle")


@pytest.mark.parametrize("key", ["head_dim", "num_hidden_layers", "intermediate_size"])
def test_sizes_that_no_model_has_are_refused_before_memory_is_taken(
    tmp_path: Path, key: str
) -> None:
    source = save_directory(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {key: 10**12}))
    with pytest.raises(BundleFormatError, match="must be 1 to"):
        open_checkpoint(source)
