"""A directory as the Hugging Face hub lays it out: config.json, safetensors, tokenizer.json.

Pickled weights (`pytorch_model.bin`) are never opened.
"""

from __future__ import annotations

import json
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
from interlock.engines.generate.spec import Family
from interlock.kernel.errors import MissingExtraError

_FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "phi3": "phi3",
    "starcoder2": "starcoder2",
}
# What a StarCoder2 may say of itself, in the only words that are known. Its releases carry the last
# two, which transformers does not read.
_STARCODER2 = {
    "hidden_act": ("gelu_pytorch_tanh",),
    "norm_type": ("layer_norm",),
    "mlp_type": ("default",),
}
_ENCODER_DECODERS = frozenset({"t5", "codet5", "mt5", "umt5", "bart", "mbart", "pegasus", "plbart"})
CONFIG = "config.json"
_JSON_LIMIT = 64 << 20
# Under which a chat template knows them.
_SPECIALS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
)


class HuggingFaceCheckpoint:
    """The weights, vocabulary and architecture in `directory`.

    `context` shortens how far the rotary tables reach. Raises SourceError for missing or
    malformed files and for families that are not known, encoder-decoders by name.
    """

    def __init__(self, directory: Path, *, context: int | None = None) -> None:
        self.name = directory.resolve().name
        self._directory = directory
        self._config = _read_json(directory / CONFIG)
        self._family = _family_of(self._config)
        self.architecture = self._read_architecture(context)
        self._files = _tensor_files(directory)
        check_layers(self._files, "model.layers.", self.architecture.layers)
        self.vocabulary = _vocabulary_of(directory, self._config)
        self.provenance: Mapping[str, Any] = {
            key: self._config[key]
            for key in ("_name_or_path", "model_type", "torch_dtype")
            if isinstance(self._config.get(key), str)
        }

    def floats(self, name: str) -> Floats:
        """The tensor in float32."""
        source, rows = self._source(name)
        path = self._files.get(source)
        if path is None:
            raise SourceError(f"the safetensors files hold no tensor {source!r}")
        array = _read_tensor(path, source)
        return np.ascontiguousarray(array if rows is None else array[rows])

    def quantized(self, name: str) -> Quantized | None:
        """None: these files hold plain numbers."""
        return None

    def _source(self, name: str) -> tuple[str, slice | None]:
        """The file's tensor and the rows of it; Phi-3 keeps several matrices in one."""
        if self._family != "phi3":
            return name, None
        shape = self.architecture
        q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        for part, whole, start, end in (
            ("q_proj", "qkv_proj", 0, q),
            ("k_proj", "qkv_proj", q, q + kv),
            ("v_proj", "qkv_proj", q + kv, q + 2 * kv),
            ("gate_proj", "gate_up_proj", 0, shape.intermediate),
            ("up_proj", "gate_up_proj", shape.intermediate, 2 * shape.intermediate),
        ):
            if f".{part}." in name:
                return name.replace(part, whole), slice(start, end)
        return name, None

    def _given(self, key: str, default: float | None) -> object:
        value = self._config.get(key)
        value = default if value is None else value
        if value is None:
            raise SourceError(f"config.json has no {key}")
        return value

    def _number(self, key: str, default: float | None = None) -> float:
        return positive(self._given(key, default), f"config.json: {key}")

    def _whole(self, key: str, default: int | None = None) -> int:
        return whole_number(self._given(key, default), f"config.json: {key}")

    def _read_architecture(self, context: int | None) -> Architecture:
        config = self._config
        heads = self._whole("num_attention_heads")
        hidden = self._whole("hidden_size")
        native = self._whole("max_position_embeddings")
        starcoder2 = self._family == "starcoder2"
        known = _STARCODER2 if starcoder2 else {"hidden_act": ("silu", "swish")}
        for key, words in known.items():
            found = config.get(key)
            if found is not None and found not in words:
                raise SourceError(f"config.json: {key} is {str(found)[:40]!r}, not {words[0]}")
        epsilon = ("norm_epsilon", 1e-5) if starcoder2 else ("rms_norm_eps", 1e-6)
        return Architecture(
            family=self._family,
            hidden=hidden,
            intermediate=self._whole("intermediate_size"),
            layers=self._whole("num_hidden_layers"),
            heads=heads,
            kv_heads=self._whole("num_key_value_heads", heads),
            head_size=self._whole("head_dim", hidden // heads),
            vocabulary=self._whole("vocab_size"),
            context=min(native, native if context is None else context),
            norm_epsilon=float(self._number(*epsilon)),
            rope=self._rope(native),
            tied=self._truth("tie_word_embeddings", starcoder2),
            window=self._window(),
            biases=self._biases(),
        )

    def _truth(self, key: str, default: bool) -> bool:
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise SourceError(f"config.json: {key} is {str(value)[:40]!r}, not true or false")
        return value

    def _biases(self) -> Biases:
        if self._family == "starcoder2":
            return "all" if self._truth("use_bias", True) else "none"
        for key in ("attention_bias", "mlp_bias"):
            if self._family == "llama" and self._truth(key, False):
                raise SourceError(
                    f"config.json: {key} is True; biases in a Llama's attention or MLP are not "
                    "supported"
                )
        return "qkv" if self._family == "qwen2" else "none"

    def _window(self) -> int | None:
        window = self._config.get("sliding_window")
        if window is None or self._family == "llama":
            return None
        if self._family == "qwen2":
            kinds = str(self._config.get("layer_types"))
            if self._config.get("use_sliding_window") or "sliding_attention" in kinds:
                raise SourceError(
                    "config.json: sliding windows in some layers only are not supported"
                )
            return None
        return self._whole("sliding_window")

    def _rope(self, native: int) -> Rope:
        # Newer files keep it all in rope_parameters, older ones in rope_theta and rope_scaling.
        given = self._config.get("rope_parameters") or self._config.get("rope_scaling") or {}
        if not isinstance(given, dict):
            raise SourceError("config.json: the rotary parameters are malformed")
        theta = given.get("rope_theta")
        theta = self._number("rope_theta", 10000.0) if theta is None else theta
        theta = float(positive(theta, "config.json: rope_theta"))
        kind = str(given.get("rope_type") or given.get("type") or "default")
        partial = given.get("partial_rotary_factor") or self._config.get("partial_rotary_factor")
        if partial not in (None, 1, 1.0):
            raise SourceError("rotary embeddings over a part of each head are not supported")
        values = {
            "original_max_position_embeddings": self._config.get(
                "original_max_position_embeddings"
            ),
            **given,
            "max_position_embeddings": native,
        }
        return Rope(theta, kind, values)


def _family_of(config: Mapping[str, Any]) -> Family:
    kind = str(config.get("model_type"))
    if config.get("is_encoder_decoder") or kind in _ENCODER_DECODERS:
        raise SourceError(
            f"config.json describes an encoder-decoder ({kind[:40]}), such as T5 and CodeT5 are",
            hint=f"this engine runs decoders: {', '.join(_FAMILIES)}",
        )
    if kind not in _FAMILIES:
        raise SourceError(
            f"config.json: model_type is {kind[:40]!r}",
            hint=f"read are {', '.join(_FAMILIES)}",
        )
    return _FAMILIES[kind]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise SourceError(f"{path.name} is larger than {_JSON_LIMIT} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{path.parent.resolve().name} has no {path.name}",
            hint="name a directory with config.json, tokenizer.json and *.safetensors",
        ) from None
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise SourceError(f"{path.name} is no valid JSON") from None
    if not isinstance(found, dict):
        raise SourceError(f"{path.name} holds no JSON object")
    return found


def _tensor_files(directory: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise MissingExtraError("text", "reading safetensors files") from None

    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise SourceError(
            f"{directory.name} has no *.safetensors file",
            hint="pickled weights are never opened; save the model as safetensors",
        )
    found: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    found[name] = path
        except Exception as error:  # noqa: BLE001 - the package raises its own types
            raise SourceError(
                f"{path.name} is no sound safetensors file ({type(error).__name__})",
                hint="fetch it again; it may be cut short",
            ) from None
    return found


def _read_tensor(path: Path, name: str) -> Floats:
    """One tensor in float32; bfloat16, which NumPy lacks, is read from the file's bytes."""
    from safetensors import safe_open

    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        entry = header[name]
        if entry["dtype"] == "BF16":
            start, end = entry["data_offsets"]
            # After reading the header the position is where the data begins.
            file.seek(start, 1)
            halves = np.frombuffer(file.read(end - start), np.uint16)
            wide = (halves.astype(np.uint32) << 16).view(np.float32)
            return wide.reshape(entry["shape"])
    if entry["dtype"] not in ("F32", "F16", "F64"):
        raise SourceError(f"{name} is stored as {entry['dtype']}; floats are read")
    with safe_open(path, framework="numpy") as opened:
        return np.asarray(opened.get_tensor(name), np.float32)


def _vocabulary_of(directory: Path, config: Mapping[str, Any]) -> Vocabulary:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise SourceError(
            f"{directory.name} has no tokenizer.json",
            hint="save the fast tokenizer beside the weights (tokenizer.save_pretrained)",
        )
    options: dict[str, Any] = {}
    if (directory / "tokenizer_config.json").is_file():
        options = _read_json(directory / "tokenizer_config.json")
    generation: dict[str, Any] = {}
    if (directory / "generation_config.json").is_file():
        generation = _read_json(directory / "generation_config.json")
    template = options.get("chat_template")
    if (directory / "chat_template.jinja").is_file():
        try:
            template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise SourceError("chat_template.jinja is not UTF-8") from None
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        template = named.get("default")
    data = path.read_bytes()
    specials = {
        name: text for name in _SPECIALS if (text := _token_text(options.get(name))) is not None
    }
    ends = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
    ends |= _id_of(data, specials.get("eos_token"))
    if not ends:
        raise SourceError("neither config.json nor the tokenizer names an end token")
    start = _ids(config.get("bos_token_id"))
    adds_start = options.get("add_bos_token")
    if adds_start is None:
        adds_start = _first_of(data) in start
    return Vocabulary(
        tokenizer=data,
        end_tokens=tuple(sorted(ends)),
        start_token=min(start) if start and adds_start else None,
        specials=specials,
        chat_template=template if isinstance(template, str) else None,
    )


def _first_of(tokenizer: bytes) -> int | None:
    """The first token that the file's own rules make of a text; None where they make nothing."""
    import tokenizers

    try:
        found = tokenizers.Tokenizer.from_str(tokenizer.decode("utf-8")).encode("a").ids
    except Exception as error:  # noqa: BLE001 - the package raises bare Exception
        raise SourceError(f"tokenizer.json is malformed ({type(error).__name__})") from None
    return found[0] if found else None


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    whole = {found for found in values if isinstance(found, int) and not isinstance(found, bool)}
    # Some write -1 where there is none.
    return {found for found in whole if found >= 0}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _id_of(tokenizer: bytes, text: str | None) -> set[int]:
    if text is None:
        return set()
    try:
        added = json.loads(tokenizer).get("added_tokens", [])
        return {int(entry["id"]) for entry in added if entry.get("content") == text}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SourceError("tokenizer.json is malformed") from None
