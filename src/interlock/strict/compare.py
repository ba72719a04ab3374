"""Compare strict answers with a reference: masks exactly, accepted values within rounding.

Two programs that compute the same model differ in the last bits of P and Q, and dividing by a
small Q magnifies that. What may differ is therefore derived from P and Q: with `eps` the machine
epsilon and `unit = 32 eps`, P may be off by `unit max(1, max|P|)` and Q by `unit max(1, max|Q|)`,
maxima over the finite values of the row. To first order the quotient is then off by

    (error of P + |P/Q| error of Q) / |Q|
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import BundleContractError
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult, strict_inference

Array = npt.NDArray[Any]

ROUNDING_UNITS = 32

_SHOWN = 3


@dataclass(frozen=True)
class Agreement:
    """Answers that agreed with their reference.

    rows             rows compared
    accepted         mask elements that both accept, `gap` of them in the gap
    bottom           mask elements that both refuse
    largest_error    largest absolute difference of accepted values
    tolerance_used   the largest difference as a share of what is allowed there, 0 … 1
    """

    rows: int
    accepted: int
    gap: int
    bottom: int
    largest_error: float
    tolerance_used: float


def rounding(values: Array) -> Array:
    """The absolute error that P or Q may have by rounding, row by row, as defined above.

    Has the rank of `values`, all axes but the first of length 1.
    """
    size = np.abs(values.astype(np.float64))
    size[~np.isfinite(size)] = 0.0
    largest = size.max(axis=tuple(range(1, values.ndim)), initial=1.0, keepdims=True)
    return np.asarray(ROUNDING_UNITS * float(np.finfo(values.dtype).eps) * largest)


def tolerance(p: Array, q: Array) -> Array:
    """By how much each value of P/Q may differ, in the shape of P, as float64.

    Infinite or NaN where Q is 0 or P/Q is not finite; such values are bottom anyway.
    """
    column = _aligned(q.astype(np.float64), p.ndim)
    with np.errstate(all="ignore"):
        quotient = np.abs(p.astype(np.float64) / column)
        allowed = (rounding(p) + quotient * _aligned(rounding(q), p.ndim)) / np.abs(column)
    return np.asarray(allowed, dtype=np.float64)


def near_threshold(q: Array, config: InferenceConfig) -> Array:
    """Where rounding of Q could move it across a threshold; bool, in the shape of Q."""
    found = np.zeros(q.shape, dtype=np.bool_)
    size = np.abs(q.astype(np.float64))
    for tau in config.in_format(q.dtype.name):
        if tau is not None:
            with np.errstate(invalid="ignore"):
                found |= np.abs(size - tau) <= rounding(q)
    return found


def compare_answers(
    answer: StrictResult, p: Array, q: Array, config: InferenceConfig, *, what: str
) -> Agreement:
    """Compare `answer` with the strict decode of the reference's P and Q, all NumPy arrays.

    Raises BundleContractError, whose message begins with `what`, says how many elements differ
    and where the first ones are; a difference in shape or dtype is one as well.
    """
    expected = strict_inference(p, q, config=config, engine="numpy")
    for name in StrictResult._fields:
        found, wanted = getattr(answer, name), getattr(expected, name)
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise BundleContractError(
                f"{what}: {name} is {found.dtype} {found.shape}; "
                f"the reference's is {wanted.dtype} {wanted.shape}"
            )
    for name in ("bottom_mask", "gap_mask"):
        differs = getattr(answer, name) != getattr(expected, name)
        if differs.any():
            raise BundleContractError(
                f"{what}: {name} differs from the reference {_places(differs)}",
                hint=_why_masks_differ(differs, q, config),
            )

    accepted = np.broadcast_to(_aligned(~expected.bottom_mask, p.ndim), expected.decoded.shape)
    with np.errstate(all="ignore"):
        error = np.abs(answer.decoded.astype(np.float64) - expected.decoded.astype(np.float64))
    used = error[accepted] / tolerance(p, q)[accepted]
    wrong = np.zeros(error.shape, dtype=np.bool_)
    # Written so that NaN counts as wrong.
    wrong[accepted] = ~(used <= 1)
    if wrong.any():
        raise BundleContractError(
            f"{what}: accepted values differ from the reference by up to "
            f"{float(np.nanmax(error[wrong], initial=0.0)):.3g}, more than rounding explains, "
            f"{_places(wrong)}"
        )
    if not np.isnan(answer.decoded[~accepted]).all():
        raise BundleContractError(f"{what}: decoded is not NaN everywhere where bottom_mask is set")
    return Agreement(
        rows=len(p),
        accepted=int((~expected.bottom_mask).sum()),
        gap=int(expected.gap_mask.sum()),
        bottom=int(expected.bottom_mask.sum()),
        largest_error=float(error[accepted].max(initial=0.0)),
        tolerance_used=float(used.max(initial=0.0)),
    )


def _aligned(array: Array, ndim: int) -> Array:
    """`array` with axes of length 1 added at its end, up to `ndim`."""
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


def _places(differs: Array) -> str:
    places = [tuple(int(axis) for axis in place) for place in np.argwhere(differs)[:_SHOWN]]
    more = ", …" if int(differs.sum()) > len(places) else ""
    shown = ", ".join(str(place[0] if len(place) == 1 else place) for place in places)
    return f"in {int(differs.sum())} of {differs.size} elements, at {shown}{more}"


def _why_masks_differ(differs: Array, q: Array, config: InferenceConfig) -> str | None:
    near = np.broadcast_to(_aligned(near_threshold(q, config), differs.ndim), differs.shape)
    if near[differs].all():
        return "|Q| is within rounding of a threshold there; leave these rows out"
    return None
