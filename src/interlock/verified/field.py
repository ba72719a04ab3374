"""Numbers as a circuit sees them: fixed point integers, and integers as elements of a prime field.

A value x at scale s is the integer round(x · 2^s), half away from zero, as ezkl rounds. A
negative integer -n is the element p - n of the scalar field of the curve BN254.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError

MODULUS = 0x30644E72E131A029B85045B68181585D2833E84879B9709143E1F593F0000001

LIMIT = 1 << 24
"""Integers of a slice's inputs and outputs stay below this in size: float32 holds them exactly."""

_LIMBS = np.frombuffer(MODULUS.to_bytes(32, "little"), dtype="<u8")


def quantise(values: Array, scale: int, name: str = "input") -> Array:
    """The int64 integers of float values at `scale`, same shape.

    Raises InputError, naming the tensor, for NaN, infinities and what exceeds the circuit's range.
    """
    if not np.isfinite(values).all():
        raise InputError(f"'{name}' holds values that are not finite")
    scaled = np.abs(np.asarray(values, dtype=np.float64)) * float(1 << scale)
    if values.size and scaled.max() >= LIMIT - 0.5:
        raise InputError(
            f"'{name}' holds a value outside the circuit's range of ±{LIMIT >> scale}",
            hint="scale the model's activations down, or leave this slice to ONNX",
        )
    return np.copysign(np.floor(scaled + 0.5), values).astype(np.int64)


def dequantise(integers: Array, scale: int) -> Array:
    """The float32 values of integers at `scale`; exact, as they are below `LIMIT`."""
    return (integers.astype(np.float64) / float(1 << scale)).astype(np.float32)


def integers_of(elements: Sequence[str]) -> Array:
    """int64 integers (n,) of field elements as ezkl writes them: 64 hex digits, low byte first.

    Raises InputError for a malformed element, and for one that is no integer below `LIMIT`.
    """
    try:
        # `fromhex` skips white space, so two elements could pass for one.
        if any(len(element) != 64 or not element.isalnum() for element in elements):
            raise ValueError
        limbs = np.frombuffer(bytes.fromhex("".join(elements)), dtype="<u8").reshape(-1, 4)
    except ValueError:
        raise InputError("an instance is no field element of 64 hex digits") from None
    low = limbs[:, 0]
    positive = (limbs[:, 1:] == 0).all(axis=1) & (low < LIMIT)
    distance = _LIMBS[0] - low
    # The modulus' lowest limb exceeds LIMIT, so a small negative integer borrows from no other.
    negative = (limbs[:, 1:] == _LIMBS[1:]).all(axis=1) & (distance < LIMIT) & (distance > 0)
    if not (positive | negative).all():
        raise InputError(f"an instance is not an integer below {LIMIT} in size")
    return np.where(positive, low.astype(np.int64), -distance.astype(np.int64))
