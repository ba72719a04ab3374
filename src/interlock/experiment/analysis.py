"""From answers to figures: rates, gaps, comparisons, calibration, sweeps, and what they cannot say.

Everything is a function of the answers, the scorers and the seed: the same input gives the same
figures.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from interlock.experiment.calibration import Calibration, answer_confidence, calibrate
from interlock.experiment.figures import (
    Analysis,
    CalibrationRow,
    ComparisonRow,
    Example,
    Gap,
    RateRow,
    ScorerSummary,
    VariantSummary,
)
from interlock.experiment.limits_of_data import limits_of_data
from interlock.experiment.lint import LintReport
from interlock.experiment.paired import compare, detectable_unpaired, holm
from interlock.experiment.prompts import Prompt
from interlock.experiment.rates import difference, rate
from interlock.experiment.records import PromptResult
from interlock.experiment.report_input import Answers, variant_of
from interlock.experiment.scoring import Score, Scorer, Verdict, evaluate, has_answer

EXCERPT = 600
"""Characters of an answer that a report shows."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer under one scorer."""

    scorer: str
    variant: str
    prompt: Prompt
    result: PromptResult
    score: Score


def score_answers(answers: Answers, scorers: Sequence[Scorer]) -> list[Scored]:
    """Every scorer on every answer, in the order of the answers."""
    found: dict[str, list[Scored]] = {scorer.name: [] for scorer in scorers}
    for result in answers.results:
        prompt = answers.prompts[result.prompt_id]
        # All scorers of one answer in a row, since several read the same stance.
        for scorer in scorers:
            found[scorer.name].append(
                Scored(
                    scorer.name,
                    variant_of(result),
                    prompt,
                    result,
                    evaluate(scorer, prompt, result),
                )
            )
    return [one for each in found.values() for one in each]


def analyse(
    answers: Answers,
    scorers: Sequence[Scorer],
    *,
    scored: Sequence[Scored] | None = None,
    lint: LintReport | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 2000,
    examples: int = 3,
    judges: Sequence[VariantSummary] = (),
) -> Analysis:
    """All figures of a report.

    scored    what `score_answers` gave, where it is at hand
    examples  answers to show a scorer and variant
    judges    what was asked of judges, for their cost and failures
    """
    found = score_answers(answers, scorers) if scored is None else scored
    by: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for one in found:
        by[one.scorer, one.variant].append(one)
    rates: list[RateRow] = []
    gaps: list[Gap] = []
    comparisons: list[ComparisonRow] = []
    calibrations: list[CalibrationRow] = []
    shown: list[Example] = []
    for scorer in scorers:
        for name in answers.variants:
            rows = [
                s for s in by[scorer.name, name] if s.score.verdict is not Verdict.NOT_APPLICABLE
            ]
            if not rows:
                continue
            made = _rates(scorer, name, rows, seed, confidence, resamples)
            rates += made
            gap = _gap(scorer, name, made)
            if gap is not None:
                gaps.append(gap)
            if scorer.good is None:
                continue
            calibration = _calibration(scorer, name, rows, seed, resamples)
            if calibration is not None:
                calibrations.append(CalibrationRow(scorer.name, name, calibration))
            met = {(example.variant, example.prompt_id) for example in shown}
            shown += _examples(
                scorer, name, [r for r in rows if (name, r.prompt.id) not in met], examples
            )
        if scorer.good is not None:
            # Each further comparison costs the others power.
            comparisons += _comparisons(scorer, answers.variants, by, seed, resamples, confidence)
    corrected = holm([row.comparison.p for row in comparisons])
    comparisons = [
        replace(row, comparison=replace(row.comparison, p_holm=p))
        for row, p in zip(comparisons, corrected, strict=True)
    ]
    analysis = Analysis(
        run=answers.facts,
        seed=seed,
        confidence=confidence,
        prompts=len(answers.prompts),
        synthetic=sum(prompt.is_synthetic for prompt in answers.prompts.values()),
        unknown=answers.unknown,
        variants=tuple(summaries(answers)),
        scorers=tuple(_scorer_summary(scorer, answers) for scorer in scorers),
        rates=tuple(rates),
        gaps=tuple(gaps),
        comparisons=tuple(comparisons),
        calibrations=tuple(calibrations),
        examples=tuple(shown),
        limits=(),
        lint=lint,
        judges=tuple(judges),
    )
    return replace(analysis, limits=tuple(limits_of_data(analysis)))


