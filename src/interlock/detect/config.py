"""How a detector is opened, as a value that pickles."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from interlock.detect.settings import ENVIRONMENTS
from interlock.kernel.errors import ConfigError

MOST_THREADS = 256


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is opened. It pickles, so that a worker process can open its own.

    bundle       the bundle's directory; None for the shipped one
    expected_digest, require_signature
                 what the bundle must be, as `interlock.bundle.load` takes them
    tokenizer    another tokenizer than the bundle's; the fidelity gate says whether it fits
    environment  whose threshold counts: `production`, `staging` or `development`
    threshold    instead of the environment's
    calibration  a file of `interlock detect calibrate`, made for this bundle
    policy       a policy file; None for the shipped one
    rules        a rule pack; None for the shipped one
    anomaly      whether to flag texts that are unlike all training texts
    cache        answers kept for texts that come again, 0 for none
    threads      of ONNX Runtime, at most 256: it starts as many as it is told
    remember     keep the verdicts of probe and fidelity gate in the user's cache directory
    """

    bundle: Path | None = None
    expected_digest: str | None = None
    require_signature: Path | None = None
    tokenizer: str | Path | None = None
    environment: str = "production"
    threshold: float | None = None
    calibration: Path | None = None
    policy: Path | None = None
    rules: Path | None = None
    anomaly: bool = True
    cache: int = 0
    threads: int = 1
    remember: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        if self.environment not in ENVIRONMENTS:
            raise ConfigError(
                f"environment is {self.environment!r}; it must be one of {', '.join(ENVIRONMENTS)}"
            )
        if self.threshold is not None:
            check_threshold("threshold", self.threshold)
        if self.cache < 0:
            raise ConfigError(f"cache is {self.cache}; it must be 0 or more")
        if not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"threads is {self.threads}; it must lie in 1 … {MOST_THREADS}")


def check_threshold(name: str, value: object, most: float = 1.0) -> None:
    """Raise ConfigError unless `value` is a number in 0 … `most`."""
    # True would be 1, which no score reaches.
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} is a {type(value).__name__}; it must be a number")
    if not 0 <= float(value) <= most:
        raise ConfigError(f"{name} is {value}; it must lie in 0 … {most:g}")
