"""The strict rules on NumPy arrays, and the values of P and Q at which a decode can go wrong.

Written apart from `interlock.strict`, on purpose: the probe judges graphs that it exports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.intp]
Scalar = np.floating[Any]


def p_cases(dtype: str) -> Array:
    """Numerators: ordinary, zero of both signs, the largest, not finite."""
    limits = np.finfo(dtype)
    values = [1.0, -3.0, 0.0, -0.0, limits.max, limits.smallest_subnormal, np.nan, np.inf, -np.inf]
    return np.array(values, dtype=dtype)


def q_cases(dtype: str, taus: Sequence[Scalar]) -> Array:
    """Denominators: each threshold and one ulp either side, both signs, and the special values."""
    limits = np.finfo(dtype)
    kind = np.dtype(dtype).type
    sizes: list[Any] = [kind(0), limits.smallest_subnormal, kind(1), limits.max, kind(np.inf)]
    for tau in taus:
        sizes += [np.nextafter(tau, kind(0)), tau, np.nextafter(tau, kind(np.inf))]
    sizes.append(kind(np.nan))
    return np.array([np.copysign(size, sign) for size in sizes for sign in (1, -1)], dtype=dtype)


@dataclass(frozen=True)
class Cases:
    """Batches of P and Q that hold every pair of the values `p` and `q`, in two layouts.

    p_shape, q_shape  shapes of P and Q for some batch; their first axis becomes `rows`

    First a row holds one value in all its elements: whatever its width, there are rows without a
    fault whose Q is at a threshold. Then it holds the value in one element and 1 in the others, so
    that a mask of the whole row has to look at each.
    """

    p: Array
    q: Array
    p_shape: tuple[int, ...]
    q_shape: tuple[int, ...]
    rows: int

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        if self.rows == 0:
            return
        total = len(self.p) * len(self.q)
        for fill in (self._all, self._one):
            for start in range(0, total, self.rows):
                # The last batch wraps around to stay full: the graph may have a fixed batch.
                pairs = (start + np.arange(self.rows)) % total
                yield (
                    fill(self.p[pairs // len(self.q)], pairs, self.p_shape),
                    fill(self.q[pairs % len(self.q)], pairs, self.q_shape),
                )

    def _all(self, values: Array, pairs: Indices, shape: tuple[int, ...]) -> Array:
        """Row r holds `values[r]` in every element."""
        return np.repeat(values, math.prod(shape[1:])).reshape(self.rows, *shape[1:])

    def _one(self, values: Array, pairs: Indices, shape: tuple[int, ...]) -> Array:
        """Row r holds `values[r]` in one element, in turn, and 1 in the others."""
        width = math.prod(shape[1:])
        filled = np.ones((self.rows, width), values.dtype)
        if width:
            filled[np.arange(self.rows), pairs % width] = values
        return filled.reshape(self.rows, *shape[1:])


@dataclass(frozen=True)
class Expected:
    """What the rules say: `decoded` in P's shape, the masks in theirs."""

    decoded: Array
    bottom: Array
    gap: Array


def expected(p: Array, q: Array, tau_infer: Scalar, tau_train: Scalar | None) -> Expected | None:
    """The strict rules for P and Q; None where their shapes do not belong together.

    fault: P, Q or P/Q is not finite. Bottom: a fault, |Q| < tau_infer or Q = 0. Gap:
    tau_infer <= |Q| < tau_train and not bottom. `decoded` is P/Q, NaN where bottom. Q has P's
    shape, or 1 as its last axis, and every element is judged; or it has P's leading axes only,
    and so have the masks: bottom where any element of the row is.
    """
    rowwise = 0 < q.ndim < p.ndim and p.shape[: q.ndim] == q.shape
    column = q.ndim == p.ndim > 1 and q.shape == (*p.shape[:-1], 1)
    if not (rowwise or column or q.shape == p.shape):
        return None
    wide = q.reshape(q.shape + (1,) * (p.ndim - q.ndim))
    with np.errstate(all="ignore"):
        quotient = p / wide
        size = np.abs(wide)
        fault = ~np.isfinite(p) | ~np.isfinite(wide) | ~np.isfinite(quotient)
        small = (size < tau_infer) | (wide == 0)
        within = size < (tau_infer if tau_train is None else tau_train)
    bottom: Array = fault | small
    near: Array = np.broadcast_to((size >= tau_infer) & within, bottom.shape)
    if rowwise:
        trailing = tuple(range(q.ndim, p.ndim))
        bottom = np.asarray(bottom.any(axis=trailing, keepdims=True))
        near = np.asarray(near.any(axis=trailing, keepdims=True))
    decoded = np.where(bottom, quotient.dtype.type(np.nan), quotient)
    masks = q.shape if rowwise else p.shape
    return Expected(decoded, bottom.reshape(masks), (near & ~bottom).reshape(masks))
