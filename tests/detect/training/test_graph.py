"""The detector's graph."""

from dataclasses import replace

import numpy as np
import pytest
from support.detector_parts import feed, parts, vocabulary
from support.detectors import ATTACKS, HARMLESS

from interlock.detect.features import FEATURE_NAMES
from interlock.detect.ngrams import ngram_ids
from interlock.detect.training.graph import build
from interlock.detect.training.linear import NgramModel, rows_of
from interlock.engines.onnx import OnnxSession

PARTS = parts(vocabulary(), layers=2)
TEXTS = [*ATTACKS, *HARMLESS]


def session(int8: bool) -> OnnxSession:
    return OnnxSession(build(PARTS, int8=int8).SerializeToString())


def test_int8_stays_near_float32() -> None:
    exact, rounded = feed(session(False), TEXTS), feed(session(True), TEXTS)
    cosines = (exact["embedding"] * rounded["embedding"]).sum(axis=1)
    assert cosines.min() > 0.99
    assert np.linalg.norm(rounded["embedding"], axis=1) == pytest.approx(1.0, abs=1e-5)


def test_windows_of_one_run_stay_near_what_each_is_alone() -> None:
    graph = session(True)
    together = feed(graph, TEXTS)["encoder_logit"]
    alone = [float(feed(graph, [text])["encoder_logit"][0]) for text in TEXTS]
    assert together.tolist() == pytest.approx(alone, abs=0.05)


def test_the_ngram_logit_is_that_of_the_linear_model() -> None:
    from support.detector_parts import NGRAMS

    model = NgramModel(
        PARTS.ngram_weight.astype(float), PARTS.ngram_idf.astype(float), PARTS.ngram_bias
    )
    rows = len(TEXTS)
    found = session(True).run(
        {
            "input_ids": np.ones((rows, 2), np.int64),
            "attention_mask": np.ones((rows, 2), np.int64),
            "ngrams": ngram_ids(TEXTS, NGRAMS),
            "rules": np.zeros((rows, len(FEATURE_NAMES)), np.float32),
            "document": np.zeros((rows, 1), np.float32),
        }
    )
    wanted = model.logits(rows_of(TEXTS, NGRAMS))
    assert found["ngram_logit"].tolist() == pytest.approx(wanted.tolist(), abs=1e-3)
    assert found["rule_logit"].tolist() == pytest.approx([PARTS.rule_bias] * rows)
    mixed = found["encoder_logit"] * 0.1 + found["ngram_logit"] + found["rule_logit"] * 0.5
    assert found["logit"].tolist() == pytest.approx(mixed.tolist(), abs=1e-4)


def test_a_rule_that_hits_raises_the_logit_by_its_weight() -> None:
    parts_ = replace(PARTS, rule_bias=0.0)
    graph = OnnxSession(build(parts_).SerializeToString())
    rules = np.zeros((2, len(FEATURE_NAMES)), np.float32)
    rules[1, 0] = 1.0
    found = graph.run(
        {
            "input_ids": np.ones((2, 2), np.int64),
            "attention_mask": np.ones((2, 2), np.int64),
            "ngrams": np.zeros((2, 1), np.int64),
            "rules": rules,
            "document": np.zeros((2, 1), np.float32),
        }
    )
    assert found["rule_logit"].tolist() == pytest.approx([0.0, 0.5])
