"""Strict decode: P/Q with a mask of what must not be used and a mask of what is near that.

For each element, with |Q| the absolute value or magnitude and both thresholds rounded to the
format of Q:

    fault     P, Q or P/Q is not finite
    semantic  |Q| < tau_infer, or Q = 0
    bottom    fault or semantic; the decoded value is NaN
    gap       tau_infer <= |Q| < tau_train and not bottom; the decoded value is usable

Everything else is accepted, |Q| = tau_infer included, and holds exactly the bits of P/Q. Which
shapes are taken, and when masks are per row, is in `interlock.strict.shapes`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import ConfigError, InputError
from interlock.strict import decode_numba
from interlock.strict.config import InferenceConfig, Thresholds
from interlock.strict.shapes import mask_shape
from interlock.strict.tensors import is_tensor

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Engine = Literal["auto", "numpy", "numba"]

DTYPES = {code: np.dtype(code).name for code in "efdFD"}
"""What P and Q may hold as NumPy arrays: NumPy's character code and name of each dtype."""

# Elements worked on at a time, so that scratch memory stays small however large the batch. At a
# million elements this also took 0.7 to 0.9 of the time of whole-array passes.
_BLOCK = 65_536

_NAN = {kind: complex(math.nan, math.nan) if kind == "c" else math.nan for kind in "fc"}


class StrictResult(NamedTuple):
    """What strict decode found; unpacks as `decoded, bottom_mask, gap_mask`.

    decoded      shape of P: P/Q, NaN where bottom
    bottom_mask  bool, per element or per row: the answer must not be used
    gap_mask     bool, same shape: usable, near the threshold; never true where bottom is

    Arrays for arrays, tensors for tensors. Further attributes may be absent: read them with
    `getattr(result, name, None)`.
    """

    decoded: Any
    bottom_mask: Any
    gap_mask: Any


def strict_inference(
    P: Any,
    Q: Any,
    *,
    config: InferenceConfig,
    out: tuple[Array, Array, Array] | None = None,
    engine: Engine = "auto",
) -> StrictResult:
    """Decode P/Q fail-closed: see the module's docstring for the rules.

    P, Q    both NumPy arrays (or NumPy scalars) of float16, float32, float64, complex64 or
            complex128, or both torch tensors of these or bfloat16 on one device. Where the two
            dtypes differ, the quotient has the wider one, as NumPy and torch promote; thresholds
            always compare in the format of Q. Any strides and byte order; subclasses are read as
            plain arrays, but masked arrays are refused. Inputs are never modified.
    out     NumPy only: arrays to fill and return, decoded (shape of P, dtype of the quotient)
            and two bool masks; they must not overlap P, Q or each other.
    engine  NumPy only: "numpy", "numba" (the extra; float32 and float64 of one dtype), or "auto",
            which takes numba once `decode_numba.compile_kernels()` has run in this process, so
            that compiling never delays a request. All give the same bits.

    Torch results carry no gradient. Complex numbers are judged by magnitude, which NumPy and torch
    compute without intermediate overflow and to within one unit in the last place, exactly where
    one component is 0; a finite Q whose magnitude overflows counts as large.

    Raises InputError for any other type, dtype or pair of shapes, ConfigError for a threshold
    that becomes 0 or infinite in the format of Q, and MissingExtraError.
    """
    if is_tensor(P) or is_tensor(Q):
        from interlock.strict import decode_torch

        if out is not None or engine != "auto":
            raise InputError("out and engine are for NumPy arrays; P or Q is a torch tensor")
        return StrictResult(*decode_torch.decode(P, Q, config))
    p, q = _plain("P", P), _plain("Q", Q)
    shape = mask_shape(p.shape, q.shape)
    thresholds = config.in_format(DTYPES[q.dtype.char])
    dtype = np.result_type(p.dtype, q.dtype)
    if out is None:
        decoded = np.empty(p.shape, dtype)
        bottom, gap = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
    else:
        decoded, bottom, gap = _checked_out(out, p, q, shape, dtype)
    compiled = _compiled(engine, p, q, (decoded, bottom, gap))
    decode = decode_numba.decode if compiled else _decode
    decode(p, q, thresholds, decoded, bottom, gap)
    return StrictResult(decoded, bottom, gap)


