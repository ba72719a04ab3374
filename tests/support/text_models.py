"""Tiny text models with random weights, made without torch, and graphs that go wrong on a token."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from interlock.bundle import Bundle, pack
from interlock.engines.generate import TextModel, open_text_model
from interlock.engines.generate.convert.publish import convert
from interlock.engines.generate.spec import CHAT_TEMPLATE, TOKENIZER, Weights

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "eos_token_id": 2,
    "bos_token_id": 0,
}
STARCODER2: dict[str, Any] = {
    "model_type": "starcoder2",
    "hidden_size": 64,
    # Neither a multiple of a block's 32 nor of the 8 numbers in a vector register.
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "use_bias": True,
    "hidden_act": "gelu_pytorch_tanh",
    "norm_type": "layer_norm",
    "mlp_type": "default",
    "eos_token_id": 2,
    "bos_token_id": 0,
}
CONFIGS = {
    "llama": CONFIG,
    "phi3": {**CONFIG, "model_type": "phi3", "sliding_window": 64},
    "starcoder2": STARCODER2,
}


def tokenizer() -> Tokenizer:
    """Bytes, a few merges and three special tokens in front."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ã", "¤"), ("e", "r")]
    names = [*SPECIALS, *letters, *("".join(pair) for pair in pairs)]
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return made


def weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random tensors under Hugging Face's names, of the family in `config`."""
    if config["model_type"] == "starcoder2":
        return starcoder2_weights(config, seed)
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = config["head_dim"]
    wide, narrow = config["num_attention_heads"] * size, config["num_key_value_heads"] * size

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        values = rng.standard_normal((rows, columns)) * 1.5 / np.sqrt(columns)
        return np.asarray(values, np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return np.asarray(rng.uniform(0.5, 1.5, hidden), np.float32)

    found = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden) * np.float32(4),
        "lm_head.weight": matrix(config["vocab_size"], hidden) * np.float32(1.5),
        "model.norm.weight": norm(),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        found |= {
            f"{at}.input_layernorm.weight": norm(),
            f"{at}.post_attention_layernorm.weight": norm(),
            f"{at}.self_attn.q_proj.weight": matrix(wide, hidden),
            f"{at}.self_attn.k_proj.weight": matrix(narrow, hidden),
            f"{at}.self_attn.v_proj.weight": matrix(narrow, hidden),
            f"{at}.self_attn.o_proj.weight": matrix(hidden, wide),
            f"{at}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{at}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{at}.mlp.down_proj.weight": matrix(hidden, inner),
        }
        if config["model_type"] == "phi3":
            for whole, parts in (
                ("self_attn.qkv_proj", ("q_proj", "k_proj", "v_proj")),
                ("mlp.gate_up_proj", ("gate_proj", "up_proj")),
            ):
                room = whole.split(".")[0]
                rows = [found.pop(f"{at}.{room}.{part}.weight") for part in parts]
                found[f"{at}.{whole}.weight"] = np.concatenate(rows)
    return found


