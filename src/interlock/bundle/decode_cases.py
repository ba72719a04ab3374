"""The strict rules on NumPy arrays, and the values of P and Q at which a decode can go wrong.

Written apart from `interlock.strict`, on purpose: the probe judges graphs that it exports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
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
    """Batches of P and Q that hold every pair of the values `p` and `q`.

    p_shape, q_shape  shapes of P and Q for some batch; along `axis` it becomes `rows`
    """

    p: Array
    q: Array
    p_shape: tuple[int, ...]
    q_shape: tuple[int, ...]
    axis: int
    rows: int

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        if self.rows == 0:
            return
        total = len(self.p) * len(self.q)
        for start in range(0, total, self.rows):
            # The last batch wraps around to stay full: the graph may have a fixed batch.
            pairs = (start + np.arange(self.rows)) % total
            yield (
                self._fill(self.p, pairs // len(self.q), self.p_shape),
                self._fill(self.q, pairs % len(self.q), self.q_shape),
            )

    def _fill(self, values: Array, first: Array, shape: tuple[int, ...]) -> Array:
        """Row r holds value `first[r]` and, in its further elements, the values after it."""
        if len(shape) <= self.axis:
            return np.full(shape, values[first[0]])
        rest = shape[: self.axis] + shape[self.axis + 1 :]
        count = int(np.prod(rest, dtype=np.int64))
        index = (first[:, None] + np.arange(count)) % len(values)
        return np.moveaxis(values[index].reshape(self.rows, *rest), 0, self.axis)


@dataclass(frozen=True)
class Expected:
    """What the rules say: `decoded` in P's shape, the masks in theirs."""

    decoded: Array
    bottom: Array
    gap: Array


def expected(
    p: Array, q: Array, tau_infer: Scalar, tau_train: Scalar | None, mask_shape: tuple[int, ...]
) -> Expected | None:
    """The strict rules for P and Q; None where masks of `mask_shape` cannot belong to them.

    fault: P, Q or P/Q is not finite. Bottom: a fault, |Q| < tau_infer or Q = 0. Gap:
    tau_infer <= |Q| < tau_train and not bottom. `decoded` is P/Q, NaN where bottom. A mask with
    fewer elements than P/Q is a row's: bottom where any element of the row is.
    """
    wide = q.reshape(q.shape + (1,) * (p.ndim - q.ndim))
    with np.errstate(all="ignore"):
        try:
            quotient = p / wide
        except ValueError:
            return None
        size = np.abs(wide)
        fault = ~np.isfinite(p) | ~np.isfinite(wide) | ~np.isfinite(quotient)
        small = (size < tau_infer) | (wide == 0)
        within = size < (tau_infer if tau_train is None else tau_train)
    element = fault | small
    near = np.broadcast_to((size >= tau_infer) & within, element.shape)
    collapsed = mask_shape + (1,) * (element.ndim - len(mask_shape))
    if len(collapsed) != element.ndim or any(
        mask not in (1, full) for mask, full in zip(collapsed, element.shape, strict=True)
    ):
        return None
    axes = tuple(
        axis
        for axis, (mask, full) in enumerate(zip(collapsed, element.shape, strict=True))
        if mask != full
    )
    bottom: Array = element.any(axis=axes, keepdims=True)
    gap: Array = near.any(axis=axes, keepdims=True) & ~bottom
    decoded = np.where(bottom, quotient.dtype.type(np.nan), quotient)
    return Expected(decoded, bottom.reshape(mask_shape), gap.reshape(mask_shape))
