"""A sentence encoder in ONNX: texts in, vectors out. It embeds; it does not judge."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from interlock.bundle.limits import DEFAULT_LIMITS
from interlock.bundle.manifest import MODEL
from interlock.bundle.pack import read_model
from interlock.detect.tokenizer import open_tokenizer, storable
from interlock.engines.onnx import OnnxSession, SessionConfig
from interlock.kernel.errors import BundleFormatError, ConfigError, EngineError, InputError

Floats = npt.NDArray[np.float32]
_KNOWN = ("input_ids", "attention_mask", "token_type_ids")


class OnnxEncoder:
    """Embeds texts with any encoder that takes `input_ids` and `attention_mask`. Thread-safe.

    An output (n, d) is taken as the embedding; of an output (n, tokens, d) the mean over the
    tokens that the mask keeps. Texts are cut after `most` tokens.
    """

    def __init__(self, session: OnnxSession, tokenizer: Any, *, batch: int = 32) -> None:
        """Raise ConfigError for a graph that is no such encoder, or a batch below 1."""
        if batch < 1:
            raise ConfigError(f"batch is {batch}; it must be 1 or more")
        names = session.input_names()
        foreign = [name for name in names if name not in _KNOWN]
        if "input_ids" not in names or foreign:
            raise ConfigError(
                f"the model is no sentence encoder: it takes {', '.join(names)}",
                hint="it is a detector's: name the directory of its bundle"
                if "ngrams" in names
                else f"an encoder takes {', '.join(_KNOWN)}",
            )
        floats = [spec for spec in session.outputs if spec.dtype == "float32"]
        pooled = [spec for spec in floats if len(spec.shape) == 2]
        tokens = [spec for spec in floats if len(spec.shape) == 3]
        if not pooled and not tokens:
            raise ConfigError("the model is no sentence encoder: it gives no (n, d) or (n, t, d)")
        named = [spec for spec in pooled if "embedding" in spec.name]
        # A pooler's output was trained for another task than the mean over the tokens.
        self._output = (named or tokens or pooled)[0]
        self._session = session
        self._tokenizer = tokenizer
        self._batch = batch
        self._lock = threading.Lock()
        self._dimension: int | None = None

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        if self._dimension is None:
            self._dimension = int(self.encode("dimension").shape[0])
        return self._dimension

    @overload
    def encode(self, text: str, *, normalize_embeddings: bool = True) -> Floats: ...
    @overload
    def encode(self, text: Sequence[str], *, normalize_embeddings: bool = True) -> Floats: ...

    def encode(self, text: str | Sequence[str], *, normalize_embeddings: bool = True) -> Floats:
        """float32 (d,) of one text, (n, d) of several; of length 1 where `normalize_embeddings`.

        Raises InputError for what is no text, and EngineError.
        """
        texts = [text] if isinstance(text, str) else list(text)
        for at, one in enumerate(texts):
            if not isinstance(one, str):
                raise InputError(f"text {at} is a {type(one).__name__}; it must be a str")
        rows = [
            self._encode(texts[start : start + self._batch])
            for start in range(0, len(texts), self._batch)
        ]
        found = np.concatenate(rows) if rows else np.zeros((0, self.dimension), np.float32)
        if normalize_embeddings:
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found[0] if isinstance(text, str) else found

    def _encode(self, texts: list[str]) -> Floats:
        encodings = self._tokenizer.encode_batch_fast([storable(text) for text in texts])
        width = max(1, max(len(found.ids) for found in encodings))
        ids = np.zeros((len(texts), width), np.int64)
        mask = np.zeros((len(texts), width), np.int64)
        for row, found in enumerate(encodings):
            ids[row, : len(found.ids)] = found.ids
            mask[row, : len(found.ids)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        taken = {name: given[name] for name in self._session.input_names()}
        output = self._session.run(taken, outputs=(self._output.name,))[self._output.name]
        if output.ndim == 3:
            kept = mask[:, : output.shape[1], None].astype(np.float32)
            output = (output * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1.0)
        if output.ndim != 2 or len(output) != len(texts):
            raise EngineError(f"the encoder gave shape {output.shape} for {len(texts)} texts")
        return np.asarray(output, np.float32)


def open_encoder(
    model: str | Path,
    tokenizer: str | Path | None = None,
    *,
    threads: int = 1,
    batch: int = 32,
    most: int = 256,
) -> OnnxEncoder:
    """The encoder in the ONNX file `model`; external tensors are taken from beside it.

    tokenizer  as `open_tokenizer` takes it; by default the model's directory or its parent
    most       tokens of a text that are read

    Raises ConfigError for a tokenizer or graph that does not fit, BundleFormatError for what is
    no model, and EngineUnavailableError.
    """
    path = Path(model)
    try:
        data = read_model(path, DEFAULT_LIMITS)
    except BundleFormatError as error:
        # Written for a bundle's file; this one has another name, and no bundle around it.
        raise BundleFormatError(
            error.message.replace(MODEL, path.name), hint="name an encoder in ONNX"
        ) from None
    session = OnnxSession(data, SessionConfig(intra_op_threads=threads))
    if tokenizer is None:
        near = [path.parent, path.parent.parent]
        holding = [
            d for d in near if any((d / n).is_file() for n in ("tokenizer.json", "vocab.txt"))
        ]
        if not holding:
            raise ConfigError(
                f"there is no tokenizer beside {path.name}",
                hint="name its directory or file with tokenizer_name",
            )
        tokenizer = holding[0]
    return OnnxEncoder(session, open_tokenizer(tokenizer, most=most), batch=batch)
