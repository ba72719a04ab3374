"""An experiment's report as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from interlock import __version__
from interlock.experiment.figures import Analysis, RateRow, ScorerSummary, VariantSummary
from interlock.experiment.report_benchmark import benchmark_section
from interlock.experiment.report_models import (
    calibration_section,
    comparison_section,
    sweep_section,
)
from interlock.experiment.report_words import interval_words, labels, percent, tones
from interlock.report import blocks, svg, whiskers
from interlock.report.page import Page, Section

_FAILURES = {
    "content_filter": "held back by a filter",
    "empty_answer": "answered with nothing",
    "missing": "no record",
}
_HEADLINES = 2  # scorers that get a tile


def build(found: Analysis, written: str) -> Page:
    """The page; `written` is the time at its foot, the only thing that two calls may differ in."""
    asking = [scorer for scorer in found.scorers if scorer.applies]
    sections: list[Section | None] = [_scorer(found, scorer) for scorer in asking]
    sections += [
        _requests(found),
        comparison_section(found),
        sweep_section(found),
        calibration_section(found),
        _examples(found),
        benchmark_section(found),
        _run(found),
        Section(
            "What cannot be concluded",
            "A report that lists only what was found is read as more than it is.",
            [blocks.listing(found.limits)],
        ),
    ]
    models = {summary.model for summary in found.variants}
    return Page(
        title=f"Experiment report: {found.run.name}",
        lead=(
            f"{_names(sorted(models))} on {found.prompts:,} prompts, {found.synthetic:,} of them "
            "synthetic probes. Every share carries its interval and "
            "its n; what failed or could not be decided is counted, not dropped."
        ),
        opening=[_tiles(found)],
        sections=[section for section in sections if section is not None],
        footer=(
            f"Intervals at {found.confidence:.0%}; resampling seeded with {found.seed}. Written "
            f"{written} by `interlock experiment report`."
        ),
    )


def _names(models: Sequence[str]) -> str:
    shown = [model.rsplit("/", 1)[-1] for model in models]
    if len(shown) == 1:
        return shown[0]
    if len(shown) > 4:
        return f"{len(shown)} models"
    return ", ".join(shown[:-1]) + " and " + shown[-1]


def _tiles(found: Analysis) -> Markup:
    samples = sum(summary.samples for summary in found.variants)
    answered = sum(summary.answered for summary in found.variants)
    costs = [summary.cost_usd for summary in found.variants if summary.cost_usd is not None]
    tiles = [
        blocks.Tile(
            "answers",
            f"{answered:,}",
            "to every request" if answered == samples else f"of {samples:,} requests",
            "accepted" if answered == samples else "refused",
        )
    ]
    for scorer in found.scorers:
        rows = [
            row
            for row in found.rates
            if row.scorer == scorer.name and row.group == "all" and row.rate.share is not None
        ]
        if scorer.good is None or not rows or len(tiles) > _HEADLINES:
            continue
        shares = [row.rate.share for row in rows if row.rate.share is not None]
        if len(rows) == 1:
            value = percent(shares[0])
            note = interval_words(rows[0].rate)
        else:
            value = f"{100 * min(shares):.0f}–{100 * max(shares):.0f}%"
            note = f"the range of {len(rows)} models"
        tiles.append(
            blocks.Tile(_short(scorer), value, note, "accepted" if scorer.good else "refused")
        )
    tiles.append(
        blocks.Tile("cost", f"${sum(costs):,.2f}", "by the price table")
        if costs and sum(costs)
        else blocks.Tile("cost", "none", "no paid request was recorded")
    )
    return blocks.tiles(tiles)


def _short(scorer: ScorerSummary) -> str:
    return {
        "existence": "right about existence",
        "hallucination": "made-up things taken as real",
    }.get(scorer.name, scorer.name)


def _requests(found: Analysis) -> Section:
    # A bar for each model where there are few, else for those to which something happened.
    bars = [
        svg.stacked_bar(_fates(summary), caption=summary.label)
        for summary in found.variants
        if len(found.variants) < 4 or len(_fates(summary)) > 1
    ]
    rows = [
        [
            ("judge: " if place >= len(found.variants) else "") + summary.label,
            ", ".join(summary.versions) or "not reported",
            f"{summary.samples:,}",
            f"{summary.answered:,}",
            f"{summary.stops.get('max_tokens', 0):,}",
            f"{summary.retries:,}",
            f"{summary.input_tokens:,}",
            f"{summary.output_tokens:,}",
            "" if summary.cost_usd is None else f"${summary.cost_usd:,.4f}",
            "" if summary.median_seconds is None else f"{summary.median_seconds:.2f}",
        ]
        for place, summary in enumerate((*found.variants, *found.judges))
    ]
    parts: list[Markup] = [
        *bars,
        blocks.table(
            [
                "model",
                "version that answered",
                "requests",
                "answered",
                "cut by the limit",
                "retries",
                "tokens in",
                "tokens out",
                "cost",
                "median seconds",
            ],
            rows,
        ),
    ]
    for summary in found.variants:
        if summary.not_applied:
            listed = "; ".join(f"{name}: {why}" for name, why in summary.not_applied.items())
            parts.append(
                blocks.verdict(
                    "flagged", f"{summary.label}: sampling parameters not applied", listed
                )
            )
    return Section(
        "What became of every request",
        "Each request ends in exactly one way. What failed is missing from the rates below, and "
        "the bounds beside them say what it could change.",
        parts,
    )


def _fates(summary: VariantSummary) -> list[tuple[str, blocks.Tone, int]]:
    stops = summary.stops
    refused = stops.get("refusal", 0)
    cut = stops.get("max_tokens", 0)
    fates: list[tuple[str, blocks.Tone, int]] = [
        ("complete", "accepted", summary.answered - refused - cut),
        ("cut by the token limit", "flagged", cut),
        ("refused by the provider", "routed", refused),
        *(
            (_FAILURES.get(name, f"failed: {name}"), "refused", n)
            for name, n in summary.failures.items()
        ),
    ]
    return [fate for fate in fates if fate[2]]


def _scorer(found: Analysis, scorer: ScorerSummary) -> Section:
    rows = [row for row in found.rates if row.scorer == scorer.name]
    names, colours = labels(found), tones(found)
    one_kind = len({row.name for row in rows if row.group == "kind"}) < 2
    chart = [row for row in rows if row.group != "kind" or not one_kind]
    axis = svg.Axis("share of decided answers", 0.0, 1.0)
    caption = (
        f"Share of yes with its {found.confidence:.0%} interval. Small groups have wide intervals; "
        "that is their message."
    )
    figures = blocks.details("The figures", [_figures(rows, names), _verdicts(rows, names)])
    if len(names) == 1:
        alone = [_interval(row, colours[row.variant]) for row in chart]
        parts = [whiskers.forest(alone, axis, caption=caption), figures]
    else:
        narrow = _grouped([row for row in chart if row.group == "category"], names, colours)
        wide = _grouped([row for row in chart if row.group != "category"], names, colours)
        parts = [
            whiskers.forest(wide, axis, caption=caption),
            blocks.details("By category", [whiskers.forest(narrow, axis)]),
            figures,
        ]
    gaps = [gap for gap in found.gaps if gap.scorer == scorer.name]
    if gaps:
        parts.append(
            blocks.table(
                [
                    "synthetic − real",
                    "difference",
                    "interval",
                    "smallest change seen (power 80%)",
                ],
                [
                    [
                        names[gap.variant],
                        percent(gap.difference, signed=True),
                        f"{percent(gap.low, signed=True)} to {percent(gap.high, signed=True)}",
                        "" if gap.detectable is None else percent(gap.detectable),
                    ]
                    for gap in gaps
                ],
            )
        )
    if scorer.not_applicable:
        reasons = "; ".join(f"{why} ({n})" for why, n in scorer.not_applicable.items())
        parts.append(blocks.paragraph(f"Does not apply to the other prompts: {reasons}."))
    title = scorer.question[:1].upper() + scorer.question[1:]
    wish = {True: "A yes is good.", False: "A yes is bad.", None: "A yes is neither good nor bad."}
    return Section(
        title,
        f"Scorer {scorer.name}, on {scorer.applies:,} of {found.prompts:,} prompts. "
        f"{wish[scorer.good]}",
        parts,
    )


def _grouped(
    rows: Sequence[RateRow], names: dict[str, str], colours: dict[str, blocks.Tone]
) -> list[whiskers.Interval | str]:
    """Models below one another within each group of prompts."""
    drawn: list[whiskers.Interval | str] = []
    for heading in dict.fromkeys(_group_name(row) for row in rows):
        drawn.append(heading)
        drawn += [
            replace(_interval(row, colours[row.variant]), name=names[row.variant], strong=False)
            for row in rows
            if _group_name(row) == heading
        ]
    return drawn


def _group_name(row: RateRow) -> str:
    named = {"all": "all prompts", "kind": f"{row.name} prompts"}.get(row.group, row.name)
    return (named or "(no category)").replace("_", " ")


def _interval(row: RateRow, tone: blocks.Tone) -> whiskers.Interval:
    rate = row.rate
    words = "no verdict"
    if rate.share is not None:
        words = f"{percent(rate.share)} · {rate.yes} of {rate.n}"
    return whiskers.Interval(
        _group_name(row), tone, rate.share, rate.low, rate.high, words, row.group == "all"
    )


def _figures(rows: Sequence[RateRow], names: dict[str, str]) -> Markup:
    return blocks.table(
        [
            "model",
            "group",
            "yes",
            "decided",
            "share",
            "interval",
            "method",
            "prompts",
            "missing",
            "if all missing were no … yes",
        ],
        [
            [
                names[row.variant],
                (row.name or "all").replace("_", " "),
                row.rate.yes,
                row.rate.n,
                percent(row.rate.share),
                f"{percent(row.rate.low)} to {percent(row.rate.high)}",
                row.rate.interval,
                row.rate.clusters,
                row.rate.missing,
                f"{percent(row.rate.lowest)} … {percent(row.rate.highest)}",
            ]
            for row in rows
        ],
    )


def _verdicts(rows: Sequence[RateRow], names: dict[str, str]) -> Markup:
    whole = [row for row in rows if row.group == "all"]
    return blocks.table(
        ["model", "verdicts", "finer labels"],
        [
            [
                names[row.variant],
                ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in row.verdicts.items()),
                ", ".join(f"{name} {n}" for name, n in row.labels.items()),
            ]
            for row in whole
        ],
    )


def _examples(found: Analysis) -> Section | None:
    if not found.examples:
        return None
    names = labels(found)
    shown = []
    for example in found.examples:
        sure = "" if example.confidence is None else f" Confidence {example.confidence:.2f}."
        because = f" Read from: “{example.reason}”" if example.reason else ""
        shown.append(
            blocks.quotation(
                "refused",
                f"{names[example.variant]} on {example.prompt_id} ({example.scorer})",
                example.prompt,
                example.answer + (" …" if example.shortened else ""),
                f"{example.label or 'the answer does not fit'}.{sure}{because}",
            )
        )
    return Section(
        "The worst answers",
        "Of each kind the surest ones, by the answer's own probability where it is known, in the "
        "order of the benchmark where it is not. Model output, quoted as it came.",
        shown,
    )


def _run(found: Analysis) -> Section:
    run = found.run
    times = [time for summary in found.variants for time in (summary.first, summary.last) if time]
    facts: list[tuple[str, object]] = [
        ("run", run.run_id or run.name),
        ("started", run.started or "not recorded"),
        ("first answer", min(times) if times else "not recorded"),
        ("last answer", max(times) if times else "not recorded"),
        ("prompts file", run.prompts_file or "not recorded"),
        ("its SHA-256", run.prompts_sha256 or "not recorded"),
        (
            "prompts asked",
            f"{found.prompts:,}"
            + (f" of {run.total_prompts:,}" if run.total_prompts is not None else ""),
        ),
        ("samples a prompt", run.samples),
        ("report made by", f"interlock {__version__}"),
    ]
    return Section(
        "What was run",
        "Enough to run it again. Keys are never recorded.",
        [
            blocks.facts(facts),
            blocks.details(
                "The configuration",
                [blocks.preformatted(json.dumps(run.config, indent=2, ensure_ascii=False))],
            ),
        ],
    )
