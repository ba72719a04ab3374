"""A look at a model's wire format before it is parsed, so that parsing cannot exhaust memory.

A message of two bytes takes a hundred or more once parsed. The raw data of initializers is only
copied, so it is set apart; all other bytes together must stay below a limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from interlock.bundle.limits import BundleLimits
from interlock.bundle.manifest import MODEL
from interlock.kernel.errors import BundleFormatError

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_BYTES = 2
_FIXED = {1: 8, 5: 4}


def check_wire(data: bytes, limits: BundleLimits) -> None:
    """Raise BundleFormatError where `data` is truncated or has too many bytes of structure."""
    if len(data) <= limits.max_structure_bytes:
        return
    raw = 0
    for graph, start, end in _fields(data, 0, len(data)):
        if graph != _GRAPH:
            continue
        for initializer, inner, inner_end in _fields(data, start, end):
            if initializer != _INITIALIZER or inner_end - inner < 4096:
                continue
            for field, first, last in _fields(data, inner, inner_end):
                if field == _RAW_DATA:
                    raw += last - first
    if len(data) - raw > limits.max_structure_bytes:
        raise BundleFormatError(
            f"{MODEL} has {len(data) - raw} bytes beside its initializers' raw data; "
            f"the limit is {limits.max_structure_bytes}"
        )


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field between `start` and `end`."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise BundleFormatError(f"{MODEL} is not an ONNX model: truncated")
            yield tag >> 3, at, at + size
            at += size
        else:
            raise BundleFormatError(f"{MODEL} is not an ONNX model: wire type {kind}")
    if at != end:
        raise BundleFormatError(f"{MODEL} is not an ONNX model: truncated")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BundleFormatError(f"{MODEL} is not an ONNX model: truncated")
