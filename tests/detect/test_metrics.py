"""Figures against definitions written another way, and what the intervals promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect import metrics
from interlock.kernel.intervals import wilson_interval

SCORES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), st.booleans()))


@given(SCORES)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    attacks = np.array([attack for _, attack in rows], np.bool_)
    found = metrics.auc(scores, attacks)
    pairs = list(itertools.product(scores[attacks], scores[~attacks]))
    if not pairs:
        assert found is None
        return
    assert found is not None
    area, (low, high) = found
    assert area == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))
    assert 0 <= low <= area <= high <= 1


@given(SCORES, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_no_more_harmless_texts_reach_the_threshold_than_allowed(
    rows: list[tuple[float, bool]], share: float
) -> None:
    harmless = np.array([score for score, attack in rows if not attack], np.float64)
    threshold = metrics.threshold_at(harmless, share)
    assert (harmless >= threshold).sum() <= share * len(harmless) + 1e-9
    lower = np.unique(harmless[harmless < threshold])
    if len(lower):  # the next score down would be one too many
        assert (harmless >= lower[-1]).sum() > share * len(harmless)


@given(SCORES, st.floats(0, 1))
def test_counts_add_up(rows: list[tuple[float, bool]], threshold: float) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    attacks = np.array([attack for _, attack in rows], np.bool_)
    found = metrics.count(scores, attacks, threshold)
    assert found.true_positive + found.false_negative == attacks.sum()
    assert found.false_positive + found.true_negative == (~attacks).sum()
    for name, (low, high) in found.intervals().items():
        assert low <= found.figures()[name] <= high  # type: ignore[operator]


def test_the_interval_of_the_area_covers_the_truth() -> None:
    """Scores of two normal distributions one apart have the area Φ(1/√2) = 0.7602."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        scores = np.concatenate([draw.normal(1, 1, 60), draw.normal(0, 1, 80)])
        found = metrics.auc(scores, np.arange(140) < 60)
        assert found is not None
        covered += found[1][0] <= 0.76025 <= found[1][1]
    assert covered >= 180


@pytest.mark.parametrize(("n", "least"), [(1, 0.025), (10, 0.69), (1000, 0.996)])
def test_classes_that_are_apart_say_as_much_as_they_are_large(n: int, least: float) -> None:
    scores = np.arange(2 * n, dtype=np.float64)
    for attacks, area in ((scores >= n, 1.0), (scores < n, 0.0)):
        found = metrics.auc(scores, attacks)
        assert found is not None
        assert found[0] == area
        bound = found[1][0] if area else 1 - found[1][1]
        assert bound == pytest.approx(least, abs=0.005)


def test_ties_leave_the_area_open() -> None:
    for n, half in ((3, 0.708), (300, 0.013)):
        found = metrics.auc(np.ones(2 * n), np.arange(2 * n) < n)
        assert found is not None
        assert found[0] == 0.5
        low, high = found[1]
        assert (low, high) == pytest.approx((max(0, 0.5 - half), min(1, 0.5 + half)), abs=0.001)


@pytest.mark.parametrize("n", [3, 300])
def test_a_recall_without_a_miss_is_as_sure_as_the_attacks_are_many(n: int) -> None:
    scores = np.concatenate([np.ones(n), np.zeros(n)])
    found = metrics.recall_at(scores, np.arange(2 * n) < n, 0.01)
    assert found is not None
    assert found[0] == 1.0
    assert found[2] == pytest.approx(wilson_interval(n, n))


def test_recall_at_a_rate() -> None:
    scores = np.array([0.9, 0.8, 0.3, *np.linspace(0, 0.5, 100)])
    attacks = np.arange(103) < 3
    found = metrics.recall_at(scores, attacks, 0.01)
    assert found is not None
    recall, threshold, (low, high) = found
    assert recall == pytest.approx(2 / 3)
    assert ((scores >= threshold) & ~attacks).sum() == 1
    assert low <= recall <= high
    assert metrics.recall_at(scores, np.ones(103, np.bool_), 0.01) is None
