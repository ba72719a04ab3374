"""The tiny models of `text_models` as GGUF files, written as llama.cpp's converters write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from support.text_models import CONFIGS, SPECIALS, TEMPLATE, tokenizer, weights

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """The GGUF name of one of Hugging Face's."""
    stem, end = name.rsplit(".", 1)
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{end}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.{end}"


def interleaved(matrix: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """The row order of llama.cpp's rotary embedding: halves become pairs."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, -1, columns).swapaxes(1, 2).reshape(rows, columns)


def save_gguf(
    path: Path,
    kind: str = "F32",
    *,
    family: str = "llama",
    without: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    **keys: Any,
) -> Path:
    """A tiny model with its matrices stored as `kind`.

    without   tensors, by Hugging Face's names, or "tokenizer", that are left out
    more      vectors of zeros that are added, by the file's names
    """
    made = tokenizer()
    config = {**CONFIGS[family], "vocab_size": made.get_vocab_size()}
    writer = gguf.GGUFWriter(path, keys.get("arch", family))
    writer.add_name("Tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    if family == "starcoder2":
        writer.add_layer_norm_eps(config["norm_epsilon"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
    vocabulary = made.get_vocab()
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    import json

    merges = json.loads(made.to_str())["model"]["merges"]
    if "tokenizer" not in without:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(keys.get("pre", "gpt-2"))
        writer.add_token_list(names)
        writer.add_token_types([3 if name in SPECIALS else 1 for name in names])
        writer.add_token_merges([f"{left} {right}" for left, right in merges])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(keys.get("eos", 2))
        writer.add_chat_template(TEMPLATE)
    for name, array in weights(config).items():
        if name in without:
            continue
        if family == "llama" and ".q_proj." in name:
            array = interleaved(array, config["num_attention_heads"])
        if family == "llama" and ".k_proj." in name:
            array = interleaved(array, config["num_key_value_heads"])
        # Blocks are of 32 numbers.
        if kind == "F32" or array.ndim == 1 or array.shape[1] % 32:
            writer.add_tensor(gguf_name(name), array)
            continue
        stored = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, stored), raw_dtype=stored)
    for name in more:
        writer.add_tensor(name, np.zeros(config["hidden_size"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
