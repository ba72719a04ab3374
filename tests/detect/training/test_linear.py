"""The linear parts."""

import numpy as np
import pytest
from support.detectors import ATTACKS, HARMLESS

from interlock.detect.settings import NgramSettings
from interlock.detect.training.linear import fit_dense, fit_ngrams, open_labels, rows_of

NGRAMS = NgramSettings(buckets=1 << 12)
TEXTS = [*ATTACKS, *HARMLESS]
LABELS = np.array([1.0] * len(ATTACKS) + [0.0] * len(HARMLESS))


def test_ngrams_learn_which_texts_are_attacks() -> None:
    rows = rows_of(TEXTS, NGRAMS)
    model = fit_ngrams(rows, LABELS, np.ones(len(TEXTS)), NGRAMS.buckets, rarest=1, epochs=20)
    logits = model.logits(rows)
    assert logits[LABELS == 1].min() > logits[LABELS == 0].max()


def test_ngrams_of_no_text_weigh_nothing() -> None:
    rows = rows_of(TEXTS, NGRAMS)
    model = fit_ngrams(rows, LABELS, np.ones(len(TEXTS)), NGRAMS.buckets, rarest=1)
    assert model.logits(rows_of(["", "zzqq"], NGRAMS))[0] == model.bias


def test_a_start_is_kept_where_the_texts_say_nothing_new() -> None:
    rows = rows_of(TEXTS, NGRAMS)
    first = fit_ngrams(rows, LABELS, np.ones(len(TEXTS)), NGRAMS.buckets, rarest=1)
    second = fit_ngrams(
        rows.take(np.arange(2)), LABELS[:2], np.ones(2), NGRAMS.buckets, start=first, rate=0.1
    )
    assert (second.idf == first.idf).all()
    untouched = np.setdiff1d(np.arange(NGRAMS.buckets), rows.take(np.arange(2)).ids)
    assert (second.weight[untouched] == first.weight[untouched]).all()


def test_rows_are_taken_in_the_order_asked_for() -> None:
    rows = rows_of(TEXTS, NGRAMS)
    taken = rows.take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.ids[: taken.starts[1]].tolist() == (
        rows.ids[rows.starts[2] : rows.starts[3]].tolist()
    )


def test_dense_columns_find_the_coefficients_that_made_the_labels() -> None:
    draw = np.random.default_rng(0)
    columns = draw.standard_normal((4000, 2))
    chance = 1 / (1 + np.exp(-(1.5 * columns[:, 0] - 2.0 * columns[:, 1] + 0.5)))
    labels = (draw.random(4000) < chance).astype(float)
    found, bias = fit_dense(columns, labels, np.ones(4000), l2=1e-9)
    assert found.tolist() == pytest.approx([1.5, -2.0], abs=0.2)
    assert bias == pytest.approx(0.5, abs=0.2)
    kept, _ = fit_dense(columns, labels, np.ones(4000), l2=1e-9, positive=True)
    assert kept[0] > 0
    assert kept[1] == 0


def test_a_strong_pull_keeps_the_start() -> None:
    columns = np.ones((10, 1))
    start = (np.array([0.7]), -0.2)
    found, bias = fit_dense(columns, np.zeros(10), np.ones(10), l2=1e6, start=start)
    assert found[0] == pytest.approx(0.7, abs=1e-3)
    assert bias == pytest.approx(-0.2, abs=1e-3)


def test_the_worst_open_window_of_a_text_is_an_attack() -> None:
    labels = np.array([0, -1, -1, 1, -1])
    texts = np.array([0, 1, 1, 2, 2])
    targets, weights = open_labels(labels, texts, np.array([5.0, -3.0, 1.0, 2.0, 3.0]))
    assert targets[[0, 2, 3]].tolist() == [0, 1, 1]
    # A text with a known attack does not need another one.
    assert targets[4] == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert targets[1] < 0.1
    assert weights.tolist() == [1, 0.5, 1, 1, 1]
