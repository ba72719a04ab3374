"""Thresholds and centres."""

import numpy as np
import pytest

from interlock.detect.training.bundle import centres, robust_threshold, upper_quantile


def test_at_most_the_share_lies_above_the_quantile() -> None:
    values = np.arange(100, dtype=float)
    assert upper_quantile(values, 0.02) == 97
    assert upper_quantile(values, 0.0) == 99
    assert (values > upper_quantile(values, 0.1)).mean() == pytest.approx(0.1)


def test_the_worst_domain_decides_the_threshold() -> None:
    calm, wild = np.zeros(50), np.arange(50, dtype=float)
    assert robust_threshold([calm, wild, np.zeros(0)], 0.02) == upper_quantile(wild, 0.02)


def test_centres_stand_for_the_clusters() -> None:
    draw = np.random.default_rng(0)
    ways = np.eye(8)[:3]
    vectors = np.concatenate([way + 0.05 * draw.standard_normal((40, 8)) for way in ways])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = centres(vectors, 12)
    assert found.shape == (12, 8)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (vectors @ found.T).max(axis=1).min() > 0.95
    assert len(centres(vectors[:5], 12)) == 5
