"""Strict decode of one pair by exact rational arithmetic; shares no code with the product.

Rules and rounding are written out from their definitions, for any binary format.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

# format: (significand bits with the hidden one, exponent of the smallest subnormal, largest value)
_LIMITS = {
    "float16": (11, -24, Fraction(65504)),
    "bfloat16": (8, -133, Fraction(255) * Fraction(2) ** 120),
    "float32": (24, -149, Fraction(2**24 - 1) * Fraction(2) ** 104),
    "float64": (53, -1074, Fraction(2**53 - 1) * Fraction(2) ** 971),
}


class Decoded(NamedTuple):
    """The decoded value as a double (each format's numbers are doubles), and both masks."""

    value: float
    bottom: bool
    gap: bool


def nearest(exact: Fraction, dtype: str) -> float:
    """`exact`, at least 0, rounded to nearest, ties to even."""
    precision, smallest, largest = _LIMITS[dtype]
    if exact == 0:
        return 0.0
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length() - precision
    if exact >= Fraction(2) ** (exponent + precision):
        exponent += 1
    unit = Fraction(2) ** max(exponent, smallest)
    rounded = round(exact / unit) * unit
    return float(rounded) if rounded <= largest else math.inf


def decode(p: float, q: float, dtype: str, tau_infer: float, tau_train: float | None) -> Decoded:
    """The strict decode of one pair of numbers of the format `dtype`."""
    bottom = Decoded(math.nan, True, False)
    if not math.isfinite(p) or not math.isfinite(q) or q == 0:
        return bottom
    size = abs(Fraction(q))
    if size < Fraction(nearest(Fraction(tau_infer), dtype)):
        return bottom
    quotient = nearest(abs(Fraction(p)) / size, dtype)
    if math.isinf(quotient):
        return bottom
    signed = math.copysign(quotient, math.copysign(1, p) * math.copysign(1, q))
    near = tau_train is not None and size < Fraction(nearest(Fraction(tau_train), dtype))
    return Decoded(signed, False, near)
