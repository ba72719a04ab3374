"""Confidence from logprobs against correctness, on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import InputError
from interlock.experiment.calibration import answer_confidence, auroc, calibrate


def test_confidence_is_the_geometric_mean_of_the_drawn_tokens() -> None:
    tokens = [{"logprob": math.log(0.5)}, {"logprob": math.log(0.125)}]
    assert answer_confidence(tokens, temperature=1.0) == pytest.approx(0.25)


def test_the_best_token_stands_for_the_drawn_one_in_greedy_answers_only() -> None:
    tokens = [{"top_tokens": ["Yes", "No"], "top_logprobs": [-0.1, -2.4]}]
    assert answer_confidence(tokens, temperature=0.0) == pytest.approx(math.exp(-0.1))
    assert answer_confidence(tokens, temperature=0.7) is None
    assert answer_confidence(tokens, temperature=None) is None
    assert answer_confidence(None, temperature=0.0) is None
    assert answer_confidence([{"top_logprobs": []}], temperature=0.0) is None


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30
    )
)
def test_auroc_counts_pairs(rows: list[tuple[float, bool]]) -> None:
    good = [sure for sure, right in rows if right]
    bad = [sure for sure, right in rows if not right]
    found = auroc([sure for sure, _ in rows], [right for _, right in rows])
    if not good or not bad:
        assert found is None
    else:
        wins = sum((g > b) + (g == b) / 2 for g in good for b in bad)
        assert found == pytest.approx(wins / (len(good) * len(bad)))


def test_a_calibrated_model_has_the_error_that_chance_gives() -> None:
    rng = np.random.default_rng(5)
    sure = rng.random(2000)
    found = calibrate(
        sure.tolist(),
        (rng.random(2000) < sure).tolist(),
        [str(k) for k in range(2000)],
        resamples=200,
    )
    assert found is not None
    assert found.ece == pytest.approx(found.ece_perfect, abs=0.012)
    assert found.auroc == pytest.approx(5 / 6, abs=0.02)  # for uniform confidences
    assert sum(b.n for b in found.bins) == 2000
    assert len(found.bins) == 10


def test_an_overconfident_model_is_told_apart() -> None:
    rng = np.random.default_rng(6)
    right = (rng.random(400) < 0.6).tolist()
    found = calibrate([0.9] * 400, right, [str(k) for k in range(400)], resamples=300)
    assert found is not None
    assert len(found.bins) == 1  # equal confidences cannot be told apart
    assert found.ece_low <= 0.9 - sum(right) / 400 <= found.ece_high
    assert found.ece_low > found.ece_perfect
    assert found.auroc == 0.5


def test_one_sided_answers_have_no_auroc() -> None:
    found = calibrate([0.4, 0.6, 0.7], [True] * 3, ["a", "b", "c"], resamples=50)
    assert found is not None
    assert found.auroc is None
    assert calibrate([0.5], [True], ["a"]) is None


def test_a_perfect_order_still_has_an_interval() -> None:
    found = calibrate(
        [0.1] * 10 + [0.9] * 10,
        [False] * 10 + [True] * 10,
        [str(k) for k in range(20)],
        resamples=100,
    )
    assert found is not None
    assert found.auroc == found.auroc_high == 1.0
    assert found.auroc_low == pytest.approx(0.69, abs=0.01)  # 10 answers bound what is unseen


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="do not belong together"):
        calibrate([0.5], [True, False], ["a"])
    with pytest.raises(InputError, match="outside 0"):
        calibrate([0.5, 1.5], [True, False], ["a", "b"])


def test_the_interval_of_auroc_covers() -> None:
    """Normal confidences one deviation apart: the area is Phi(1 / sqrt 2) = 0.7602."""
    repeats = count(60, 1000)
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(repeats):
        right = np.arange(120) < 60
        scores = rng.normal(size=120) + right
        sure = 1 / (1 + np.exp(-scores))
        found = calibrate(
            sure.tolist(), right.tolist(), [str(k) for k in range(120)], seed=seed, resamples=200
        )
        assert found is not None
        assert found.auroc_low is not None
        assert found.auroc_high is not None
        covered += found.auroc_low <= 0.7602 <= found.auroc_high
    print(f"covered {covered} of {repeats}")
    assert covered / repeats >= 0.93 - 2.6 * math.sqrt(0.93 * 0.07 / repeats)
