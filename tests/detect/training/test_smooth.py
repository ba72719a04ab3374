"""Activations of uneven channels keep their int8 graph near the exact one."""

from dataclasses import replace

import numpy as np
from support.detector_parts import feed, parts, token_rows, vocabulary
from support.detectors import ATTACKS, HARMLESS

from interlock.detect.training.graph import Parts, build
from interlock.detect.training.smooth import smoothed
from interlock.engines.onnx import OnnxSession

TEXTS = [*ATTACKS, *HARMLESS]


def uneven() -> Parts:
    """One channel of the first layer norm reaches 40 times as far as the others."""
    found = parts(vocabulary(), layers=2)
    gain = found.encoder["norm.weight"].copy()
    gain[7] *= 40
    return replace(found, encoder={**found.encoder, "norm.weight": gain})


def embeddings(model: Parts, int8: bool) -> np.ndarray:
    graph = OnnxSession(build(model, int8=int8).SerializeToString())
    return np.concatenate([feed(graph, [text])["embedding"] for text in TEXTS])


def test_an_outlying_channel_costs_the_others_less() -> None:
    plain = uneven()
    exact = embeddings(plain, int8=False)
    smooth = smoothed(plain, token_rows(TEXTS))
    before = (exact * embeddings(plain, int8=True)).sum(axis=1)
    after = (exact * embeddings(smooth, int8=True)).sum(axis=1)
    assert (1 - after).mean() < (1 - before).mean() / 2


def test_it_changes_nothing_of_the_exact_graph() -> None:
    plain = uneven()
    smooth = smoothed(plain, token_rows(TEXTS))
    assert set(smooth.smooth) == {
        f"layers.{layer}.{name}" for layer in (0, 1) for name in ("qkv", "mixed", "wide")
    }
    assert (embeddings(smooth, int8=False) == embeddings(plain, int8=False)).all()
