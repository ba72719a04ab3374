"""Strict decode of one pair by exact integer arithmetic; shares no code with the product.

Rules and rounding are written out from their definitions, for any binary format.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

# format: (significand bits with the hidden one, exponent of the smallest subnormal, and that of
# the first power of two that is too large)
_LIMITS = {
    "float16": (11, -24, 16),
    "bfloat16": (8, -133, 128),
    "float32": (24, -149, 128),
    "float64": (53, -1074, 1024),
}


class Decoded(NamedTuple):
    """The decoded value as a double (each format's numbers are doubles), and both masks."""

    value: float
    bottom: bool
    gap: bool


def nearest(numerator: int, denominator: int, dtype: str) -> float:
    """The ratio of two positive integers, or 0, rounded to nearest, ties to even."""
    precision, smallest, too_large = _LIMITS[dtype]
    if numerator == 0:
        return 0.0
    unit = numerator.bit_length() - denominator.bit_length() - precision
    if numerator << max(0, -unit) >= denominator << max(0, unit) + precision:
        unit += 1
    unit = max(unit, smallest)
    numerator <<= max(0, -unit)
    denominator <<= max(0, unit)
    steps, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and steps % 2):
        steps += 1
    return math.inf if steps.bit_length() + unit > too_large else math.ldexp(steps, unit)


@cache
def _threshold(tau: float, dtype: str) -> float:
    return nearest(*tau.as_integer_ratio(), dtype)


def decode(p: float, q: float, dtype: str, tau_infer: float, tau_train: float | None) -> Decoded:
    """The strict decode of one pair of numbers of the format `dtype`."""
    bottom = Decoded(math.nan, True, False)
    if not math.isfinite(p) or not math.isfinite(q) or q == 0:
        return bottom
    size = abs(q)
    if size < _threshold(tau_infer, dtype):
        return bottom
    p_over, p_under = abs(p).as_integer_ratio()
    q_over, q_under = size.as_integer_ratio()
    quotient = nearest(p_over * q_under, p_under * q_over, dtype)
    if math.isinf(quotient):
        return bottom
    signed = math.copysign(quotient, math.copysign(1, p) * math.copysign(1, q))
    return Decoded(signed, False, tau_train is not None and size < _threshold(tau_train, dtype))
