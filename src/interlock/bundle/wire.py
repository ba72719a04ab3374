"""A look at a model's wire format before it is parsed, so that parsing cannot exhaust memory.

A message of two bytes takes a hundred or more once parsed. The floats and raw data of tensors are
only copied, so they are set apart; all other bytes together must stay below a limit.
"""

from __future__ import annotations

from typing import Any

from interlock.bundle.limits import BundleLimits
from interlock.bundle.manifest import MODEL
from interlock.kernel.errors import BundleFormatError

# The fields on the way to a tensor's data, by number: model.graph (7) to its initializers (5),
# and to its nodes (1), their attributes (5) and the tensor there (5). In a tensor: float_data,
# raw_data, double_data.
_TENSOR: dict[int, Any] = {4: None, 9: None, 10: None}
_MODEL: dict[int, Any] = {7: {5: _TENSOR, 1: {5: {5: _TENSOR}}}}

_SMALL = 4096


def check_wire(data: bytes, limits: BundleLimits) -> None:
    """Raise BundleFormatError where `data` is malformed or has too many bytes of structure."""
    # A field takes two bytes at least, so this many of them break the limit by themselves.
    scan = _Scan(data, fields=min(limits.max_structure_bytes // 2, 10 * limits.max_nodes))
    structure = len(data) - scan.bulk(0, len(data), _MODEL)
    if structure > limits.max_structure_bytes:
        raise BundleFormatError(
            f"{MODEL} has {structure} bytes beside its tensors' data; "
            f"the limit is {limits.max_structure_bytes}",
            hint="BundleLimits(max_structure_bytes=…) allows more",
        )


class _Scan:
    """Walks over fields, and over so many only."""

    def __init__(self, data: bytes, fields: int) -> None:
        self._data = data
        self._left = fields

    def bulk(self, start: int, end: int, inside: dict[int, Any]) -> int:
        """Bytes of tensor data in the message between `start` and `end`."""
        found = 0
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise BundleFormatError(f"{MODEL} has too many fields for its limits")
            tag, at = self._varint(at, end)
            match tag & 7:
                case 0:
                    _, at = self._varint(at, end)
                case 1:
                    at += 8
                case 5:
                    at += 4
                case 2:
                    size, at = self._varint(at, end)
                    if size > end - at:
                        raise _malformed()
                    if size >= _SMALL and tag >> 3 in inside:
                        deeper = inside[tag >> 3]
                        found += size if deeper is None else self.bulk(at, at + size, deeper)
                    at += size
                case _:
                    raise _malformed()
        if at != end:
            raise _malformed()
        return found

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _malformed()


def _malformed() -> BundleFormatError:
    return BundleFormatError(f"{MODEL} is not an ONNX model: its wire format is malformed")
