"""The encoder of a detector's bundle, asked for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from interlock.detect.model import DetectorModel
from interlock.kernel.errors import InputError

Floats = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Makes vectors of texts: a bundle's encoder or a bare one."""

    def encode(self, text: str | Sequence[str], *, normalize_embeddings: bool = True) -> Floats:
        """float32 (d,) of one text, (n, d) of several."""
        ...


class BundleEmbedder:
    """The encoder inside a bundle's graph. Thread-safe."""

    def __init__(self, model: DetectorModel) -> None:
        self._model = model

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self._model.known.shape[1])

    def encode(self, text: str | Sequence[str], *, normalize_embeddings: bool = True) -> Floats:
        """float32 (d,) of one text, (n, d) of several, of length 1.

        What is beyond a window's tokens is cut off. Raises InputError for what is no text, and for
        `normalize_embeddings=False`: the graph gives vectors of length 1 only.
        """
        if not normalize_embeddings:
            raise InputError(
                "normalize_embeddings is False; a bundle's graph gives vectors of length 1 only",
                hint="a bare encoder gives both: create_onnx_only_detector(onnx_model_path=…)",
            )
        if not isinstance(text, str | Sequence):
            raise InputError(f"text is a {type(text).__name__}; it must be a str or several")
        texts = [text] if isinstance(text, str) else list(text)
        for at, one in enumerate(texts):
            if not isinstance(one, str):
                raise InputError(f"text {at} is a {type(one).__name__}; it must be a str")
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        found = self._model.embed(texts)
        return found[0] if isinstance(text, str) else found
