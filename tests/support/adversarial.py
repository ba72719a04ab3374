"""Pairs of P and Q where a strict decode is likely to go wrong, as bit patterns.

NaN with payloads, quiet and signalling, infinities, subnormals, zeros of both signs, thresholds
and their neighbours, quotients at the edge of overflow and underflow, and bits at random.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from interlock.strict.config import InferenceConfig

Bits = npt.NDArray[np.unsignedinteger[Any]]


class Format(NamedTuple):
    """A binary floating-point format; `bits` is the unsigned type that holds one."""

    name: str
    bits: type[np.unsignedinteger[Any]]
    exponent_bits: int
    fraction_bits: int

    @property
    def infinity(self) -> int:
        """The bits of +inf."""
        return ((1 << self.exponent_bits) - 1) << self.fraction_bits

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.exponent_bits + self.fraction_bits)

    @property
    def bias(self) -> int:
        """What is added to an exponent before it is stored."""
        return int((1 << (self.exponent_bits - 1)) - 1)


FORMATS = {
    "float16": Format("float16", np.uint16, 5, 10),
    "bfloat16": Format("bfloat16", np.uint16, 8, 7),
    "float32": Format("float32", np.uint32, 8, 23),
    "float64": Format("float64", np.uint64, 11, 52),
}

CONFIGS = {
    "float16": (InferenceConfig(1e-3, 1e-2), InferenceConfig(6e-8, 6e-8), InferenceConfig(0.1)),
    "bfloat16": (InferenceConfig(1e-6, 1e-4), InferenceConfig(1e-40, 1.0), InferenceConfig(0.1)),
    "float32": (InferenceConfig(1e-6, 1e-4), InferenceConfig(1e-45, 1.0), InferenceConfig(0.1)),
    "float64": (InferenceConfig(1e-6, 1e-4), InferenceConfig(5e-324, 1.0), InferenceConfig(0.1)),
}
"""Thresholds as used in practice, at the bottom of the format, and without a gap."""


def values(bits: Bits, form: Format) -> npt.NDArray[Any]:
    """The numbers behind `bits`; those of bfloat16 as float32, which holds each of them."""
    if form.name == "bfloat16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(form.name)


def bits_of(value: float, form: Format) -> int:
    """The bits of a number that the format holds exactly."""
    if form.name == "bfloat16":
        return int(np.array(value, np.float32).view(np.uint32)) >> 16
    return int(np.array(value, form.name).view(form.bits))


def pairs(
    form: Format, n: int, config: InferenceConfig, rng: np.random.Generator
) -> tuple[Bits, Bits]:
    """The bits of `n` values of P and of Q."""
    thresholds = config.in_format(form.name)
    one = form.bias << form.fraction_bits
    special = [0, 1, 2, (1 << form.fraction_bits) - 1, 1 << form.fraction_bits, one, one + 1]
    special += [form.infinity - 1, form.infinity, form.infinity + 1]
    special += [form.infinity + (1 << (form.fraction_bits - 1)), form.sign - 1]
    edges = [bits_of(tau, form) for tau in thresholds if tau is not None]
    near = [max(0, edge + step) for edge in edges for step in (-2, -1, 0, 0, 1, 2)]

    def pick(choices: list[int]) -> Bits:
        table: Bits = np.array(choices, form.bits)
        return table[rng.integers(0, len(choices), n)]

    def anything() -> Bits:
        return rng.integers(0, 2 * form.sign - 1, n, form.bits, endpoint=True)

    def ordinary() -> Bits:
        exponents = rng.integers(-6, 7, n).astype(np.int64) + form.bias
        fractions = rng.integers(0, 1 << form.fraction_bits, n)
        return ((exponents << form.fraction_bits) + fractions).astype(form.bits)

    signs = rng.integers(0, 2, (2, n)).astype(form.bits) * form.bits(form.sign)
    kinds = rng.integers(0, 5, n)
    q = np.choose(kinds, [anything(), pick(special), pick(near), pick(near), ordinary()])
    q = (q.astype(form.bits) ^ signs[0]).astype(form.bits)
    kinds = rng.integers(0, 6, n)
    limit = [_times_limit(q, form, rng, edge) for edge in (form.infinity - 1, 1)]
    p = np.choose(kinds, [anything(), pick(special), pick(near), ordinary(), *limit])
    return (p.astype(form.bits) ^ signs[1]).astype(form.bits), q


def _times_limit(q: Bits, form: Format, rng: np.random.Generator, limit: int) -> Bits:
    """Bits of a P whose quotient by `q` is about the number with the bits `limit`."""
    with np.errstate(all="ignore"):
        edge = values(np.array([limit], form.bits), form).astype(np.float64)
        product = np.abs(values(q, form).astype(np.float64)) * edge
        if form.name == "bfloat16":
            nearest = (product.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.int64)
        else:
            nearest = product.astype(form.name).view(form.bits).astype(np.int64)
    steps = rng.integers(-2, 3, q.size)
    clipped: Bits = np.clip(nearest + steps, 0, form.sign - 1).astype(form.bits)
    return clipped
