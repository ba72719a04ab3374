"""A GGUF file as a checkpoint. Reads with the package `gguf`; nothing of the file is run.

A file for llama.cpp keeps the rows of Llama's Q and K in the order that its interleaved rotary
embedding wants; they are put back in the halves that ONNX Runtime and the publishers use. Whole
rows move, so quantized blocks stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interlock.engines.generate.convert.checkpoint import (
    Architecture,
    Biases,
    Floats,
    Quantized,
    Rope,
    SourceError,
    Vocabulary,
    check_layers,
    positive,
    whole_number,
)
from interlock.engines.generate.convert.gguf_vocabulary import vocabulary_of
from interlock.engines.generate.spec import Family
from interlock.kernel.errors import ConfigError, InputError, MissingExtraError

# Architecture in the file -> family, and whether Q and K have llama.cpp's row order.
_FAMILIES: dict[str, tuple[Family, bool]] = {
    "llama": ("llama", True),
    "qwen2": ("qwen2", False),
    "phi3": ("phi3", False),
    "starcoder2": ("starcoder2", False),
}
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "model.norm.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+?)(\.weight|\.bias)$")
_READ = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


class GgufCheckpoint:
    """The weights, vocabulary and architecture in the GGUF file at `path`.

    `context` shortens how far the rotary tables reach. Raises SourceError for what is no
    GGUF file, is cut short or of a family that is not known, and MissingExtraError.
    """

    def __init__(self, path: Path, *, context: int | None = None) -> None:
        try:
            import gguf
        except ImportError:
            raise MissingExtraError("text", "reading GGUF files") from None

        self._gguf = gguf
        _check_magic(path)
        try:
            self._reader = gguf.GGUFReader(path)
            self._fields = {name: _value(field) for name, field in self._reader.fields.items()}
        except Exception as error:  # noqa: BLE001 - the reader fails in many ways on bad bytes
            raise SourceError(
                f"{path.name} is no sound GGUF file ({type(error).__name__})",
                hint="fetch it again; it may be cut short",
            ) from None
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.name = str(self._fields.get("general.name") or path.stem)
        self._arch = str(self._fields.get("general.architecture"))
        if self._arch not in _FAMILIES:
            raise SourceError(
                f"{path.name} holds a model of the architecture {self._arch[:40]!r}",
                hint=f"GGUF files of {', '.join(_FAMILIES)} are read",
            )
        self._family, self._permuted = _FAMILIES[self._arch]
        self.architecture = self._read_architecture(context)
        check_layers(self._tensors, "blk.", self.architecture.layers)
        self.vocabulary: Vocabulary = vocabulary_of(self._fields)
        self.provenance: Mapping[str, Any] = {
            key: self._fields[f"general.{key}"]
            for key in ("name", "organization", "license", "size_label")
            if isinstance(self._fields.get(f"general.{key}"), str)
        }

    def floats(self, name: str) -> Floats:
        """The tensor in float32, dequantized as the format defines it."""
        found = self._find(name)
        kind = found.tensor_type.name
        if kind not in _READ:
            raise SourceError(
                f"{found.name} is stored as {kind}", hint=f"read are {', '.join(_READ)}"
            )
        try:
            values = self._gguf.quants.dequantize(found.data, found.tensor_type)
        except Exception as error:  # noqa: BLE001 - whatever the package makes of bad bytes
            raise SourceError(f"{found.name} cannot be read ({type(error).__name__})") from None
        array = np.asarray(values, np.float32)
        return (
            array[self._rows(name, array.shape[0])] if array.ndim == 2 else self._bias(name, array)
        )

    def quantized(self, name: str) -> Quantized | None:
        """The matrix as blocks of 32, for Q4_0, Q4_1 and Q8_0."""
        found = self._find(name)
        kind = found.tensor_type.name
        if kind not in ("Q4_0", "Q4_1", "Q8_0"):
            return None
        data = np.asarray(found.data)
        data = data[self._rows(name, data.shape[0])]
        rows = data.shape[0]
        head = {"Q4_0": 2, "Q4_1": 4, "Q8_0": 2}[kind]
        size = head + (32 if kind == "Q8_0" else 16)
        blocks = data.reshape(rows, -1, size)
        numbers = np.ascontiguousarray(blocks[:, :, :head]).view(np.float16).astype(np.float32)
        raw = blocks[:, :, head:]
        if kind == "Q8_0":
            # Signed to unsigned around 128.
            levels = raw ^ np.uint8(0x80)
        else:
            # The low nibbles hold a block's first half, the high ones its second.
            levels = np.concatenate([raw & 0xF, raw >> 4], axis=2)
        offset = numbers[:, :, 1] if kind == "Q4_1" else np.zeros(numbers.shape[:2], np.float32)
        return Quantized(kind, levels, np.ascontiguousarray(numbers[:, :, 0]), offset)

    def _find(self, name: str) -> Any:
        wanted = _TOP.get(name)
        if wanted is None:
            match = _HF_LAYER.fullmatch(name)
            assert match is not None, f"not a name of Hugging Face's: {name}"
            layer, part, end = match.groups()
            wanted = f"blk.{layer}.{_LAYER[part]}{end}"
        # The whole of a fused matrix has the name of one of its parts.
        found = self._fused(wanted) if self._family == "phi3" else None
        if found is None:
            found = self._tensors.get(wanted)
        if found is None:
            raise SourceError(f"the file holds no tensor {wanted!r}")
        return found

    def _fused(self, wanted: str) -> Any:
        """Phi-3 keeps Q, K and V, and gate and up, in one matrix each."""
        layer = wanted.rsplit(".", 2)[0]
        shape = self.architecture
        q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        rows = {
            "attn_q": ("attn_qkv", 0, q),
            "attn_k": ("attn_qkv", q, q + kv),
            "attn_v": ("attn_qkv", q + kv, q + 2 * kv),
            "ffn_gate": ("ffn_up", 0, shape.intermediate),
            "ffn_up": ("ffn_up", shape.intermediate, 2 * shape.intermediate),
        }
        part = wanted.split(".")[2] if wanted.startswith("blk.") else ""
        if part not in rows:
            return None
        source, start, end = rows[part]
        whole = self._tensors.get(f"{layer}.{source}.weight")
        if whole is None:
            return None
        return _Slice(whole.name, whole.tensor_type, whole.data[start:end])

    def _rows(self, name: str, rows: int) -> Any:
        """The order of the matrix's rows that undoes llama.cpp's."""
        heads = self._permuted_heads(name)
        if heads is None:
            return slice(None)
        return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def _bias(self, name: str, array: Floats) -> Floats:
        heads = self._permuted_heads(name)
        if heads is None:
            return array
        return array.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def _permuted_heads(self, name: str) -> int | None:
        if not self._permuted:
            return None
        if ".self_attn.q_proj." in name:
            return self.architecture.heads
        return self.architecture.kv_heads if ".self_attn.k_proj." in name else None

    def _given(self, key: str, default: float | None) -> object:
        value = self._fields.get(f"{self._arch}.{key}", default)
        if value is None:
            raise SourceError(f"the file has no {self._arch}.{key}")
        return value

    def _number(self, key: str, default: float | None = None) -> float:
        return positive(self._given(key, default), f"the file's {self._arch}.{key}")

    def _whole(self, key: str, default: int | None = None) -> int:
        return whole_number(self._given(key, default), f"the file's {self._arch}.{key}")

    def _read_architecture(self, context: int | None) -> Architecture:
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None:
            raise SourceError("the file holds no tensor 'token_embd.weight'")
        hidden = self._whole("embedding_length")
        heads = self._whole("attention.head_count")
        size = self._whole("attention.key_length", hidden // heads)
        if self._number("rope.dimension_count", size) != size:
            raise SourceError("rotary embeddings over a part of each head are not supported")
        native = self._whole("context_length")
        window = self._fields.get(f"{self._arch}.attention.sliding_window")
        if "blk.0.ffn_gate_inp.weight" in self._tensors:
            raise SourceError("mixtures of experts are not supported")
        epsilon = "layer_norm_epsilon" if self._family == "starcoder2" else "layer_norm_rms_epsilon"
        return Architecture(
            family=self._family,
            hidden=hidden,
            intermediate=self._whole("feed_forward_length"),
            layers=self._whole("block_count"),
            heads=heads,
            kv_heads=self._whole("attention.head_count_kv", heads),
            head_size=size,
            vocabulary=int(embedding.shape[1]),
            context=min(native, native if context is None else context),
            norm_epsilon=float(self._number(f"attention.{epsilon}")),
            rope=self._rope(native),
            tied="output.weight" not in self._tensors,
            window=int(window) if isinstance(window, int) and window > 0 else None,
            biases=self._biases(),
        )

    def _biases(self) -> Biases:
        parts = {"attn_qkv", *(part for part in _LAYER.values() if not part.endswith("_norm"))}
        found = [part for part in sorted(parts) if f"blk.0.{part}.bias" in self._tensors]
        if not found:
            return "none"
        if self._family == "starcoder2":
            return "all"
        for part in found:
            if part not in ("attn_q", "attn_k", "attn_v"):
                raise SourceError(
                    f"the file holds blk.0.{part}.bias; such biases are not supported"
                )
        return "qkv"

    def _rope(self, native: int) -> Rope:
        theta = float(self._number("rope.freq_base", 10000.0))
        kind = self._fields.get(f"{self._arch}.rope.scaling.type")
        if "rope_factors_long.weight" in self._tensors:
            values = {
                "long_factor": self._factors("rope_factors_long.weight"),
                "short_factor": self._factors("rope_factors_short.weight"),
                "original_max_position_embeddings": self._whole(
                    "rope.scaling.original_context_length"
                ),
                "max_position_embeddings": native,
                "attention_factor": self._fields.get(f"{self._arch}.rope.scaling.attn_factor"),
            }
            return Rope(theta, "longrope", values)
        if "rope_freqs.weight" in self._tensors:
            return Rope(theta, "factors", {"factors": self._factors("rope_freqs.weight")})
        if kind in (None, "none"):
            return Rope(theta)
        if kind == "linear":
            return Rope(theta, "linear", {"factor": self._number("rope.scaling.factor")})
        raise SourceError(f"rotary scaling of the type {str(kind)[:40]!r} is not supported")

    def _factors(self, name: str) -> list[float]:
        return [float(value) for value in np.asarray(self._tensors[name].data).reshape(-1)]


class _Slice:
    """Some rows of a tensor of the reader's."""

    def __init__(self, name: str, tensor_type: Any, data: Any) -> None:
        self.name, self.tensor_type, self.data = name, tensor_type, data


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if magic and magic != b"GGUF":
        raise ConfigError(
            f"{path.name} is no GGUF file",
            hint="a source is a GGUF file, or a directory with config.json and *.safetensors",
        )


def _value(field: Any) -> Any:
    return field.contents()
