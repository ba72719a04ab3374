"""The tiny models of `text_models` as GGUF files, written as llama.cpp's converters write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from support.text_models import CONFIG, SPECIALS, TEMPLATE, tokenizer, weights

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_name(name: str) -> str:
    """The GGUF name of one of Hugging Face's."""
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}"


def interleaved(matrix: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """The row order of llama.cpp's rotary embedding: halves become pairs."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, -1, columns).swapaxes(1, 2).reshape(rows, columns)


def save_gguf(path: Path, kind: str = "F32", *, without: tuple[str, ...] = (), **keys: Any) -> Path:
    """A tiny Llama with its matrices stored as `kind`, and with the metadata `without` left out."""
    made = tokenizer()
    config = {**CONFIG, "vocab_size": made.get_vocab_size()}
    writer = gguf.GGUFWriter(path, keys.get("arch", "llama"))
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
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    vocabulary = made.get_vocab()
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    import json

    merges = json.loads(made.to_str())["model"]["merges"]
    if "tokenizer" not in without:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(names)
        writer.add_token_types([3 if name in SPECIALS else 1 for name in names])
        writer.add_token_merges([f"{left} {right}" for left, right in merges])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(keys.get("eos", 2))
        writer.add_chat_template(TEMPLATE)
    for name, array in weights(config).items():
        if name in without:
            continue
        if ".q_proj." in name:
            array = interleaved(array, config["num_attention_heads"])
        if ".k_proj." in name:
            array = interleaved(array, config["num_key_value_heads"])
        if kind == "F32" or array.ndim == 1:
            writer.add_tensor(gguf_name(name), array)
            continue
        stored = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