def summaries(answers: Answers) -> list[VariantSummary]:
    """What was asked of each variant and what came back."""
    groups: dict[str, list[PromptResult]] = {name: [] for name in answers.variants}
    for result in answers.results:
        groups[variant_of(result)].append(result)
    plain = Counter(found[0].model for found in groups.values())
    warm = Counter(_with_temperature(found[0]) for found in groups.values())
    return [
        _summary(
            name,
            found,
            # The shortest name that no other variant has.
            found[0].model
            if plain[found[0].model] == 1
            else (_with_temperature(found[0]) if warm[_with_temperature(found[0])] == 1 else name),
        )
        for name, found in groups.items()
    ]


def _with_temperature(result: PromptResult) -> str:
    return f"{result.model}, temperature {result.sampling_params.get('temperature')}"


def _summary(variant: str, found: list[PromptResult], label: str) -> VariantSummary:
    answered = [result for result in found if has_answer(result)]
    failed = [result for result in found if not has_answer(result)]
    costs = [r.cost_usd for r in found if r.cost_usd is not None]
    times = sorted(r.timestamp for r in found if r.timestamp)
    temperature = found[0].sampling_params.get("temperature")
    seconds = [r.elapsed_seconds for r in answered if r.elapsed_seconds]
    return VariantSummary(
        variant=variant,
        label=label,
        model=found[0].model,
        temperature=temperature,
        samples=len(found),
        prompts=len({r.prompt_id for r in found}),
        answered=len(answered),
        failures=_counted(r.error_type or "unknown" for r in failed),
        stops=_counted(r.stop_reason or "not recorded" for r in answered),
        versions=_counted(r.model_version for r in answered if r.model_version),
        retries=sum(r.retry_count for r in found),
        input_tokens=sum(r.tokens_used.get("input") or 0 for r in found),
        output_tokens=sum(r.tokens_used.get("output") or 0 for r in found),
        cost_usd=sum(costs) if costs else None,
        cost_known=len(costs),
        median_seconds=statistics.median(seconds) if seconds else None,
        not_applied={k: v for r in found for k, v in (r.not_applied or {}).items()},
        with_logprobs=sum(bool(r.token_logprobs) for r in found),
        first=times[0] if times else None,
        last=times[-1] if times else None,
    )


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _rates(
    scorer: Scorer,
    variant: str,
    rows: list[Scored],
    seed: int,
    confidence: float,
    resamples: int,
) -> list[RateRow]:
    groups: dict[tuple[Literal["all", "category", "kind"], str], list[Scored]] = {("all", ""): rows}
    for row in rows:
        groups.setdefault(("category", row.prompt.category), []).append(row)
        kind = "synthetic" if row.prompt.is_synthetic else "real"
        groups.setdefault(("kind", kind), []).append(row)
    order = {"all": 0, "kind": 1, "category": 2}
    return [
        RateRow(
            scorer.name,
            variant,
            group,
            name,
            rate(
                [row.score.verdict.counts for row in chosen],
                [row.prompt.id for row in chosen],
                name=f"{scorer.name} {variant} {group} {name}",
                seed=seed,
                confidence=confidence,
                resamples=resamples,
            ),
            _counted(row.score.verdict.value for row in chosen),
            _counted(row.score.label for row in chosen if row.score.label),
        )
        for (group, name), chosen in sorted(
            groups.items(), key=lambda item: (order[item[0][0]], item[0][1])
        )
    ]


