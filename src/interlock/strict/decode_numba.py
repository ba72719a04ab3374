"""Strict decode of NumPy arrays in one fused pass, compiled by numba (extra `numba`).

Bit for bit what `interlock.strict.decode` does, on one thread, and without the interpreter's lock
while it runs. Kernels are compiled in memory, per dtype, by `compile_kernels` or by the first use
of engine "numba"; no compiled file is kept on disk, so a read-only installation is no concern.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import MissingExtraError
from interlock.strict.config import Thresholds

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class _Kernels(NamedTuple):
    elements: Callable[..., None]
    columns: Callable[..., None]
    rows: Callable[..., None]


_compiled: dict[np.dtype[Any], _Kernels] = {}


def compile_kernels() -> None:
    """Compile for float32 and float64, a second or two; from then on engine "auto" uses them.

    Raises MissingExtraError where numba is not installed.
    """
    for dtype in _DTYPES:
        _kernels(dtype)


def compiled(dtype: np.dtype[Any]) -> bool:
    """Whether kernels for `dtype` are ready, so that decoding will not wait for the compiler."""
    return dtype in _compiled


def obstacle(p: Array, q: Array, out: tuple[Array, Array, Array]) -> str | None:
    """Why these arrays cannot be decoded here, or None where they can."""
    if p.dtype != q.dtype or p.dtype not in _DTYPES:
        return f"P is {p.dtype} and Q is {q.dtype}; it takes float32 or float64, both the same"
    if not all(array.flags.c_contiguous and array.flags.aligned for array in (p, q, *out)):
        return "it takes C-contiguous arrays"
    return None


def decode(
    p: Array, q: Array, thresholds: Thresholds, decoded: Array, bottom: Mask, gap: Mask
) -> None:
    """Fill `decoded`, `bottom` and `gap`; the shapes belong together and `obstacle` is None."""
    dtype = p.dtype.type
    infer = dtype(thresholds.infer)
    # No magnitude is below 0, so without a training threshold nothing is in the gap.
    train = dtype(0 if thresholds.train is None else thresholds.train)
    kernels = _kernels(p.dtype)
    masks = (bottom.reshape(-1).view(np.uint8), gap.reshape(-1).view(np.uint8))
    flat = (p.reshape(-1), q.reshape(-1), infer, train, decoded.reshape(-1), *masks)
    if p.size == q.size:
        kernels.elements(*flat)
    elif q.ndim == p.ndim:
        kernels.columns(*flat)
    else:
        kernels.rows(*flat)


def _kernels(dtype: np.dtype[Any]) -> _Kernels:
    if dtype not in _compiled:
        _compiled[dtype] = _compile(dtype)
    return _compiled[dtype]


def _compile(dtype: np.dtype[Any]) -> _Kernels:
    try:
        import numba
    except ImportError:
        raise MissingExtraError("numba", "engine 'numba'") from None
    number = numba.from_dtype(dtype)
    read = numba.types.Array(number, 1, "C", readonly=True)
    masks = numba.uint8[::1]
    signature = numba.void(read, read, number, number, number[::1], masks, masks)
    # The "numpy" error model divides by zero as IEEE 754 says; fastmath would assume that NaN
    # and infinities never occur.
    build = numba.njit(signature, error_model="numpy", fastmath=False, nogil=True)
    return _Kernels(build(_elements), build(_columns), build(_rows))


def _elements(
    p: Array, q: Array, infer: float, train: float, decoded: Array, bottom: Array, gap: Array
) -> None:
    for i in range(p.size):
        quotient = p[i] / q[i]
        size = abs(q[i])
        accepted = (size >= infer) & (size < math.inf) & (abs(quotient) < math.inf)
        decoded[i] = quotient if accepted else math.nan
        bottom[i] = not accepted
        gap[i] = accepted & (size < train)


def _columns(
    p: Array, q: Array, infer: float, train: float, decoded: Array, bottom: Array, gap: Array
) -> None:
    width = p.size // q.size if q.size else 0
    for row in range(q.size):
        size = abs(q[row])
        usable = (size >= infer) & (size < math.inf)
        near = size < train
        for i in range(row * width, row * width + width):
            quotient = p[i] / q[row]
            accepted = usable & (abs(quotient) < math.inf)
            decoded[i] = quotient if accepted else math.nan
            bottom[i] = not accepted
            gap[i] = accepted & near


def _rows(
    p: Array, q: Array, infer: float, train: float, decoded: Array, bottom: Array, gap: Array
) -> None:
    width = p.size // q.size if q.size else 0
    for row in range(q.size):
        size = abs(q[row])
        accepted = (size >= infer) & (size < math.inf)
        for i in range(row * width, row * width + width):
            quotient = p[i] / q[row]
            accepted &= abs(quotient) < math.inf
            decoded[i] = quotient
        if not accepted:
            decoded[row * width : row * width + width] = math.nan
        bottom[row] = not accepted
        gap[row] = accepted & (size < train)
