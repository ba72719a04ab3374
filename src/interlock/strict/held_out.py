"""Held-out rows: |Q| and whether the answer is unsafe, and the sets that thresholds accept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError
from interlock.strict.tensors import to_numpy

DTYPES = ("float16", "float32", "float64")
"""What |Q| may be compared in."""


@dataclass(frozen=True)
class AcceptedSets:
    """What each threshold accepts, from the highest |Q| to the lowest.

    tau       (m,) every distinct usable |Q|, descending, in the dtype of Q
    accepted  (m,) rows with |Q| >= tau
    unsafe    (m,) how many of these are unsafe
    """

    tau: npt.NDArray[Any]
    accepted: npt.NDArray[np.int64]
    unsafe: npt.NDArray[np.int64]

    def down_to(self, tau: float) -> AcceptedSets:
        """The sets of thresholds from `tau` up."""
        kept = self.tau >= np.asarray(tau, self.tau.dtype)
        return AcceptedSets(self.tau[kept], self.accepted[kept], self.unsafe[kept])


@dataclass(frozen=True)
class HeldOut:
    """Rows that were not trained on.

    q       (n,) |Q| in the dtype that the deployed decode compares in; 0 where no threshold
            accepts the row, because |Q| is 0, NaN or infinite
    unsafe  (n,) bool: accepting the row would do harm
    """

    q: npt.NDArray[Any]
    unsafe: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.q)

    def rows(self, index: npt.NDArray[np.intp]) -> HeldOut:
        """The rows at `index`."""
        return HeldOut(self.q[index], self.unsafe[index])

    def digest(self) -> str:
        """`sha256:<hex>` of dtype, number of rows, |Q| (little-endian) and the unsafe rows."""
        found = hashlib.sha256(f"{self.q.dtype.name} {len(self.q)}\n".encode())
        found.update(self.q.astype(self.q.dtype.newbyteorder("<")).tobytes())
        found.update(np.packbits(self.unsafe).tobytes())
        return f"sha256:{found.hexdigest()}"

    def accepted_sets(self) -> AcceptedSets:
        """The sets that thresholds accept, one for each distinct usable |Q|."""
        usable = self.q > 0
        q, unsafe = self.q[usable], self.unsafe[usable]
        order = np.argsort(q, kind="stable")[::-1]
        q = q[order]
        last = np.flatnonzero(np.append(q[1:] != q[:-1], True)) if len(q) else np.arange(0)
        counts = np.cumsum(unsafe[order], dtype=np.int64)
        return AcceptedSets(q[last], last.astype(np.int64) + 1, counts[last])


def read_held_out(
    q_abs: Any, loss: Any, *, tolerance: float | None = None, dtype: str | None = None
) -> HeldOut:
    """Read |Q| and the loss of each held-out row.

    q_abs      (n,) or (n, 1): |Q|, floating point, array or tensor, no value below 0
    loss       (n,) or (n, 1): without `tolerance` bool or the numbers 0 and 1, true where the
               answer is unsafe; with it any real number, unsafe above it. NaN is unsafe.
    dtype      float16, float32 or float64: what the deployed decode compares |Q| in; by default
               the dtype of `q_abs`, which is else rounded to it

    Raises InputError for other shapes, dtypes and values.
    """
    q = _column("q_abs", q_abs)
    if q.dtype.kind != "f":
        raise InputError(f"q_abs has dtype {q.dtype}; it must be one of {', '.join(DTYPES)}")
    name = q.dtype.name if dtype is None else dtype
    if name not in DTYPES:
        raise InputError(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}")
    if (q < 0).any():
        raise InputError("q_abs has values below 0", hint="give the magnitude: numpy.abs(Q)")
    with np.errstate(over="ignore"):
        q = q.astype(name)
    q = np.where(np.isfinite(q), q, np.zeros((), q.dtype))
    unsafe = _unsafe(_column("loss", loss), tolerance)
    if len(q) != len(unsafe):
        raise InputError(f"q_abs has {len(q)} rows and loss has {len(unsafe)}")
    return HeldOut(q, unsafe)


def _column(name: str, value: Any) -> npt.NDArray[Any]:
    array = to_numpy(name, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"{name} has shape {array.shape}; it must be (n,) or (n, 1)",
            hint="one value for each row: several outputs of one row are not independent. Take "
            "the smallest |Q| of a row, and count it as unsafe if any of its values is",
        )
    return array


def _unsafe(loss: npt.NDArray[Any], tolerance: float | None) -> npt.NDArray[np.bool_]:
    if loss.dtype.kind not in "bfiu":
        raise InputError(f"loss has dtype {loss.dtype}; it must be bool or real")
    if tolerance is None:
        if loss.dtype.kind != "b" and not (np.isnan(loss) | (loss == 0) | (loss == 1)).all():
            raise InputError(
                "loss has values other than 0 and 1, and no tolerance is given",
                hint="tolerance is the largest loss that is still safe",
            )
        return np.asarray(~(loss == 0))
    if loss.dtype.kind == "b":
        raise InputError("loss is bool, which takes no tolerance")
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not (number and math.isfinite(tolerance)):
        raise InputError(f"tolerance is {tolerance!r}; it must be a finite number")
    # The tolerance is rounded to the dtype of the loss; where it overflows there, an infinite loss
    # is above it all the same. Written so that NaN is unsafe: a comparison with NaN is false.
    with np.errstate(over="ignore"):
        return np.asarray(~((loss <= float(tolerance)) & (loss < np.inf)))