def _gap(scorer: Scorer, variant: str, rows: list[RateRow]) -> Gap | None:
    kinds = {row.name: row.rate for row in rows if row.group == "kind"}
    if set(kinds) != {"real", "synthetic"}:
        return None
    real, synthetic = kinds["real"], kinds["synthetic"]
    found = difference(real, synthetic)
    if found is None or real.share is None:
        return None
    # Prompts, not samples: repeats of a prompt add less than prompts do.
    detectable = detectable_unpaired(
        real.clusters, synthetic.clusters, min(real.share, 1 - real.share)
    )
    return Gap(scorer.name, variant, *found, detectable)


def _comparisons(
    scorer: Scorer,
    variants: Sequence[str],
    by: dict[tuple[str, str], list[Scored]],
    seed: int,
    resamples: int,
    confidence: float,
) -> list[ComparisonRow]:
    verdicts = {name: _by_prompt(by[scorer.name, name]) for name in variants}
    usable = [name for name in variants if any(verdicts[name].values())]
    return [
        ComparisonRow(
            scorer.name,
            compare(
                first,
                second,
                verdicts[first],
                verdicts[second],
                seed=seed,
                resamples=resamples,
                confidence=confidence,
            ),
        )
        for place, first in enumerate(usable)
        for second in usable[place + 1 :]
    ]


def _by_prompt(rows: Sequence[Scored]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for row in rows:
        verdict = row.score.verdict.counts
        if verdict is not None:
            found.setdefault(row.prompt.id, []).append(verdict)
    return found


def confidence_of(result: PromptResult) -> float | None:
    """The confidence that an answer's logprobs give it; None without them."""
    temperature = result.sampling_params.get("temperature")
    return answer_confidence(
        result.token_logprobs, temperature if isinstance(temperature, int | float) else None
    )


def _calibration(
    scorer: Scorer, variant: str, rows: list[Scored], seed: int, resamples: int
) -> Calibration | None:
    pairs = [
        (sure, row.score.verdict.counts == scorer.good, row.prompt.id)
        for row in rows
        if row.score.verdict.counts is not None and (sure := confidence_of(row.result)) is not None
    ]
    return calibrate(
        [sure for sure, _, _ in pairs],
        [right for _, right, _ in pairs],
        [key for _, _, key in pairs],
        name=f"{scorer.name} {variant}",
        seed=seed,
        resamples=min(resamples, 1000),
    )


def _examples(scorer: Scorer, variant: str, rows: list[Scored], wanted: int) -> list[Example]:
    bad = [r for r in rows if r.score.verdict.counts == (not scorer.good)]
    # The surest first; without logprobs, in the order of the benchmark.
    ranked = sorted(bad, key=lambda row: -(confidence_of(row.result) or 0.0))
    shown: dict[str, Example] = {}
    for row in ranked:
        if len(shown) == wanted:
            break
        text = row.result.full_response.strip()
        shown.setdefault(
            row.prompt.id,
            Example(
                scorer=scorer.name,
                variant=variant,
                prompt_id=row.prompt.id,
                sample=row.result.sample_index,
                category=row.prompt.category,
                prompt=row.prompt.text[:EXCERPT],
                answer=text[:EXCERPT],
                shortened=len(text) > EXCERPT,
                label=row.score.label,
                reason=row.score.reason[:EXCERPT],
                confidence=confidence_of(row.result),
            ),
        )
    return list(shown.values())


def _scorer_summary(scorer: Scorer, answers: Answers) -> ScorerSummary:
    reasons = [_reason(scorer, prompt) for prompt in answers.prompts.values()]
    return ScorerSummary(
        scorer.name,
        scorer.question,
        scorer.good,
        sum(reason is None for reason in reasons),
        _counted(reason for reason in reasons if reason is not None),
    )


def _reason(scorer: Scorer, prompt: Prompt) -> str | None:
    try:
        return scorer.applies(prompt)
    except Exception as error:  # noqa: BLE001  a user's scorer must not end the report
        return f"the scorer raised {type(error).__name__}"
