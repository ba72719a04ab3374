"""What a rollout can be told; these settings stand among those of its model."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from interlock.kernel.errors import ConfigError

Mode = Literal["shadow", "canary"]


class RolloutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A second version of a model, and what decides between the two.

    candidate          path of a second version that is rolled out when the server starts
    candidate_digest   `sha256:<hex>` that it must have
    use_candidate      the feature flag: true serves the candidate alone, false never loads one,
                       unset leaves it to the rollout
    rollout            "shadow" asks both and answers with the old; "canary" gives the candidate
                       some of the clients
    percent            of the clients, for a canary
    sticky             "client": the same client gets the same version; "request": drawn for each
                       request
    shadow_pending     requests that may be asked of a shadow at the same time; further ones are not
    positive           output whose truth makes a row positive, for feedback; unset: a row is
                       positive where it was flagged or refused
    promote            whether a candidate that is shown to be good is promoted by itself
    rollback_errors    share of errors above which a candidate is rolled back
    rollback_p99_ms    time that 99% of its answers must keep to
    rollback_memory_mb resident memory of one of its processes
    rollback_refused   rise of the share of refused answers over the old version's; 1 for never
    rollback_wrong     rise of the false-positive or false-negative rate over the old version's
    min_requests       answers of the candidate before anything is decided by them
    min_labels         answers of the candidate labelled negative before it is promoted; 0 promotes
                       without labels
    max_requests       answers of the candidate after which an undecided rollout is left to a person
    risk               probability to roll back a good candidate, and to promote a bad one
    """

    candidate: str | None = None
    candidate_digest: str | None = None
    use_candidate: bool | None = None
    rollout: Mode = "shadow"
    percent: float = 10.0
    sticky: Literal["client", "request"] = "client"
    shadow_pending: int = 8
    positive: str | None = None
    promote: bool = True
    rollback_errors: float = 0.05
    rollback_p99_ms: float = 50.0
    rollback_memory_mb: float = 500.0
    rollback_refused: float = 0.1
    rollback_wrong: float = 0.01
    min_requests: int = 100
    min_labels: int = 0
    max_requests: int = 100_000
    risk: float = 0.01

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        not_empty(self)
        within("percent", self.percent, 0.01, 99)
        within("shadow_pending", self.shadow_pending, 1, 1000)
        within("rollback_errors", self.rollback_errors, 0.001, 0.9)
        within("rollback_p99_ms", self.rollback_p99_ms, 0.01, 1e6)
        within("rollback_memory_mb", self.rollback_memory_mb, 1, 1e7)
        within("rollback_refused", self.rollback_refused, 0, 1)
        within("rollback_wrong", self.rollback_wrong, 0, 0.9)
        within("min_requests", self.min_requests, 10, 1e9)
        within("min_labels", self.min_labels, 0, 1e9)
        within("max_requests", self.max_requests, self.min_requests, 1e12)
        within("risk", self.risk, 1e-6, 0.2)
        if self.use_candidate and self.candidate is None:
            raise ConfigError("use_candidate is true, and no candidate is named")


def not_empty(settings: msgspec.Struct) -> None:
    """Raise ConfigError, naming the setting, for an empty text: none is not to give it."""
    for name in settings.__struct_fields__:
        if getattr(settings, name) == "":
            raise ConfigError(
                f"{name} is empty", hint="leave it out, or say null in a variable for none"
            )


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError, naming the setting, for a value outside low … high."""
    if not (low <= value <= high and math.isfinite(value)):
        raise ConfigError(f"{name} is {value}; it must be within {low:g} and {high:g}")
