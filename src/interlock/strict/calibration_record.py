"""What a bundle's metadata keeps of its calibration beside the certificate: for reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from interlock.bundle import Metadata
from interlock.kernel.errors import BundleFormatError, InputError
from interlock.strict.certificate import check_split
from interlock.strict.risk import RiskCoverage

CURVE = "risk_coverage"
ABSTENTION = "calibration_abstained"
"""Keys in `Metadata.extensions`."""


class RiskCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was counted on held-out rows at each threshold: no guarantee.

    The fields are those of `interlock.strict.RiskCoverage`; alpha is the risk that was aimed at.
    """

    tau: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    area: float
    n: int
    confidence: float
    alpha: float

    def __post_init__(self) -> None:
        columns = (self.tau, self.coverage, self.risk, self.low, self.high)
        if not all(1 <= len(column) == len(self.tau) <= 100_000 for column in columns):
            raise InputError("a curve needs at least one point, and each its five values")
        for name in ("coverage", "risk", "low", "high"):
            if not all(0 <= share <= 1 for share in getattr(self, name)):
                raise InputError(f"{name} must lie in 0 … 1")
        shares = (self.alpha, self.confidence)
        if not (self.n >= 1 and all(0 < share < 1 for share in shares)):
            raise InputError("n must be 1 or more, alpha and confidence lie between 0 and 1")
        if not (min(self.tau) >= 0 and 0 <= self.area <= 1):
            raise InputError("tau must be 0 or more, area lie in 0 … 1")


class Abstention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A calibration that certified nothing, and why. The fields are those of `Certificate`."""

    reason: str
    alpha: float
    delta: float
    n: int
    pilot: int
    split: str

    def __post_init__(self) -> None:
        # Both are printed on terminals.
        if not 1 <= len(self.reason) <= 2_000 or not self.reason.isprintable():
            raise InputError("reason must have 1 to 2,000 printable characters")
        check_split(self.split)
        if not all(0 < share < 1 for share in (self.alpha, self.delta)):
            raise InputError("alpha and delta must lie between 0 and 1")
        if self.n < 0 or self.pilot < 0:
            raise InputError("n and pilot must be 0 or more")


def curve_of(found: RiskCoverage, alpha: float) -> RiskCurve:
    """A risk-coverage curve as metadata keeps it."""
    columns = {
        name: tuple(getattr(found, name).tolist())
        for name in ("tau", "coverage", "risk", "low", "high")
    }
    return RiskCurve(
        **columns, area=found.area, n=found.n, confidence=found.confidence, alpha=alpha
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