def starcoder2_weights(
    config: Mapping[str, Any], seed: int = 0
) -> dict[str, npt.NDArray[np.float32]]:
    """Random tensors of a StarCoder2 whose embeddings are tied."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = config["head_dim"]
    wide, narrow = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    embedding = rng.standard_normal((config["vocab_size"], hidden))
    found = {"model.embed_tokens.weight": np.asarray(embedding, np.float32)}
    norms = ["model.norm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        norms += [f"{at}.input_layernorm", f"{at}.post_attention_layernorm"]
        for part, rows, columns in (
            ("self_attn.q_proj", wide, hidden),
            ("self_attn.k_proj", narrow, hidden),
            ("self_attn.v_proj", narrow, hidden),
            ("self_attn.o_proj", hidden, wide),
            ("mlp.c_fc", inner, hidden),
            ("mlp.c_proj", hidden, inner),
        ):
            matrix = rng.standard_normal((rows, columns)) * 1.5 / np.sqrt(columns)
            found[f"{at}.{part}.weight"] = np.asarray(matrix, np.float32)
            if config["use_bias"]:
                bias = rng.standard_normal(rows) * 0.3
                found[f"{at}.{part}.bias"] = np.asarray(bias, np.float32)
    for norm in norms:
        found[f"{norm}.weight"] = np.asarray(rng.uniform(0.5, 1.5, hidden), np.float32)
        found[f"{norm}.bias"] = np.asarray(rng.standard_normal(hidden) * 0.3, np.float32)
    return found


def save_directory(
    directory: Path, *, family: str = "llama", seed: int = 0, **changes: Any
) -> Path:
    """A Hugging Face directory of a tiny model; `changes` go into its config.json."""
    made = tokenizer()
    config = {**CONFIGS[family], "vocab_size": made.get_vocab_size(), **changes}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {"chat_template": TEMPLATE, "eos_token": "<|im_end|>", "bos_token": "<|endoftext|>"}
        )
    )
    save_file(weights(config, seed), str(directory / "model.safetensors"))
    return directory


@functools.cache
def tiny_bundle(kind: Weights = "int8", seed: int = 0, family: str = "llama") -> Bundle:
    """A tiny model as a bundle in memory."""
    with tempfile.TemporaryDirectory() as folder:
        source = save_directory(Path(folder) / "source", family=family, seed=seed)
        return convert(
            source, Path(folder) / "bundle", name="tiny", weights=kind, accept_fidelity=True
        )


def tiny_directory(directory: Path, **changes: Any) -> Path:
    """The bundle of a tiny Llama in `directory`; `changes` go into its config.json."""
    source = save_directory(directory.with_name(f"{directory.name}-source"), **changes)
    convert(source, directory, name="tiny", accept_fidelity=True)
    return directory


def spoiled_directory(directory: Path, kind: str, token: int) -> Path:
    """The bundle of `spoiled`."""
    bundle = tiny_bundle()
    graph = spoiled_graph(bundle, kind, token).SerializeToString()
    files = {
        name: data for name, data in bundle.files.items() if name in (TOKENIZER, CHAT_TEMPLATE)
    }
    pack(directory, graph, bundle.metadata, files, probe=False)
    return directory


@functools.cache
def tiny_model(kind: Weights = "int8", seed: int = 0, family: str = "llama") -> TextModel:
    """A tiny model, ready to run."""
    return open_text_model(tiny_bundle(kind, seed, family))


def spoiled(kind: str, token: int) -> TextModel:
    """The tiny model, which fails, hangs or gives NaN wherever `token` is among its input."""
    bundle = tiny_bundle()
    return open_text_model(
        replace(bundle, model=spoiled_graph(bundle, kind, token).SerializeToString())
    )


def spoiled_graph(bundle: Bundle, kind: str, token: int) -> onnx.ModelProto:
    """The graph of `spoiled`: kind is "fail", "hang" or "nan"."""
    model = onnx.ModelProto()
    model.ParseFromString(bundle.model)
    graph = model.graph
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == "embedded":
                node.output[i] = "embedded_clean"
    first = next(i for i, n in enumerate(graph.node) if "embedded_clean" in n.output) + 1
    stored = {"spoil.token": np.array(token, np.int64), "spoil.zero": np.array(0, np.int64)}
    nodes = [helper.make_node("Equal", ["input_ids", "spoil.token"], ["spoil.hits"])]
    if kind == "nan":
        stored["spoil.nan"] = np.array(np.nan, np.float32)
        stored["spoil.axis"] = np.array([2], np.int64)
        nodes += [
            helper.make_node("Unsqueeze", ["spoil.hits", "spoil.axis"], ["spoil.rows"]),
            helper.make_node("Where", ["spoil.rows", "spoil.nan", "embedded_clean"], ["embedded"]),
        ]
    else:
        nodes += [
            helper.make_node("Cast", ["spoil.hits"], ["spoil.numbers"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["spoil.numbers"], ["spoil.any"], keepdims=0),
        ]
    if kind == "fail":
        stored["spoil.one"] = np.zeros(1, np.float32)
        stored["spoil.far"] = np.array(1 << 20, np.int64)
        nodes += [
            helper.make_node("Mul", ["spoil.any", "spoil.far"], ["spoil.index"]),
            helper.make_node("Gather", ["spoil.one", "spoil.index"], ["spoil.value"]),
            helper.make_node("Add", ["embedded_clean", "spoil.value"], ["embedded"]),
        ]
    if kind == "hang":
        stored["spoil.trips"] = np.array(1 << 50, np.int64)
        stored["spoil.start"] = np.array(0, np.float32)
        stored["spoil.true"] = np.array(True)
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["c_in"], ["c_out"]),
                helper.make_node("Identity", ["v_in"], ["v_out"]),
            ],
            "spin",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, ()),
                helper.make_tensor_value_info("c_in", TensorProto.BOOL, ()),
                helper.make_tensor_value_info("v_in", TensorProto.FLOAT, ()),
            ],
            [
                helper.make_tensor_value_info("c_out", TensorProto.BOOL, ()),
                helper.make_tensor_value_info("v_out", TensorProto.FLOAT, ()),
            ],
        )
        nodes += [
            helper.make_node("Mul", ["spoil.any", "spoil.trips"], ["spoil.count"]),
            helper.make_node(
                "Loop", ["spoil.count", "spoil.true", "spoil.start"], ["spoil.value"], body=body
            ),
            helper.make_node("Add", ["embedded_clean", "spoil.value"], ["embedded"]),
        ]
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in stored.items())
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*rest[:first], *nodes, *rest[first:]])
    return model


def spec_dict(bundle: Bundle) -> dict[str, Any]:
    """The bundle's text spec as plain JSON."""
    found = msgspec.to_builtins(bundle.metadata.extensions["text"])
    assert isinstance(found, dict)
    return found
