"""The detector's bundle from fitted parts: graph, settings, reference vectors, card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interlock.bundle import Bundle, Metadata, pack, signature_of
from interlock.detect.settings import CARD, SETTINGS, TOKENIZER, VECTORS, Settings, Vectors
from interlock.detect.training.graph import Parts, build

Floats = np.ndarray[Any, np.dtype[np.float32]]
Logits = np.ndarray[Any, np.dtype[np.floating[Any]]]


def write(
    directory: Path,
    parts: Parts,
    settings: Settings,
    tokenizer: bytes,
    vectors: Vectors,
    card: str,
    provenance: dict[str, Any],
) -> Bundle:
    """Pack the bundle at `directory` and return it as loaded back.

    Raises the errors of `interlock.bundle.pack`.
    """
    model = build(parts)
    inputs, outputs = signature_of(model)
    metadata = Metadata(
        name=settings.name, kind="model", inputs=inputs, outputs=outputs, provenance=provenance
    )
    files = {
        SETTINGS: settings.encode(),
        TOKENIZER: tokenizer,
        VECTORS: vectors.encode(),
        CARD: card.encode(),
    }
    return pack(directory, model, metadata, files)


def centres(vectors: Floats, count: int, seed: int = 0, rounds: int = 12) -> Floats:
    """(count, d) vectors of length 1 that stand for `vectors`: k-means on the sphere.

    Fewer where there are fewer vectors. A centre that lost all of its vectors keeps its place.
    """
    rng = np.random.default_rng(seed)
    count = min(count, len(vectors))
    found = vectors[rng.choice(len(vectors), count, replace=False)].astype(np.float32)
    for _ in range(rounds):
        nearest = (vectors @ found.T).argmax(axis=1)
        sums = np.zeros_like(found)
        np.add.at(sums, nearest, vectors)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        found = np.where(length > 1e-6, sums / np.maximum(length, 1e-6), found)
    return found.astype(np.float32)


def upper_quantile(values: Logits, share: float) -> float:
    """The smallest of `values` such that at most `share` of them lie above it."""
    ordered = np.sort(values)
    allowed = int(np.floor(share * len(ordered)))
    return float(ordered[len(ordered) - 1 - allowed])


def robust_threshold(groups: Sequence[Logits], share: float) -> float:
    """A logit that at most `share` of each group's harmless texts exceed: the largest quantile.

    A threshold taken over all domains together lets one of them go far beyond the rate.
    """
    return max(upper_quantile(group, share) for group in groups if len(group))
