"""What a detector says of a text: the score and everything that led to it, never the text itself.

`Detection` is the whole answer. `ScanResult` and `L2Result` are its two layers, as code that was
written for a two-layer detector wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interlock.detect.normalise import Normalised
from interlock.detect.policy import Action, Band
from interlock.detect.rules import Hit, Severity
from interlock.kernel.outcome import (
    NO_EVIDENCE,
    Evidence,
    EvidenceKind,
    Outcome,
    Status,
    Step,
    StepResult,
)

DETECTION_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the original text, end exclusive, and why it stands out.

    source  `rule` or `window`
    label   the rule's id, or the family that the window looks most like
    family  of the rule or window
    weight  a rule's severity, or a window's score
    via     the disguises that were taken off before it was seen
    """

    start: int
    end: int
    source: str
    label: str
    family: str
    weight: Severity | float
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowScore:
    """A window of the text: where it lies in the original, and what each signal made of it.

    score is a probability; the others are logits, above 0 for an attack. `encoder`, `ngrams` and
    `rules` are the parts of `logit`.
    """

    start: int
    end: int
    score: float
    logit: float
    encoder: float
    ngrams: float
    rules: float
    family: str
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """The answer for one text.

    score       calibrated probability of an attack, None where nothing judged
    threshold   from which a score counts as an attack
    attack      whether the score reached the threshold; None where nothing judged
    band        of the score
    family      the kind of attack that it looks most like, None where it looks like none
    families    family -> probability, of the worst window; empty where nothing judged
    spans       what stands out, in text order
    windows     the worst windows, worst first
    signals     what fired: `rules`, `ngrams`, `encoder`, `disguise`, `anomaly`
    action      what the policy prescribes
    reasons     why the action is what it is, most weighty first
    faults      what kept the detector from judging: names of the policy's `unjudged`
    anomaly     whether the text is unlike all training texts
    distance    how far, as 1 - cosine; None where it was not measured
    place       `user`, `document` or `auto`
    digest      keyed digest of the text
    characters  of the text
    read        windows that were judged
    timings     stage -> milliseconds
    bundle      digest of the bundle that judged, None without one
    rules       digest of the rule pack
    policy      digest of the policy's file
    """

    score: float | None
    threshold: float
    attack: bool | None
    band: Band
    action: Action
    reasons: tuple[str, ...]
    place: str
    digest: str
    characters: int
    family: str | None = None
    families: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    windows: tuple[WindowScore, ...] = ()
    signals: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    anomaly: bool = False
    distance: float | None = None
    read: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    bundle: str | None = None
    rules: str = ""
    policy: str = ""

    @property
    def status(self) -> Status:
        """`accepted` for an allowed text, `flagged`, or `refused` for one that is held."""
        return self.action.status

    @property
    def clean(self) -> bool:
        """Whether the text was judged, whole, and nothing is to be done about it."""
        return self.action is Action.ALLOW

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; holds no part of the text."""
        return {
            "schema": DETECTION_SCHEMA,
            "status": self.status.value,
            "action": self.action.value,
            "score": self.score,
            "threshold": self.threshold,
            "attack": self.attack,
            "band": self.band.value,
            "family": self.family,
            "families": dict(self.families),
            "signals": list(self.signals),
            "reasons": list(self.reasons),
            "faults": list(self.faults),
            "anomaly": self.anomaly,
            "distance": self.distance,
            "spans": [
                {
                    "start": span.start,
                    "end": span.end,
                    "source": span.source,
                    "label": span.label,
                    "family": span.family,
                    "weight": span.weight.value
                    if isinstance(span.weight, Severity)
                    else span.weight,
                    "via": list(span.via),
                }
                for span in self.spans
            ],
            "windows": [
                {
                    "start": window.start,
                    "end": window.end,
                    "score": window.score,
                    "logit": window.logit,
                    "encoder": window.encoder,
                    "ngrams": window.ngrams,
                    "rules": window.rules,
                    "family": window.family,
                    "via": list(window.via),
                }
                for window in self.windows
            ],
            "place": self.place,
            "digest": self.digest,
            "characters": self.characters,
            "read": self.read,
            "timings": dict(self.timings),
            "bundle": self.bundle,
            "rules": self.rules,
            "policy": self.policy,
        }

    def evidence(self) -> Evidence:
        """What ran: the digests of bundle, rules and policy, and the keyed one of the text."""
        if self.bundle is None:
            return NO_EVIDENCE
        return Evidence(
            EvidenceKind.ATTESTED,
            "detector",
            {
                "bundle": self.bundle,
                "rules": self.rules,
                "policy": self.policy,
                "text": self.digest,
            },
        )

    def to_outcome(self) -> Outcome[dict[str, Any]]:
        """The same as an outcome: a text that is held has no value, and its step says why."""
        result = {
            Status.ACCEPTED: StepResult.ACCEPTED,
            Status.FLAGGED: StepResult.FLAGGED,
            Status.REFUSED: StepResult.REFUSED,
        }[self.status]
        if self.status is Status.REFUSED and self.score is None:
            result = StepResult.ERROR if "error" in self.faults else StepResult.UNAVAILABLE
        proof = self.evidence()
        seconds = self.timings.get("total", 0.0) / 1e3
        step = Step("detector", result, "; ".join(self.reasons), seconds, evidence=(proof,))
        if not self.status.usable:
            return Outcome(self.status, None, (step,), action=self.action.value, route="detect")
        return Outcome(self.status, self.to_dict(), (step,), proof, route="detect")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The first layer's answer: what the rules hit, after disguises were taken off.

    digest        keyed digest of the text that it is about
    cut           what of the text was left out, None where nothing was
    processing_time_ms
                  for normalisation and rules
    rules         digest of the rule pack
    """

    digest: str
    hits: tuple[Hit, ...]
    place: str
    cut: str | None
    processing_time_ms: float
    normalised: Normalised = field(repr=False)
    rules: str = ""

    @property
    def has_threats(self) -> bool:
        """Whether any rule hit."""
        return bool(self.hits)

    @property
    def highest_severity(self) -> Severity | None:
        """Of the hits; None without any."""
        return worst_severity(self.hits)

    @property
    def families(self) -> tuple[str, ...]:
        """Of the hits, each once."""
        return tuple(dict.fromkeys(hit.family for hit in self.hits))


