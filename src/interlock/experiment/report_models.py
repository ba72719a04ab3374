"""Sections of the report on several models: comparisons, temperature sweeps, calibration."""

from __future__ import annotations

from collections import defaultdict

from markupsafe import Markup

from interlock.experiment.figures import Analysis, RateRow
from interlock.experiment.report_words import TONES, labels, percent, tones
from interlock.report import blocks, svg, whiskers
from interlock.report.page import Section


def comparison_section(found: Analysis) -> Section | None:
    """Differences between models on the same prompts; None for a single one."""
    if not found.comparisons:
        return None
    names = labels(found)
    drawn: list[whiskers.Interval | str] = []
    rows = []
    last = ""
    for row in found.comparisons:
        one = row.comparison
        if row.scorer != last:
            drawn.append(row.scorer)
            last = row.scorer
        assert one.p_holm is not None
        pair = f"{names[one.second]} − {names[one.first]}"
        tone: blocks.Tone = "routed" if one.p_holm <= 0.05 else "failed"
        words = f"{percent(one.difference, signed=True)} · p {_p(one.p_holm)}"
        drawn.append(whiskers.Interval(pair, tone, one.difference, one.low, one.high, words))
        rows.append(
            [
                row.scorer,
                pair,
                one.n,
                one.left_out,
                one.second_only,
                one.first_only,
                percent(one.difference, signed=True),
                f"{percent(one.low, signed=True)} to {percent(one.high, signed=True)}",
                one.test,
                _p(one.p),
                _p(one.p_holm),
                "" if one.detectable is None else percent(one.detectable),
            ]
        )
    reach = max(
        0.05,
        *(max(abs(r.comparison.low), abs(r.comparison.high)) for r in found.comparisons),
    )
    return Section(
        "Models compared on the same prompts",
        "Each pair is judged on the prompts for which both have a verdict. p is corrected by Holm "
        f"for all {len(found.comparisons)} comparisons of this report.",
        [
            whiskers.forest(
                drawn,
                svg.Axis("difference in the share of yes", -reach, reach),
                guides=[(0.0, "")],
                key=[("differs at 5%", "routed"), ("does not show a difference", "failed")],
                caption="Paired bootstrap over prompts.",
            ),
            blocks.details(
                "The figures",
                [
                    blocks.table(
                        [
                            "scorer",
                            "second − first",
                            "prompts",
                            "left out",
                            "second only yes",
                            "first only yes",
                            "difference",
                            "interval",
                            "test",
                            "p",
                            "p after Holm",
                            "detectable at 80% power",
                        ],
                        rows,
                    )
                ],
            ),
        ],
    )


def sweep_section(found: Analysis) -> Section | None:
    """Rates over temperature for models that were run at several; None without one."""
    models: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for summary in found.variants:
        if summary.temperature is not None:
            models[summary.model].append((summary.temperature, summary.variant))
    swept = {
        model: sorted(points)
        for model, points in models.items()
        if len({temperature for temperature, _ in points}) > 1
    }
    if not swept:
        return None
    overall: dict[tuple[str, str], RateRow] = {
        (row.scorer, row.variant): row for row in found.rates if row.group == "all"
    }
    hottest = max(t for points in swept.values() for t, _ in points)
    pictures = []
    for scorer in found.scorers:
        groups = []
        for place, (model, points) in enumerate(swept.items()):
            drawn = [
                (t, row.rate.share, row.rate.low, row.rate.high)
                for t, variant in points
                if (row := overall.get((scorer.name, variant))) is not None
                and row.rate.share is not None
            ]
            if drawn:
                groups.append((model, TONES[place % len(TONES)], drawn))
        # What never happens at any temperature is no picture.
        if any(share for _, _, points in groups for _, share, _, _ in points):
            pictures.append(
                whiskers.bars_of_error(
                    groups,
                    svg.Axis("temperature", 0.0, max(hottest, 0.1)),
                    svg.Axis(scorer.name, 0.0, 1.0),
                    joined=True,
                    height=320,
                    caption=scorer.question,
                )
            )
    return Section(
        "Temperature",
        "The same prompts at each temperature. Neighbouring points share their prompts, so "
        "overlapping intervals do not mean that there is no trend; the comparisons above are "
        "paired.",
        [svg.side_by_side(pictures)],
    )


def calibration_section(found: Analysis) -> Section | None:
    """Confidence against correctness; None where no answer has logprobs."""
    if not found.calibrations:
        return None
    names, colours = labels(found), tones(found)
    pictures: list[Markup] = []
    for scorer in found.scorers:
        groups = [
            (
                names[row.variant],
                colours[row.variant],
                [(b.confidence, b.share, b.low, b.high) for b in row.calibration.bins],
            )
            for row in found.calibrations
            if row.scorer == scorer.name
        ]
        if groups:
            pictures.append(
                whiskers.bars_of_error(
                    groups,
                    svg.Axis("mean token probability", 0.0, 1.0),
                    svg.Axis(f"share right ({scorer.name})", 0.0, 1.0),
                    diagonal="calibrated",
                    caption=f"Bins of equal size, by rising confidence: {scorer.name}.",
                )
            )
    rows = [
        [
            row.scorer,
            names[row.variant],
            c.n,
            percent(c.accuracy),
            percent(c.mean_confidence),
            f"{c.ece:.3f} ({c.ece_low:.3f} to {c.ece_high:.3f})",
            f"{c.ece_perfect:.3f}",
            f"{c.brier:.3f}",
            "one kind only"
            if c.auroc is None or c.auroc_low is None or c.auroc_high is None
            else f"{c.auroc:.3f} ({c.auroc_low:.3f} to {c.auroc_high:.3f})",
        ]
        for row in found.calibrations
        for c in [row.calibration]
    ]
    return Section(
        "Does the model know when it is right?",
        "On the dashed line an answer's probability is how often it is right. Points below it are "
        "overconfident.",
        [
            svg.side_by_side(pictures),
            blocks.table(
                [
                    "scorer",
                    "model",
                    "n",
                    "right",
                    "mean confidence",
                    "ECE",
                    "ECE if calibrated",
                    "Brier",
                    "AUROC",
                ],
                rows,
            ),
        ],
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