def _plain(name: str, value: object) -> Array:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise InputError(
            f"{name} is a {type(value).__name__}; P and Q must both be NumPy arrays or both "
            "torch tensors"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array; its mask would be lost", hint="fill it first")
    array = np.asarray(value)
    if array.dtype.char not in DTYPES:
        raise InputError(
            f"{name} has dtype {array.dtype}; it must be one of {', '.join(DTYPES.values())}"
        )
    return array


def _checked_out(
    out: tuple[Array, Array, Array], p: Array, q: Array, shape: tuple[int, ...], dtype: Any
) -> tuple[Array, Array, Array]:
    if not isinstance(out, tuple | list) or len(out) != 3:
        raise InputError("out must be a tuple of three arrays: decoded, bottom and gap")
    mask = (shape, np.dtype(np.bool_))
    wanted = ((p.shape, dtype), mask, mask)
    for name, array, (want_shape, want_dtype) in zip(
        StrictResult._fields, out, wanted, strict=True
    ):
        # A matrix or masked array would not fill as a plain one does.
        if type(array) not in (np.ndarray, np.memmap) or not array.flags.writeable:
            raise InputError(f"out: {name} is not a plain, writable NumPy array")
        if array.shape != want_shape or array.dtype != want_dtype:
            raise InputError(
                f"out: {name} is {array.dtype} {array.shape}; it must be {want_dtype} {want_shape}"
            )
    arrays = (*out, p, q)
    for index, array in enumerate(out):
        if any(np.may_share_memory(array, other) for other in arrays[index + 1 :]):
            raise InputError("out: an array overlaps P, Q or another output")
    return out


def _compiled(engine: Engine, p: Array, q: Array, out: tuple[Array, Array, Array]) -> bool:
    """Whether the compiled kernels are to decode these arrays."""
    if engine == "numpy":
        return False
    if engine == "auto":
        return decode_numba.compiled(p.dtype) and decode_numba.obstacle(p, q, out) is None
    if engine != "numba":
        raise ConfigError(f"engine is {engine!r}; it must be auto, numpy or numba")
    obstacle = decode_numba.obstacle(p, q, out)
    if obstacle is not None:
        raise InputError(f"engine 'numba': {obstacle}", hint="use engine 'numpy' or 'auto'")
    return True


def _decode(
    p: Array, q: Array, thresholds: Thresholds, decoded: Array, bottom: Mask, gap: Mask
) -> None:
    with np.errstate(all="ignore"):
        if p.size <= _BLOCK:
            _decode_block(p, q, thresholds, decoded, bottom, gap)
            return
        rows = max(1, _BLOCK * len(p) // p.size)
        for start in range(0, len(p), rows):
            part = slice(start, start + rows)
            _decode_block(p[part], q[part], thresholds, decoded[part], bottom[part], gap[part])


def _decode_block(
    p: Array, q: Array, thresholds: Thresholds, decoded: Array, bottom: Mask, gap: Mask
) -> None:
    """Fill the outputs; `bottom` holds what is accepted until it is inverted."""
    trailing = tuple(range(q.ndim, p.ndim))
    np.divide(p, q[(..., *(None for _ in trailing))] if trailing else q, out=decoded)
    finite = np.isfinite(decoded)
    if decoded.dtype.kind == "c":
        finite &= np.isfinite(p)
    if trailing:
        finite = np.all(finite, axis=trailing)
    size = np.abs(q)
    # A quotient by an infinite Q is finite, so Q is looked at as well. A real quotient of a P that
    # is not finite never is; of a complex one nothing promises that. NaN fails every comparison.
    usable = np.greater_equal(size, thresholds.infer)
    usable &= np.isfinite(q)
    np.logical_and(finite, usable, out=bottom)
    if thresholds.train is None:
        gap[...] = False
    else:
        np.logical_and(np.less(size, thresholds.train), bottom, out=gap)
    np.logical_not(bottom, out=bottom)
    where = bottom[(..., *(None for _ in trailing))] if trailing else bottom
    np.copyto(decoded, _NAN[decoded.dtype.kind], where=where)