@dataclass(frozen=True, slots=True)
class L2Prediction:
    """One kind of attack that the second layer sees: its family, probability and reason."""

    family: str
    confidence: float
    explanation: str


@dataclass(frozen=True, slots=True)
class L2Result:
    """The second layer's answer, with the whole answer as `detection`.

    predictions  one a family that is likely, most likely first; empty for a text that is no attack
    confidence   the score; 0.0 where nothing judged, which `is_judged` tells apart
    """

    predictions: tuple[L2Prediction, ...]
    confidence: float
    processing_time_ms: float
    model_version: str
    detection: Detection = field(repr=False)

    @property
    def has_predictions(self) -> bool:
        """Whether any family was predicted."""
        return bool(self.predictions)

    @property
    def is_judged(self) -> bool:
        """Whether a model judged the text; without, there is no prediction and it is not clean."""
        return self.detection.score is not None

    @property
    def is_anomaly(self) -> bool:
        """Whether the text is unlike all training texts."""
        return self.detection.anomaly

    @property
    def status(self) -> Status:
        """As an outcome's."""
        return self.detection.status

    @property
    def action(self) -> Action:
        """What the policy prescribes."""
        return self.detection.action

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why."""
        return self.detection.reasons


_SEVERITIES = (Severity.LOW, Severity.MEDIUM, Severity.HIGH)


def worst_severity(hits: tuple[Hit, ...]) -> Severity | None:
    """The severest among the hits; None without any."""
    return max((hit.severity for hit in hits), key=_SEVERITIES.index, default=None)
