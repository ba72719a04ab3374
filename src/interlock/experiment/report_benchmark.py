"""The report's section on the benchmark itself: what the linter found."""

from __future__ import annotations

from interlock.experiment.figures import Analysis
from interlock.report import blocks
from interlock.report.page import Section

_SHOWN = 8


def benchmark_section(found: Analysis) -> Section | None:
    """Findings with counts and ids; None where the benchmark was not linted."""
    lint = found.lint
    if lint is None:
        return None
    counts = [lint.count("error"), lint.count("warning"), lint.count("note")]
    parts = [
        blocks.table(
            ["", "finding", "count", "what it says", "ids"],
            [
                [
                    finding.severity,
                    finding.code,
                    f"{finding.count:,}",
                    finding.message + (f" ({finding.hint})" if finding.hint else ""),
                    ", ".join(finding.ids[:_SHOWN])
                    + (
                        f" and {len(finding.ids) - _SHOWN} more"
                        if len(finding.ids) > _SHOWN
                        else ""
                    ),
                ]
                for finding in lint.findings
            ],
        )
        if lint.findings
        else blocks.verdict("accepted", "No finding", "The linter found nothing to name."),
        blocks.table(
            ["category", "prompts", "synthetic probes"],
            [[name or "(none)", n, made_up] for name, n, made_up in lint.categories],
        ),
    ]
    return Section(
        "The benchmark itself",
        f"{lint.path}: {counts[0]} errors, {counts[1]} warnings, {counts[2]} notes. A rate is "
        "worth no more than the labels behind it.",
        parts,
    )
