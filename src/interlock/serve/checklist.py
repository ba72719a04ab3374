"""The list that is gone through before a deployment: what a machine found, and what people do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Result = Literal["pass", "warn", "fail", "skip"]

GROUPS = ("environment", "function", "performance", "integration", "security")


def passed(holds: bool) -> Result:
    """pass where it holds, else fail."""
    return "pass" if holds else "fail"


class Finding(msgspec.Struct, frozen=True):
    """One item: what was looked at, what came of it and the figures behind it.

    warn is for what works and a person should decide on; skip for what could not be looked at.
    """

    group: str
    item: str
    result: Result
    detail: str = ""


PEOPLE = (
    "the tests of your own service pass, with this deployment behind it",
    "something scrapes /metrics, and the alerts reach somebody (examples/serve has rules)",
    "the log is collected, and kept as long as your rules ask",
    "the previous version is kept, and the way back to it has been tried",
    "a canary or a shadow is planned before all traffic (interlock rollout)",
    "it ran in staging with traffic of the real kind",
    "thresholds fit your own data (false positives counted on labelled traffic)",
    "after the deployment: error rate, latency and memory are watched for 24 to 48 hours",
    "after the deployment: figures are compared with those before, and written down",
)
"""What no machine can tell, in the order in which it comes up."""


def document(findings: Iterable[Finding]) -> dict[str, Any]:
    """As JSON: counts by result, the findings and what is left for people."""
    found = list(findings)
    results: tuple[Result, ...] = ("pass", "warn", "fail", "skip")
    return {
        "counts": {word: sum(one.result == word for one in found) for word in results},
        "findings": [msgspec.structs.asdict(one) for one in found],
        "for_people": list(PEOPLE),
    }


def limit(
    group: str, item: str, value: float, most: float, unit: str, *, note: str = ""
) -> Finding:
    """Whether a figure is below its target."""
    detail = f"{value:.4g} {unit}, the target is below {most:g} {unit}{note}"
    return Finding(group, item, "pass" if value < most else "fail", detail)
