"""A calibration: thresholds for the traffic of one user, since they do not transfer.

Made from labelled texts by `interlock detect calibrate`, bound to one bundle by its digest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.detect.metrics import threshold_at
from interlock.detect.settings import ENVIRONMENTS, Bands
from interlock.kernel.errors import ConfigError, InputError
from interlock.kernel.intervals import clopper_pearson_interval, clopper_pearson_upper

_SMALLEST = 1e-9

Floats = npt.NDArray[np.float64]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of a calibration file.

    bundle         digest of the bundle that it was made for
    thresholds     environment -> score from which a text counts as an attack
    bands          of the same scores
    scale, shift   of the text's logit; 1 and 0 where the score was left as it is
    harmless, attacks
                   how many texts it was made from
    fpr            the false-positive rate that was asked for
    measured       what the production threshold gives on those texts
    interval       exact 95% interval of that rate; it holds for traffic like the texts
    """

    bundle: str
    thresholds: dict[str, float]
    bands: Bands
    harmless: int
    attacks: int
    fpr: float
    measured: float
    interval: tuple[float, float]
    recall: float | None = None
    scale: float = 1.0
    shift: float = 0.0
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        missing = [name for name in ENVIRONMENTS if name not in self.thresholds]
        if missing:
            raise InputError(f"thresholds has no {missing[0]!r}")
        for name, value in self.thresholds.items():
            if not 0 <= value <= 1:
                raise InputError(f"thresholds: {name} is {value}; it must lie in 0 … 1")
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.shift)):
            raise InputError(f"scale is {self.scale}, shift {self.shift}; scale must be above 0")

    def apply(self, logit: float) -> float:
        """The text's logit on the calibrated scale."""
        return self.scale * logit + self.shift

    def encode(self) -> bytes:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def load_calibration(path: Path, *, bundle: str) -> Calibration:
    """The calibration in `path`; raises ConfigError for what is none, or is of another bundle."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise ConfigError(f"calibration {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"calibration {path}: {error}") from None
    if found.bundle != bundle:
        raise ConfigError(
            f"calibration {path} is of bundle {found.bundle}, this one is {bundle}",
            hint="run `interlock detect calibrate` again",
        )
    return found


def calibrate(
    scores: Floats, attacks: npt.NDArray[np.bool_], *, bundle: str, fpr: float = 0.01
) -> Calibration:
    """Thresholds at which at most `fpr` of texts like the harmless ones are taken for attacks.

    scores   (n,) the detector's, uncalibrated
    attacks  (n,) which texts are attacks; there may be none

    The production threshold keeps the exact 95% upper bound of the rate at `fpr` where there are
    texts enough to say so, else the rate itself; staging allows twice that, development four times.
    Raises InputError as `check_enough` does, and where so many harmless texts have the highest
    score of all that no threshold keeps to the rate.
    """
    harmless = np.sort(scores[~attacks])
    n = len(harmless)
    check_enough(n, fpr)
    thresholds: dict[str, float] = {}
    allowed = 0
    for name, factor in zip(ENVIRONMENTS, (1, 2, 4), strict=True):
        # A rate that few texts make sure of may allow fewer of them than a smaller one.
        allowed = max(allowed, _allowed(n, min(0.5, fpr * factor)))
        thresholds[name] = threshold_at(harmless, allowed / n)
    thresholds = {name: min(1.0, max(_SMALLEST, value)) for name, value in thresholds.items()}
    cut = thresholds["production"]
    reached = int((harmless >= cut).sum())
    if reached > fpr * n + 1e-9:
        raise InputError(
            f"{reached} of {n} harmless texts have a score of 1; no threshold keeps to {fpr:g}",
            hint="look at the labels, or train on these texts with `interlock detect train`",
        )
    positive = scores[attacks]
    return Calibration(
        bundle=bundle,
        thresholds=thresholds,
        bands=Bands(high=1 - (1 - cut) / 2, medium=cut, low=min(thresholds.values())),
        harmless=n,
        attacks=len(positive),
        fpr=fpr,
        measured=reached / n,
        interval=clopper_pearson_interval(reached, n),
        recall=float((positive >= cut).mean()) if len(positive) else None,
    )


def check_enough(harmless: int, fpr: float) -> None:
    """Raise InputError for a rate out of range, and for fewer than 1 / fpr harmless texts."""
    if not 0 < fpr < 1:
        raise InputError(f"fpr is {fpr}; it must lie between 0 and 1")
    if harmless * fpr < 1 - 1e-9:
        raise InputError(
            f"{harmless} harmless texts; a rate of {fpr:g} needs {math.ceil(1 / fpr - 1e-9)} or "
            "more",
            hint="give more harmless texts, or a larger --fpr",
        )


def _allowed(n: int, fpr: float) -> int:
    """How many of n harmless texts may reach the threshold."""
    most = int(fpr * n + 1e-9)
    sure = most
    while sure > 0 and clopper_pearson_upper(sure, n) > fpr:
        sure -= 1
    return sure if clopper_pearson_upper(sure, n) <= fpr else most
