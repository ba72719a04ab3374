"""What a calibration found, as a record that anyone can recompute from the data."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np

from interlock.kernel.errors import ConfigError, InputError
from interlock.kernel.intervals import clopper_pearson_upper

Method = Literal["learn-then-test, fixed sequence, exact binomial"]
Rate = Literal["accepted", "all"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Room for another platform's logarithms.
_BOUND_RTOL = 1e-6

# Below it, alpha would take billions of rows.
_LEAST_LEVEL = 1e-9

MOST_ROWS = 10**9
"""Rows that a certificate may count. Recomputing its bound then takes half a second at most."""


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A threshold and the held-out evidence for it.

    It says: on rows drawn like the held-out ones, `tau` keeps the unsafe-accept rate at or below
    `alpha`, with confidence 1 - `delta` over the draw of the held-out rows. It says nothing about
    rows drawn otherwise, adversarial ones among them.

    tau        accept |Q| >= tau, compared in `dtype`
    alpha      the largest unsafe-accept rate that was allowed
    delta      the allowed probability that the rate is above alpha after all
    rate       `accepted`: unsafe rows as a share of the accepted ones; `all`: rows that are
               accepted and unsafe as a share of all rows
    n          rows that were tested; `pilot` further rows only chose where to start
    accepted   tested rows with |Q| >= tau
    unsafe     how many of these are unsafe
    bound      the Clopper-Pearson upper bound of these counts at 1 - delta, at most alpha. It
               says how near alpha the counts are; since tau was chosen on the same rows, the
               guarantee is for alpha.
    start      the threshold that testing began at; None where `rate` is `all`
    tolerance  the largest loss that counts as safe; None where the loss was given as bool
    dtype      dtype of Q in the deployed decode
    data       `sha256:<hex>` of the held-out rows, pilot included
    split      what the caller calls these rows
    model      `Bundle.model_digest` of the bundle that it was put into; None before that
    created    ISO 8601, UTC
    versions   package -> version that made this

    Making or reading one whose numbers contradict each other is an InputError.
    """

    tau: float
    alpha: float
    delta: float
    rate: Rate
    n: int
    pilot: int
    accepted: int
    unsafe: int
    bound: float
    start: float | None
    tolerance: float | None
    dtype: Literal["float16", "float32", "float64"]
    data: str
    split: str
    created: str
    versions: dict[str, str]
    model: str | None = None
    method: Method = "learn-then-test, fixed sequence, exact binomial"
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        """Check every field, and recompute the bound from the counts."""
        try:
            check_levels(self.alpha, self.delta)
        except ConfigError as error:
            raise InputError(error.message) from None
        for field, value in (("tau", self.tau), ("start", self.start)):
            if value is not None:
                _check_threshold(field, value, self.dtype)
        if (self.start is None) != (self.rate == "all"):
            raise InputError("start is given exactly where rate is 'accepted'")
        if self.start is not None and self.tau > self.start:
            raise InputError(f"tau is {self.tau}; it must not be above start, {self.start}")
        if not (self.pilot >= 0 and 0 <= self.unsafe <= self.accepted <= self.n):
            raise InputError(
                f"pilot, unsafe, accepted, n are {self.pilot}, {self.unsafe}, {self.accepted}, "
                f"{self.n}; they must be 0 or more, and the last three in ascending order"
            )
        # Before anything is computed from it: the work grows with the counts.
        if self.n > MOST_ROWS:
            raise InputError(f"n is more than {MOST_ROWS:,} rows, which no certificate counts")
        if self.tolerance is not None and not math.isfinite(self.tolerance):
            raise InputError(f"tolerance is {self.tolerance}; it must be finite")
        bound = clopper_pearson_upper(self.unsafe, self.tested, 1 - self.delta)
        if not abs(bound - self.bound) <= _BOUND_RTOL * bound:
            raise InputError(f"bound is {self.bound}; the counts give {bound}")
        if not self.bound <= self.alpha * (1 + _BOUND_RTOL):
            raise InputError(f"bound is {self.bound}; it must not be above alpha, {self.alpha}")
        if not _DIGEST.fullmatch(self.data):
            raise InputError("data must be 'sha256:' and 64 hex digits")
        if self.model is not None and not _DIGEST.fullmatch(self.model):
            raise InputError("model must be 'sha256:' and 64 hex digits")
        check_split(self.split)
        try:
            offset = datetime.fromisoformat(self.created).utcoffset()
        except ValueError:
            offset = None
        if offset is None:
            raise InputError("created must be an ISO 8601 time with its offset")

    @property
    def tested(self) -> int:
        """How many rows the rate is a share of: the accepted ones, or all."""
        return self.accepted if self.rate == "accepted" else self.n

    @property
    def coverage(self) -> float:
        """The share of the tested rows that tau accepts."""
        return self.accepted / self.n

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> bytes:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @staticmethod
    def from_plain(value: object) -> Certificate:
        """The certificate of plain JSON values; raises InputError that says what is wrong."""
        try:
            return msgspec.convert(value, Certificate)
        except msgspec.ValidationError as error:
            raise InputError(f"the certificate is not valid: {error}") from None

    @staticmethod
    def from_json(data: bytes | str) -> Certificate:
        """The certificate in a JSON document; raises InputError that says what is wrong."""
        try:
            return msgspec.json.decode(data, type=Certificate)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"the certificate is not valid: {error}") from None


def check_levels(alpha: float, delta: float) -> None:
    """Raise ConfigError unless both lie between 1e-9 and 1, below 1."""
    for field, value in (("alpha", alpha), ("delta", delta)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and _LEAST_LEVEL <= value < 1):
            raise ConfigError(f"{field} is {value!r}; it must lie between {_LEAST_LEVEL:g} and 1")


def check_split(split: str) -> None:
    """Raise InputError unless `split` is 1 to 200 printable characters."""
    if not isinstance(split, str) or not 1 <= len(split) <= 200 or not split.isprintable():
        raise InputError("split must have 1 to 200 printable characters")


def _check_threshold(field: str, value: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        rounded = float(np.dtype(dtype).type(value))
    if not (value > 0 and math.isfinite(value) and rounded == value):
        raise InputError(f"{field} is {value}; it must be a positive {dtype}")
