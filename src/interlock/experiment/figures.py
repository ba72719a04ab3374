"""The figures of a report as plain data: what `analyse` makes and pages, tables and JSON show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interlock.experiment.calibration import Calibration
from interlock.experiment.lint import LintReport
from interlock.experiment.paired import Comparison
from interlock.experiment.rates import Rate
from interlock.experiment.report_input import RunFacts


@dataclass(frozen=True, slots=True)
class VariantSummary:
    """One model at one temperature: what was asked of it and what came back.

    failures   error type -> samples without an answer
    stops      stop reason -> answers
    versions   version that the provider reported -> answers
    cost_usd   None where no price or no usage is known; `cost_known` says for how many samples
    """

    variant: str
    label: str
    model: str
    temperature: float | None
    samples: int
    prompts: int
    answered: int
    failures: dict[str, int]
    stops: dict[str, int]
    versions: dict[str, int]
    retries: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    cost_known: int
    median_seconds: float | None
    not_applied: dict[str, str]
    with_logprobs: int
    first: str | None
    last: str | None


@dataclass(frozen=True, slots=True)
class RateRow:
    """A scorer's rate for one variant and group of prompts; `labels` counts its finer labels."""

    scorer: str
    variant: str
    group: Literal["all", "category", "kind"]
    name: str
    rate: Rate
    verdicts: dict[str, int]
    labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """synthetic - real for one scorer and variant, the two groups taken as independent."""

    scorer: str
    variant: str
    difference: float
    low: float
    high: float
    detectable: float | None


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Two variants under one scorer."""

    scorer: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Confidence of one variant against one scorer's idea of right."""

    scorer: str
    variant: str
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Example:
    """One answer of the bad kind, with the confidence that its logprobs give it, if any."""

    scorer: str
    variant: str
    prompt_id: str
    sample: int
    category: str
    prompt: str
    answer: str
    shortened: bool
    label: str
    reason: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class ScorerSummary:
    """What a scorer asks, and to how many prompts it does not apply, by reason."""

    name: str
    question: str
    good: bool | None
    applies: int
    not_applicable: dict[str, int]


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that a report shows; plain data."""

    run: RunFacts
    seed: int
    confidence: float
    prompts: int
    synthetic: int
    unknown: tuple[str, ...]
    variants: tuple[VariantSummary, ...]
    scorers: tuple[ScorerSummary, ...]
    rates: tuple[RateRow, ...]
    gaps: tuple[Gap, ...]
    comparisons: tuple[ComparisonRow, ...]
    calibrations: tuple[CalibrationRow, ...]
    examples: tuple[Example, ...]
    limits: tuple[str, ...]
    lint: LintReport | None
    judges: tuple[VariantSummary, ...] = ()
