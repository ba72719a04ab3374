"""What cannot be concluded from a run, one sentence a reason, derived from its figures."""

from __future__ import annotations

from collections.abc import Iterator

from interlock.experiment.figures import Analysis


def limits_of_data(found: Analysis) -> Iterator[str]:
    """Sentences for the report's last section, the gravest first."""
    yield from _missing(found)
    yield from _applicability(found)
    yield from _comparisons(found)
    yield from _truncated(found)
    if any(row.group == "kind" for row in found.rates):
        yield (
            "Real prompts and synthetic probes are different questions: a gap between them mixes "
            "what the model knows with how hard the questions are."
        )
    if found.calibrations:
        yield (
            "Confidence is the mean probability of the recorded tokens, which says how likely the "
            "wording was, not how likely the statement is true. Answers that the scorer left "
            "undecided are not in the calibration."
        )
    if any(summary.samples == summary.prompts for summary in found.variants):
        yield (
            "One sample a prompt says nothing of how much an answer varies when it is asked again."
        )
    if found.lint is not None and any(f.code == "template" for f in found.lint.findings):
        yield (
            "Many prompts share a template. The intervals take prompts as independent draws: they "
            "speak of more prompts like these, not of other templates or topics."
        )
    named = {summary.name for summary in found.scorers}
    if named & {"existence", "hallucination", "refusal", "hedging"}:
        yield (
            "Stances are read from English text by rules that disagree with people now and then. "
            "Annotate a sample (`interlock experiment annotate`) before a small difference is "
            "believed."
        )
    if any(name.startswith("judge") for name in named):
        yield (
            "The judge is a model too: it favours long and fluent answers, may share the errors of "
            "the model that it judges, and its verdict is an opinion, not a label."
        )
    yield (
        "Intervals cover sampling alone. Wrong labels, a benchmark that was in a training set and "
        "another version of a model are not in them."
    )


def _missing(found: Analysis) -> Iterator[str]:
    for summary in found.variants:
        lost = summary.samples - summary.answered
        if lost:
            kinds = ", ".join(f"{name} {n}" for name, n in summary.failures.items())
            yield (
                f"{summary.label}: {lost} of {summary.samples} samples have no answer ({kinds}). "
                "Rates leave them out; the bounds say what they could change."
            )
    if found.unknown:
        yield (
            f"{len(found.unknown)} prompts have results and are not in the prompts file; their "
            "results are not scored."
        )


def _applicability(found: Analysis) -> Iterator[str]:
    for scorer in found.scorers:
        if scorer.applies == 0:
            yield f"{scorer.name} applies to no prompt of this run, so it says nothing."
        elif scorer.applies < found.prompts:
            yield (
                f"{scorer.name} applies to {scorer.applies} of {found.prompts} prompts; it says "
                "nothing of the others."
            )
    labels = {summary.variant: summary.label for summary in found.variants}
    for row in found.rates:
        if row.group == "all" and row.rate.missing > row.rate.n:
            yield (
                f"{row.scorer}, {labels[row.variant]}: {row.rate.missing} answers are undecided or "
                f"missing and only {row.rate.n} decided; the share describes the latter alone."
            )


def _comparisons(found: Analysis) -> Iterator[str]:
    if len(found.variants) < 2:
        yield "One model was run: nothing here says whether another one does better."
    open_ones = sum(
        row.comparison.p_holm is not None and row.comparison.p_holm > 0.05
        for row in found.comparisons
    )
    if open_ones:
        yield (
            f"{open_ones} of {len(found.comparisons)} comparisons show no difference at 5% after "
            "Holm's correction. That is no proof of equality: the column of detectable differences "
            "says how large one may be and stay unseen."
        )


def _truncated(found: Analysis) -> Iterator[str]:
    for summary in found.variants:
        cut = summary.stops.get("max_tokens", 0)
        if cut:
            yield (
                f"{summary.label}: {cut} of {summary.answered} answers were cut by the token "
                "limit; what they would have said later is unknown."
            )
