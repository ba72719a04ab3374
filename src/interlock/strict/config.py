"""The thresholds of strict decode, and what they are in each floating-point format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import NamedTuple

from interlock.kernel.errors import ConfigError

# format: (significand bits with the hidden one, exponent of the smallest subnormal, largest value)
_FORMATS = {
    "float16": (11, -24, 65504.0),
    "bfloat16": (8, -133, 255 * 2.0**120),
    "float32": (24, -149, (2.0**24 - 1) * 2.0**104),
    "float64": (53, -1074, (2.0**53 - 1) * 2.0**971),
}

_COMPONENT = {"complex64": "float32", "complex128": "float64"}


class Thresholds(NamedTuple):
    """Both thresholds as one floating-point format holds them; `train` is None where not set."""

    infer: float
    train: float | None


@dataclass(frozen=True)
class InferenceConfig:
    """The thresholds on |Q| that strict decode works with.

    tau_infer  below it an answer is bottom; |Q| = tau_infer is accepted. Finite and above 0:
               Q = 0 is bottom whatever the threshold, so 0 has no use here. There is no default,
               since it has to come from held-out denominators.
    tau_train  the training threshold: from tau_infer up to it an answer is accepted and lies in
               the gap. At least tau_infer; None where it is not known, then no answer is.

    Raises ConfigError, which names the field and its value.
    """

    tau_infer: float
    tau_train: float | None = None

    def __post_init__(self) -> None:
        """Check both thresholds and store them as floats."""
        object.__setattr__(self, "tau_infer", _threshold("tau_infer", self.tau_infer))
        if self.tau_train is None:
            return
        object.__setattr__(self, "tau_train", _threshold("tau_train", self.tau_train))
        if self.tau_train < self.tau_infer:
            raise ConfigError(
                f"tau_train is {self.tau_train!r}; it must be at least tau_infer, "
                f"which is {self.tau_infer!r}"
            )

    def in_format(self, dtype: str) -> Thresholds:
        """The thresholds rounded to nearest, ties to even, in the format named `dtype`.

        `dtype` is float16, bfloat16, float32, float64, or complex64 or complex128 for that of
        their components. Raises ConfigError where a threshold becomes 0 or infinite in it: the
        comparison would then no longer be the one that was asked for.
        """
        return _in_format(self.tau_infer, self.tau_train, dtype)


def rounded_threshold(field: str, value: float, dtype: str) -> float:
    """A threshold on |Q| checked and rounded as those of `InferenceConfig` are.

    Raises ConfigError, which names `field`.
    """
    return _in_format_of(field, _threshold(field, value), dtype)


def _threshold(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{field} is {value!r}; it must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{field} is {number!r}; it must be finite and above 0")
    return number


@lru_cache(maxsize=64)
def _in_format(tau_infer: float, tau_train: float | None, dtype: str) -> Thresholds:
    train = None if tau_train is None else _in_format_of("tau_train", tau_train, dtype)
    return Thresholds(_in_format_of("tau_infer", tau_infer, dtype), train)


def _in_format_of(field: str, value: float, dtype: str) -> float:
    name = _COMPONENT.get(dtype, dtype)
    if name not in _FORMATS:
        raise ConfigError(f"dtype is {dtype!r}; thresholds exist in {', '.join(_FORMATS)}")
    return _round(field, value, name)


def _round(field: str, value: float, dtype: str) -> float:
    # In one step from the double: a detour over float32, as tensor libraries take it to bfloat16,
    # would round twice and could land on the neighbour.
    precision, smallest, largest = _FORMATS[dtype]
    _, exponent = math.frexp(value)
    unit = max(exponent - precision, smallest)
    steps = round(math.ldexp(value, -unit))
    rounded = math.ldexp(steps, unit) if steps.bit_length() + unit <= 1024 else math.inf
    if rounded == 0 or rounded > largest:
        bound = "0" if rounded == 0 else "infinity"
        raise ConfigError(
            f"{field} is {value!r}, which rounds to {bound} in {dtype}",
            hint=f"choose a threshold from {math.ldexp(1, smallest)!r} to {largest!r}, "
            "or give P and Q a wider dtype",
        )
    return rounded
