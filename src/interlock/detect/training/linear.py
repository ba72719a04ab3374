"""The linear parts, in numpy: hashed n-grams with logistic loss, and a few dense columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interlock.detect.ngrams import PADDING, ngram_ids
from interlock.detect.settings import DEFAULT_NGRAMS, NgramSettings

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ids = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Ids of many windows, end to end: row i is `ids[starts[i]:starts[i + 1]]`."""

    ids: Ids
    starts: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray[Any, Any]) -> Rows:
        """These rows, in this order."""
        lengths = (self.starts[1:] - self.starts[:-1])[rows]
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        index = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        return Rows(self.ids[index], starts)


def rows_of(texts: Sequence[str], settings: NgramSettings = DEFAULT_NGRAMS) -> Rows:
    """The n-gram ids of each text."""
    found = []
    for text in texts:
        row = ngram_ids([text], settings)[0]
        found.append(row[row != PADDING].astype(np.int32))
    lengths = np.array([len(row) for row in found], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return Rows(np.concatenate(found) if found else np.zeros(0, dtype=np.int32), starts)


@dataclass(frozen=True, slots=True, eq=False)
class NgramModel:
    """Logit of a window: sum(idf * weight) / sqrt(sum(idf²)) + bias over its ids.

    weight, idf   (buckets,) float64; row 0, the padding, is 0 in both
    """

    weight: Floats
    idf: Floats
    bias: float

    def logits(self, rows: Rows) -> Floats:
        """(W,) the logit of each row; the bias alone for one without ids."""
        idf = self.idf[rows.ids]
        total = _sums(idf * self.weight[rows.ids], rows.starts)
        norm = np.sqrt(np.maximum(_sums(idf * idf, rows.starts), 1e-12))
        return np.asarray(total / norm + self.bias)


def fit_ngrams(
    rows: Rows,
    labels: Floats,
    weights: Floats,
    buckets: int,
    *,
    l2: float = 2e-6,
    rate: float = 0.5,
    epochs: int = 4,
    seed: int = 0,
    rarest: int = 3,
    start: NgramModel | None = None,
) -> NgramModel:
    """Logistic regression on TF-IDF of hashed n-grams, by Adagrad.

    labels   (W,) targets within 0 … 1
    weights  (W,) how much each row counts
    rarest   ids of fewer rows than that get no weight
    start    a model to begin with and to stay near; its inverse document frequencies are kept
    """
    if start is None:
        counts = np.bincount(rows.ids, minlength=buckets).astype(np.float64)
        idf = np.log((1 + len(rows)) / (1 + counts)) + 1.0
        idf[counts < rarest] = 0.0
        idf[PADDING] = 0.0
        origin, bias = np.zeros(buckets), 0.0
    else:
        idf, origin, bias = start.idf, start.weight, start.bias
    weight = origin.copy()
    squares = np.full(buckets, 1e-8)
    bias_square = 1e-8
    rng = np.random.default_rng(seed)
    scale = weights / weights.mean()
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for begin in range(0, len(order), 256):
            chosen = order[begin : begin + 256]
            part = rows.take(chosen)
            values = idf[part.ids]
            norm = np.sqrt(np.maximum(_sums(values * values, part.starts), 1e-12))
            lengths = np.diff(part.starts)
            values = values / np.repeat(norm, lengths)
            logits = _sums(values * weight[part.ids], part.starts) + bias
            error = (_sigmoid(logits) - labels[chosen]) * scale[chosen] / len(chosen)
            # Sorting the few thousand ids of a batch is cheaper than touching every bucket.
            ids, where = np.unique(part.ids, return_inverse=True)
            each = values * np.repeat(error, lengths)
            slope: Floats = np.bincount(where, weights=each).astype(np.float64)
            slope += l2 * (weight[ids] - origin[ids])
            squares[ids] += slope * slope
            weight[ids] -= rate * slope / np.sqrt(squares[ids])
            total = float(error.sum())
            bias_square += total * total
            bias -= rate * total / bias_square**0.5
    return NgramModel(weight, idf, bias)


def fit_dense(
    columns: Floats,
    labels: Floats,
    weights: Floats,
    *,
    l2: float = 1e-3,
    positive: bool = False,
    start: tuple[Floats, float] | None = None,
    steps: int = 60,
) -> tuple[Floats, float]:
    """Logistic regression on a few columns (W, C), by Newton's method; coefficients and bias.

    positive   keep the coefficients at 0 or more: columns that would go below are left out
    start      coefficients and a bias that `l2` pulls to, instead of 0; not with `positive`
    """
    if start is not None:
        offset = columns @ start[0] + start[1]
        change, shift = _newton(columns, labels, weights, l2, steps, offset, ridge_bias=True)
        return start[0] + change, start[1] + shift
    count = columns.shape[1]
    active = np.ones(count, dtype=np.bool_)
    while True:
        kept, bias = _newton(columns[:, active], labels, weights, l2, steps)
        full = np.zeros(count)
        full[active] = kept
        if not positive or (full >= 0).all():
            return full, bias
        active = full > 0


def _newton(
    columns: Floats,
    labels: Floats,
    weights: Floats,
    l2: float,
    steps: int,
    offset: Floats | float = 0.0,
    *,
    ridge_bias: bool = False,
) -> tuple[Floats, float]:
    """Coefficients and bias of a logistic regression with `offset` added to its logits."""
    used = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
    scale = weights / weights.sum()
    beta = np.zeros(used.shape[1])
    ridge = np.full(used.shape[1], l2)
    if not ridge_bias:
        ridge[-1] = 0.0
    for _ in range(steps):
        chance = _sigmoid(used @ beta + offset)
        slope = used.T @ ((chance - labels) * scale) + ridge * beta
        curve = (used * (np.maximum(chance * (1 - chance), 1e-6) * scale)[:, None]).T @ used
        step = np.linalg.solve(curve + np.diag(ridge + 1e-9), slope)
        beta = beta - step * min(1.0, 5.0 / max(1e-9, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-8:
            break
    return beta[:-1], float(beta[-1])


def open_labels(
    labels: np.ndarray[Any, Any],
    texts: np.ndarray[Any, Any],
    logits: Floats,
) -> tuple[Floats, Floats]:
    """Targets and weights of windows, where those of open ones come from a model's logits.

    labels   (W,) 1, 0 or -1 for open
    texts    (W,) which text each window is of, ascending
    logits   (W,) what a model says of them

    Of a text's open windows the one with the highest logit is an attack; another one is as far as
    the model takes it for one, and counts half.
    """
    targets = labels.astype(np.float64)
    weights = np.ones(len(labels))
    opened = np.flatnonzero(labels < 0)
    if len(opened):
        targets[opened] = _sigmoid(logits[opened])
        weights[opened] = 0.5
        order = opened[np.lexsort((-logits[opened], texts[opened]))]
        first = np.concatenate([[True], texts[order][1:] != texts[order][:-1]])
        best = order[first]
        sure = np.isin(texts[best], texts[labels == 1])
        targets[best[~sure]] = 1.0
        weights[best] = 1.0
    return targets, weights


def _sums(values: Floats, starts: np.ndarray[Any, Any]) -> Floats:
    total = np.concatenate([np.zeros(1), np.cumsum(values)])
    return np.asarray(total[starts[1:]] - total[starts[:-1]])


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -60, 60))))
