"""The vocabulary in a GGUF file's metadata, in the format of `tokenizers`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from interlock.engines.generate.convert.checkpoint import SourceError, Vocabulary

# How text is cut before merging, by the file's name for it. The patterns are those of the models'
# own tokenizers.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        },
        {**_BYTES, "use_regex": False},
    ]


_PRE: dict[str, list[dict[str, Any]]] = {
    "default": [_BYTES],
    "gpt-2": [_BYTES],
    "smollm": [_DIGITS, _BYTES],
    "starcoder": [_DIGITS, _BYTES],
    "llama-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
}
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>")


def vocabulary_of(fields: Mapping[str, Any]) -> Vocabulary:
    """The tokenizer of a GGUF file. Raises SourceError where it is missing or not known."""
    tokens = fields.get("tokenizer.ggml.tokens")
    kinds = fields.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list) or len(tokens) != len(kinds):
        raise SourceError(
            "the file holds no tokenizer (tokenizer.ggml.tokens)",
            hint="use a file that was made with its tokenizer inside",
        )
    if not all(isinstance(token, str) for token in tokens):
        raise SourceError("the file's tokens are no texts (tokenizer.ggml.tokens)")
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        model = _byte_level(fields, tokens)
    elif kind == "llama":
        model = _sentencepiece(fields, tokens, kinds)
    else:
        raise SourceError(f"the file's tokenizer is of the kind {str(kind)[:40]!r}")
    model["added_tokens"] = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kinds[number] == _CONTROL,
        }
        for number, token in enumerate(tokens)
        if kinds[number] in (_CONTROL, _USER_DEFINED)
    ]
    start, end, turn = (_token_id(fields, name) for name in ("bos", "eos", "eot"))
    ends = {number for number in (end, turn) if number is not None}
    # Files of chat models often name the end of a text and not the end of a turn.
    ends |= {
        number
        for number, token in enumerate(tokens)
        if kinds[number] in (_CONTROL, _USER_DEFINED) and token in _TURN_ENDS
    }
    if not ends:
        raise SourceError("the file names no end token (tokenizer.ggml.eos_token_id)")
    # A file that says nothing means what its kind of tokenizer does by itself.
    adds_start = fields.get("tokenizer.ggml.add_bos_token", kind == "llama")
    template = fields.get("tokenizer.chat_template")
    return Vocabulary(
        tokenizer=json.dumps(model, ensure_ascii=False).encode(),
        end_tokens=tuple(sorted(ends)),
        start_token=start if adds_start else None,
        specials={
            name: tokens[number]
            for name, number in (("bos_token", start), ("eos_token", end))
            if number is not None and number < len(tokens)
        },
        chat_template=template if isinstance(template, str) else None,
    )


def _token_id(fields: Mapping[str, Any], name: str) -> int | None:
    """The id of a special token. Where there is none, some files say -1, in 32 bits."""
    number = fields.get(f"tokenizer.ggml.{name}_token_id")
    if not isinstance(number, int) or isinstance(number, bool) or number in (-1, 0xFFFFFFFF):
        return None
    if number < 0:
        raise SourceError(f"the file's tokenizer.ggml.{name}_token_id is {number}")
    return number


def _whole(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "post_processor": None,
        **parts,
    }


def _byte_level(fields: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    name = str(fields.get("tokenizer.ggml.pre", "default"))
    merges = fields.get("tokenizer.ggml.merges")
    if name not in _PRE:
        raise SourceError(
            f"the file's tokenizer cuts text in the way {name[:40]!r}",
            hint=f"known are {', '.join(_PRE)}; a Hugging Face directory brings its own",
        )
    if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
        raise SourceError("the file holds no merges (tokenizer.ggml.merges)")
    return _whole(
        {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE[name]},
            "decoder": _BYTES,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": name == "llama-bpe",
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": [_pair(merge) for merge in merges],
            },
        }
    )


def _pair(merge: str) -> list[str]:
    left, _, right = merge.partition(" ")
    return [left, right]


def _sentencepiece(
    fields: Mapping[str, Any], tokens: list[str], kinds: list[int]
) -> dict[str, Any]:
    """SentencePiece's BPE: of all pairs that make a token, the one with the best score merges."""
    scores = fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise SourceError("the file holds no scores (tokenizer.ggml.scores)")
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        raise SourceError("the file's scores are no finite numbers (tokenizer.ggml.scores)")
    known = {token: number for number, token in enumerate(tokens)}
    merges: list[tuple[float, int, str, str]] = []
    for number, token in enumerate(tokens):
        if kinds[number] in (_CONTROL, _USER_DEFINED, _BYTE):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                merges.append((-scores[number], known[left], left, right))
    merges.sort(key=lambda merge: (merge[0], merge[1], len(merge[2])))
    prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    normalizers: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    ]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": "▁"})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = _token_id(fields, "unknown")
    if unknown is not None and unknown >= len(tokens):
        raise SourceError(f"the file's tokenizer.ggml.unknown_token_id is {unknown}")
    return _whole(
        {
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None if unknown is None else tokens[unknown],
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": known,
                "merges": [[left, right] for _, _, left, right in merges],
            },
        }
    )
