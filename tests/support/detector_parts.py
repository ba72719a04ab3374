"""Parts of a small detector with the shipped one's graph: one layer, drawn weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from support.detectors import ATTACKS, HARMLESS, tokenizer_json

from interlock.bundle import Bundle
from interlock.detect.features import FAMILIES, FEATURE_NAMES
from interlock.detect.rules import load_pack
from interlock.detect.settings import NgramSettings, RuleSettings, Settings, Vectors
from interlock.detect.training.bundle import write
from interlock.detect.training.graph import Parts, build
from interlock.detect.training.linear import fit_ngrams, rows_of
from interlock.engines.onnx import OnnxSession

NGRAMS = NgramSettings(buckets=1 << 12)


def encoder(rows: int, layers: int = 1, seed: int = 0) -> dict[str, Any]:
    """Tensors of a MiniLM-like encoder with `rows` tokens and drawn weights."""
    draw = np.random.default_rng(seed)

    def drawn(*shape: int) -> Any:
        return (draw.standard_normal(shape) * 0.05).astype(np.float32)

    found: dict[str, Any] = {
        "words.weight": drawn(rows, 384),
        "positions.weight": drawn(64, 384),
        "kinds.weight": drawn(2, 384),
        "norm.weight": np.ones(384, np.float32),
        "norm.bias": drawn(384),
    }
    for layer in range(layers):
        at = f"layers.{layer}"
        for name in ("query", "key", "value", "mixed"):
            found |= {f"{at}.{name}.weight": drawn(384, 384), f"{at}.{name}.bias": drawn(384)}
        found |= {f"{at}.wide.weight": drawn(1536, 384), f"{at}.wide.bias": drawn(1536)}
        found |= {f"{at}.narrow.weight": drawn(384, 1536), f"{at}.narrow.bias": drawn(384)}
        for name in ("mixed_norm", "norm"):
            found |= {f"{at}.{name}.weight": np.ones(384, np.float32)}
            found |= {f"{at}.{name}.bias": drawn(384)}
    return found


def parts(rows: int, layers: int = 1) -> Parts:
    """Everything of a small graph; its n-grams know the texts of `support.detectors`."""
    draw = np.random.default_rng(1)
    labels = np.array([1.0] * len(ATTACKS) + [0.0] * len(HARMLESS))
    ngrams = fit_ngrams(
        rows_of([*ATTACKS, *HARMLESS], NGRAMS),
        labels,
        np.ones(len(labels)),
        NGRAMS.buckets,
        rarest=1,
        epochs=20,
    )
    return Parts(
        encoder(rows, layers),
        draw.standard_normal((2, 384)).astype(np.float32),
        np.zeros(2, np.float32),
        draw.standard_normal((len(FAMILIES), 384)).astype(np.float32),
        np.zeros(len(FAMILIES), np.float32),
        ngrams.weight.astype(np.float32),
        ngrams.idf.astype(np.float32),
        ngrams.bias,
        np.full(len(FEATURE_NAMES), 0.5, np.float32),
        -1.0,
        np.array([0.1, 1.0, 0.5], np.float32),
        0.0,
    )


def vocabulary() -> int:
    """How many tokens the small tokenizer has."""
    return len(msgspec.json.decode(tokenizer_json())["model"]["vocab"])


def write_small(directory: Path) -> Bundle:
    """A sound bundle of these parts."""
    whole = parts(vocabulary())
    texts = (*ATTACKS, *HARMLESS)
    session = OnnxSession(build(whole, int8=False).SerializeToString())
    rows = np.concatenate([embedding(session, text) for text in texts])
    settings = Settings(
        name="small-detector",
        version="1",
        families=FAMILIES,
        thresholds={"production": 0.6, "staging": 0.5, "development": 0.4},
        rules=RuleSettings(load_pack().digest, FEATURE_NAMES),
        ngrams=NGRAMS,
    )
    vectors = Vectors(texts, rows, rows[: len(ATTACKS)], rows[len(ATTACKS) :])
    return write(directory, whole, settings, tokenizer_json(), vectors, "# Small\n", {})


def embedding(session: OnnxSession, text: str) -> Any:
    """(1, 384) of a text."""
    return feed(session, [text])["embedding"]


def token_rows(texts: list[str]) -> list[Any]:
    """Token ids of each text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json().decode())
    return [np.array(tokenizer.encode(text).ids, np.int64) for text in texts]


def feed(session: OnnxSession, texts: list[str]) -> dict[str, Any]:
    """What the graph says of texts, without n-grams and rules."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json().decode())
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    return session.run(
        {
            "input_ids": np.array([found.ids for found in encodings], np.int64),
            "attention_mask": np.array([found.attention_mask for found in encodings], np.int64),
            "ngrams": np.zeros((len(texts), 1), np.int64),
            "rules": np.zeros((len(texts), len(FEATURE_NAMES)), np.float32),
            "document": np.zeros((len(texts), 1), np.float32),
        }
    )
