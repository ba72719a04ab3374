"""What the masks of one batch add up to, by element and by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError
from interlock.strict.tensors import to_numpy

Mask = npt.NDArray[np.bool_]

SIDES = ("fault", "semantic_bottom", "numerical_hazard", "gap", "route")
"""What is counted beside bottom, where it is given."""

# Codes of bottom provenance: 0 is finite, 3 is both.
_FAULT, _SEMANTIC = 1, 2
_MOST_CODE = 3

# Sorting values into a sketch costs as much as decoding them, so a large batch gives a sample.
_MOST_MAGNITUDES = 4_096

# Below this many elements, Python's bytes count faster than a call into NumPy starts.
_FEW = 256
_MANY = 65_536
_BLOCK = 262_144
# Up to this width, one pass a column is faster than a reduction along rows.
_NARROW = 32


BatchCounts = tuple[int, int, dict[str, int], int, int]
"""Elements, those that are bottom, those of each side that was given; rows, those accepted.

A plain tuple: making a named one would take a tenth of an update with one row.
"""


def count_batch(
    bottom_mask: Any,
    gap_mask: Any = None,
    route_mask: Any = None,
    fault_mask: Any = None,
    semantic_bottom_mask: Any = None,
    bottom_provenance: Any = None,
    numerical_hazard_mask: Any = None,
) -> BatchCounts:
    """Count masks that are arrays or tensors; a row is accepted where no element is bottom.

    Raises InputError for shapes that do not belong together, for what is not bool (codes aside),
    and where bottom and gap overlap.
    """
    bottom = _mask("bottom_mask", bottom_mask)
    size = bottom.size
    sides: dict[str, int] = {}
    if gap_mask is None:
        n_bottom = _count(bottom)
    else:
        gap = _mask("gap_mask", gap_mask)
        if gap.shape != bottom.shape:
            gap = beside("gap_mask", gap, bottom)
        n_bottom, sides["gap"], overlap = _count_both(bottom, gap)
        if overlap:
            raise InputError("bottom_mask and gap_mask overlap; they must be disjoint")
    if route_mask is not None:
        sides["route"] = _count(beside("route_mask", _mask("route_mask", route_mask), bottom))
    if not (fault_mask is semantic_bottom_mask is bottom_provenance is None):
        reasons = _reasons(bottom, fault_mask, semantic_bottom_mask, bottom_provenance)
        sides["fault"], sides["semantic_bottom"] = reasons
    if numerical_hazard_mask is not None:
        hazard = _mask("numerical_hazard_mask", numerical_hazard_mask)
        hazard = beside("numerical_hazard_mask", hazard, bottom)
        sides["numerical_hazard"] = _count(hazard & ~bottom)
    if bottom.ndim == 1:
        return size, n_bottom, sides, size, size - n_bottom
    rows = len(bottom) if bottom.ndim else 1
    accepted = rows - (_rows_with(bottom) if n_bottom else 0)
    return size, n_bottom, sides, rows, accepted


def magnitudes(q_abs: Any, bottom_mask: Any) -> tuple[float, npt.NDArray[Any]]:
    """The least of |Q|, infinite where there is none, and at most 4,096 of them, evenly spaced.

    Its shape is the mask's, or the mask's with the last axis 1, or the mask's leading axes. Raises
    InputError for other shapes, for what is not floating, and for a value below 0.
    """
    array = to_numpy("q_abs", q_abs)
    if array.dtype.kind != "f":
        raise InputError(
            f"q_abs has dtype {array.dtype}; it must be floating",
            hint="the magnitude of a complex Q is np.abs(Q)",
        )
    shape = tuple(bottom_mask.shape)
    if array.shape != shape[: array.ndim] and array.shape != (*shape[:-1], 1):
        raise InputError(f"q_abs has shape {array.shape} and bottom_mask {shape}")
    # fmin passes over NaN, which a fault leaves.
    least = float(np.fmin.reduce(array, axis=None, initial=np.inf))
    if least < 0:
        raise InputError("q_abs has a value below 0; it must be |Q|")
    return least, array.ravel()[:: -(-array.size // _MOST_MAGNITUDES) or 1]


def beside(name: str, array: npt.NDArray[Any], bottom: Mask) -> npt.NDArray[Any]:
    """`array` in the shape of `bottom`: as it is, or one entry a row repeated along the row.

    Raises InputError, with `name`, for any other shape.
    """
    if array.shape == bottom.shape:
        return array
    lacking = bottom.ndim - array.ndim
    if lacking > 0 and array.ndim and array.shape == bottom.shape[: array.ndim]:
        return np.broadcast_to(array[(..., *(None,) * lacking)], bottom.shape)
    raise InputError(
        f"{name} has shape {array.shape} and bottom_mask {bottom.shape}; they must be equal, or "
        f"{name} must have one entry a row"
    )


def _mask(name: str, value: Any) -> Mask:
    array = value if type(value) is np.ndarray else to_numpy(name, value)
    if array.dtype.char != "?":
        raise InputError(f"{name} has dtype {array.dtype}; it must be bool")
    return array


def _reasons(bottom: Mask, fault: Any, semantic: Any, codes: Any) -> tuple[int, int]:
    """Faults and semantic bottoms, from two masks, from codes, or from both where they agree."""
    found = []
    if codes is not None:
        array = to_numpy("bottom_provenance", codes)
        if array.dtype.kind not in "iu":
            raise InputError(f"bottom_provenance has dtype {array.dtype}; it must be an integer")
        array = beside("bottom_provenance", array, bottom)
        if array.size and not 0 <= array.min() <= array.max() <= _MOST_CODE:
            raise InputError(f"bottom_provenance has a code outside 0 … {_MOST_CODE}")
        found.append(((array & _FAULT) != 0, (array & _SEMANTIC) != 0))
    if fault is not None or semantic is not None:
        if fault is None or semantic is None:
            raise InputError("fault_mask and semantic_bottom_mask belong together; one is missing")
        name = "semantic_bottom_mask"
        semantics = beside(name, _mask(name, semantic), bottom)
        found.append((beside("fault_mask", _mask("fault_mask", fault), bottom), semantics))
    pairs = [(faults & bottom, semantics & bottom) for faults, semantics in found]
    if any(not np.array_equal(one, other) for one, other in zip(pairs[0], pairs[-1], strict=True)):
        raise InputError("bottom_provenance disagrees with fault_mask and semantic_bottom_mask")
    return _count(pairs[0][0]), _count(pairs[0][1])


def _count(mask: Mask) -> int:
    """How many entries are set."""
    if mask.size <= _FEW:
        return mask.size - mask.tobytes().count(0)
    if mask.size < _MANY or not mask.flags.c_contiguous:
        return int(np.count_nonzero(mask))
    # Eight entries at a time as one integer: a byte holds the sum of 255 of them. Two thirds of the
    # time of count_nonzero at a million.
    flat = mask.reshape(-1)
    words = flat.size // (8 * 255)
    sums = np.add.reduce(flat[: words * 8 * 255].view(np.uint64).reshape(255, words), axis=0)
    return int(sums.view(np.uint8).sum()) + int(np.count_nonzero(flat[words * 8 * 255 :]))


def _count_both(one: Mask, other: Mask) -> tuple[int, int, bool]:
    """How many entries are set in each, and whether one is set in both; the shapes are equal."""
    if one.size <= _FEW:
        first, second = one.tobytes(), other.tobytes()
        ones, others = one.size - first.count(0), one.size - second.count(0)
        if not (ones and others):
            return ones, others, False
        both = int.from_bytes(first, "little") & int.from_bytes(second, "little")
        return ones, others, bool(both)
    if one.size < _MANY or not (one.flags.c_contiguous and other.flags.c_contiguous):
        ones, others = int(np.count_nonzero(one)), int(np.count_nonzero(other))
        return ones, others, bool(ones and others and (one & other).any())
    # In blocks that stay in the second cache, so that both masks are fetched once.
    one, other = one.reshape(-1), other.reshape(-1)
    scratch = np.empty(_BLOCK, np.bool_)
    ones = others = 0
    overlap = False
    for start in range(0, one.size, _BLOCK):
        left, right = one[start : start + _BLOCK], other[start : start + _BLOCK]
        ones += int(np.count_nonzero(left))
        others += int(np.count_nonzero(right))
        overlap |= bool(np.logical_and(left, right, out=scratch[: left.size]).any())
    return ones, others, overlap


def _rows_with(mask: Mask) -> int:
    """In how many rows (entries of the first axis) an element is set."""
    if mask.ndim == 0:
        return _count(mask)
    flat = mask.reshape(len(mask), -1)
    if flat.shape[1] > _NARROW:
        return int(np.count_nonzero(flat.any(axis=1)))
    found = flat[:, 0].copy()
    for column in range(1, flat.shape[1]):
        found |= flat[:, column]
    return _count(found)
