"""Arrays as the Open Inference Protocol's tensors: data types, JSON data and binary data."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
_MOST_RANK = 16
_MOST_EMPTY = 1 << 20
"""Elements, its zeros left out, of a shape that has none: no body stands for its rows."""

_LENGTH = struct.Struct("<I")


def datatype_of(dtype: str) -> str:
    """The protocol's data type of a numpy dtype, "string" for text; raises InputError."""
    if dtype not in DATATYPES:
        raise InputError(f"tensors of {dtype} have no data type in the Open Inference Protocol")
    return DATATYPES[dtype]


def check_shape(name: str, shape: list[int]) -> int:
    """The number of elements; raises InputError for a shape that no array has."""
    if len(shape) > _MOST_RANK or any(size < 0 for size in shape):
        raise InputError(f"input '{name}': its shape must have up to {_MOST_RANK} sizes from 0")
    # Without its zeros, too: numpy counts the strides of an array that has no elements, and what
    # answers by rows makes room for each.
    if math.prod(size for size in shape if size) >= (_MOST_EMPTY if 0 in shape else 1 << 40):
        raise InputError(f"input '{name}': its shape has too many elements")
    return math.prod(shape)


def text_array(texts: list[str], shape: Sequence[int] = (-1,)) -> Array:
    """The array of `texts`, which numpy would otherwise pad to one length."""
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array.reshape(shape)


def from_json(name: str, datatype: str, shape: list[int], data: Any) -> Array:
    """The array of JSON `data`, flat or nested; raises InputError for what does not fit."""
    count = check_shape(name, shape)
    dtype = _dtype(name, datatype)
    if not isinstance(data, list):
        raise InputError(f"input '{name}': data must be a list")
    if dtype == "string":
        return _texts(name, data, shape, count)
    if not _holds_numbers(data):
        raise InputError(f"input '{name}': data holds something else than {datatype}")
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError):
        raise InputError(f"input '{name}': data has lists of unequal length") from None
    if dtype == "uint64" and found.dtype.kind in "fO":
        found = _large_integers(data, found)
    if found.size != count:
        raise InputError(f"input '{name}': data has {found.size} elements; its shape has {count}")
    return _fit(name, datatype, np.dtype(dtype), found).reshape(shape)


def from_binary(name: str, datatype: str, shape: list[int], data: memoryview) -> Array:
    """The array of binary `data`: little-endian, row-major; text as length and bytes."""
    count = check_shape(name, shape)
    dtype = _dtype(name, datatype)
    if dtype == "string":
        return _from_lengths(name, data, shape, count)
    kind = np.dtype(dtype).newbyteorder("<")
    if len(data) != count * kind.itemsize:
        raise InputError(
            f"input '{name}': {len(data)} bytes of binary data; its shape and data type "
            f"need {count * kind.itemsize}"
        )
    if dtype == "bool" and len(data) and max(data) > 1:
        raise InputError(f"input '{name}': a BOOL is neither 0 nor 1")
    # A copy is aligned, and lets go of the request's body.
    return np.frombuffer(data, dtype=kind).reshape(shape).astype(np.dtype(dtype), copy=True)


def to_json(array: Array) -> list[Any]:
    """Flat, row-major; NaN and infinities, which JSON lacks, become null when encoded."""
    if array.dtype.kind in "OUS":
        return [_text(item) for item in array.ravel().tolist()]
    found: list[Any] = array.ravel().tolist()
    return found


def to_binary(array: Array) -> bytes:
    """Little-endian, row-major; text as length and bytes."""
    if array.dtype.kind in "OUS":
        parts = []
        for item in array.ravel().tolist():
            raw = item if isinstance(item, bytes) else str(item).encode()
            parts += [_LENGTH.pack(len(raw)), raw]
        return b"".join(parts)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def _dtype(name: str, datatype: str) -> str:
    if datatype not in _DTYPES:
        raise InputError(
            f"input '{name}': data type {datatype[:20]!r} is unknown",
            hint=f"known are {', '.join(_DTYPES)}",
        )
    return _DTYPES[datatype]


def _fit(name: str, datatype: str, dtype: np.dtype[Any], found: Array) -> Array:
    if found.size == 0:
        return np.zeros(found.shape, dtype=dtype)
    if found.dtype.kind == "O":
        found = _wide_integers(name, datatype, dtype, found)
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if found.dtype.kind not in allowed:
        raise InputError(f"input '{name}': data holds something else than {datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise InputError(f"input '{name}': a number is out of the range of {datatype}")
        return found.astype(dtype)
    with np.errstate(over="ignore"):
        fitted = found.astype(dtype)
    if dtype.kind == "f" and not np.array_equal(np.isfinite(fitted), np.isfinite(found)):
        raise InputError(f"input '{name}': a number is out of the range of {datatype}")
    return fitted


def _holds_numbers(data: list[Any]) -> bool:
    """Whether there are only numbers, or only truth values, in lists as deep as an array may be.

    Looked at before numpy does: of one long text among many numbers it would make an array with
    room for that text in each of its elements.
    """
    level = data
    for _ in range(_MOST_RANK):
        kinds = set(map(type, level))
        if list not in kinds:
            return kinds <= {int, float} or kinds == {bool}
        if len(kinds) > 1:
            return True  # numpy makes no array of lists beside something else
        level = list(chain.from_iterable(level))
    return not level


def _wide_integers(name: str, datatype: str, dtype: np.dtype[Any], found: Array) -> Array:
    """Floats of numbers with integers beyond 64 bits among them, which numpy keeps as objects."""
    try:
        if dtype.kind == "f":
            return found.astype(np.float64)
    except OverflowError:
        pass
    else:
        if not all(type(item) is int for item in found.ravel().tolist()):
            return found
    raise InputError(f"input '{name}': a number is out of the range of {datatype}")


def _large_integers(data: list[Any], found: Array) -> Array:
    """`data` as uint64 where it holds integers only: numpy makes floats of a mixture above 2^63."""
    exact = np.array(data, dtype=object)
    if not all(type(item) is int and 0 <= item < 1 << 64 for item in exact.ravel().tolist()):
        return found
    return exact.astype(np.uint64)


def _texts(name: str, data: list[Any], shape: list[int], count: int) -> Array:
    flat: list[str] = []
    waiting = [iter(data)]
    while waiting:
        for item in waiting[-1]:
            if isinstance(item, list):
                waiting.append(iter(item))
                break
            if not isinstance(item, str):
                raise InputError(f"input '{name}': data holds something else than text")
            flat.append(item)
        else:
            waiting.pop()
    if len(flat) != count:
        raise InputError(f"input '{name}': data has {len(flat)} elements; its shape has {count}")
    return text_array(flat, shape)


def _from_lengths(name: str, data: memoryview, shape: list[int], count: int) -> Array:
    found: list[str] = []
    at = 0
    while at < len(data):
        end = at + _LENGTH.size
        if end > len(data):
            raise InputError(f"input '{name}': binary data ends within a length")
        (length,) = _LENGTH.unpack(data[at:end])
        at = end + length
        if at > len(data):
            raise InputError(f"input '{name}': binary data ends within a text")
        try:
            found.append(str(data[end:at], "utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"input '{name}': a text is not UTF-8") from None
    if len(found) != count:
        raise InputError(f"input '{name}': {len(found)} texts; its shape has {count}")
    return text_array(found, shape)


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
