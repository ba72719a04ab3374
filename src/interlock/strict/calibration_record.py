"""What a bundle's metadata keeps of its calibration beside the certificate: for reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.bundle import Metadata
from interlock.kernel.errors import BundleFormatError, InputError

CURVE = "risk_coverage"
ABSTENTION = "calibration_abstained"
"""Keys in `Metadata.extensions`."""

POINTS = 200


class RiskCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was counted on held-out rows at each threshold: no guarantee.

    tau       thresholds on |Q|, descending
    coverage  share of the rows that each accepts
    unsafe    share of the accepted rows that are unsafe
    n         held-out rows
    alpha     the unsafe share that was aimed at
    """

    tau: tuple[float, ...]
    coverage: tuple[float, ...]
    unsafe: tuple[float, ...]
    n: int
    alpha: float

    def __post_init__(self) -> None:
        if not 1 <= len(self.tau) == len(self.coverage) == len(self.unsafe) <= 100_000:
            raise InputError("a curve needs at least one point, and each its three values")
        for name in ("coverage", "unsafe"):
            if not all(0 <= share <= 1 for share in getattr(self, name)):
                raise InputError(f"{name} must lie in 0 … 1")
        if not (self.n >= 1 and 0 < self.alpha < 1 and min(self.tau) > 0):
            raise InputError("n must be 1 or more, alpha between 0 and 1, tau above 0")


class Abstention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A calibration that certified nothing, and why. The fields are those of `Certificate`."""

    reason: str
    alpha: float
    delta: float
    n: int
    pilot: int
    split: str


def curve_of(
    q_abs: npt.NDArray[Any], unsafe: npt.NDArray[np.bool_], alpha: float
) -> RiskCurve | None:
    """The curve of held-out rows at up to `POINTS` thresholds; None where none can be accepted.

    q_abs   (n,) |Q|; NaN or 0 where no threshold accepts the row
    unsafe  (n,) bool
    """
    usable = np.isfinite(q_abs) & (q_abs > 0)
    order = np.flatnonzero(usable)[np.argsort(-q_abs[usable], kind="stable")]
    if not len(order):
        return None
    bad = np.cumsum(unsafe[order])
    # Denser where few are accepted: the first points decide whether anything can be certified.
    at = np.unique(np.geomspace(1, len(order), POINTS).round().astype(int))
    even = np.linspace(1, len(order), POINTS // 2).round().astype(int)
    at = np.union1d(at[at >= min(30, len(order))], even)
    return RiskCurve(
        tau=tuple(float(value) for value in q_abs[order[at - 1]]),
        coverage=tuple(float(count / len(q_abs)) for count in at),
        unsafe=tuple(float(count) for count in bad[at - 1] / at),
        n=len(q_abs),
        alpha=alpha,
    )


def extensions_of(curve: RiskCurve | None, abstention: Abstention | None) -> dict[str, Any]:
    """What to put into `Metadata.extensions`."""
    records = {CURVE: curve, ABSTENTION: abstention}
    return {key: msgspec.to_builtins(record) for key, record in records.items() if record}


def read_curve(metadata: Metadata) -> RiskCurve | None:
    """The curve in a bundle's metadata; BundleFormatError for one that is malformed."""
    return _read(metadata.extensions, CURVE, RiskCurve)


def read_abstention(metadata: Metadata) -> Abstention | None:
    """The abstention in a bundle's metadata; BundleFormatError for one that is malformed."""
    return _read(metadata.extensions, ABSTENTION, Abstention)


Record = TypeVar("Record", bound=msgspec.Struct)


def _read(extensions: Mapping[str, Any], key: str, kind: type[Record]) -> Record | None:
    if key not in extensions:
        return None
    try:
        return msgspec.convert(extensions[key], kind)
    except msgspec.ValidationError as error:
        raise BundleFormatError(f"the extension {key!r} is malformed: {error}") from None
