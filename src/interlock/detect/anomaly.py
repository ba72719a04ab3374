"""Anomaly: how far a text's windows are from everything that the detector was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def distance(embeddings: Floats, known: Floats) -> float:
    """The mean over windows of 1 - cosine to the nearest of the known vectors.

    embeddings  (w, d) a text's windows, of length 1
    known       (k, d) vectors that stand for both classes' training windows, of length 1

    In 0 … 2; 0 where either has no rows.
    """
    if not len(embeddings) or not len(known):
        return 0.0
    # Not `@`: OpenBLAS ends the process where it gets no memory for its buffers.
    cosines = np.vecdot(embeddings[:, None, :], known)
    return float(1.0 - cosines.max(axis=1).sum() / len(cosines))
