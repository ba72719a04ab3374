"""A finished run as one HTML page."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

import interlock
from interlock.kernel.outcome import Status
from interlock.report import blocks, svg
from interlock.report.blocks import Branch, Tone
from interlock.report.page import Page, Section
from interlock.summarize.asked import Summary
from interlock.summarize.contracts import Contracts
from interlock.summarize.lines import plain, unwrapped
from interlock.summarize.mark import GENERATOR
from interlock.summarize.plan import Node
from interlock.summarize.run import Finished, summary_of


def build(finished: Finished, contracts: Contracts) -> Page:
    """The page."""
    plan = finished.plan
    [top] = plan.level("repository")
    summary = summary_of(finished.outcomes[top.key])
    return Page(
        title=plain(plan.tree.name),
        lead=_lead(summary),
        opening=[_tiles(finished, contracts), _shares(finished)],
        sections=[
            _tree(finished, top),
            _contracts(contracts),
            _refused(finished),
            _skipped(finished),
            _settings(finished),
        ],
        footer=(
            f"interlock {interlock.__version__}. A summary that is marked extractive is the "
            "source's own words; no model wrote it. Every other one passed its checks, which "
            "say that it speaks of its source, not that it is right."
        ),
        generator=GENERATOR,
    )


def _lead(summary: Summary | None) -> str:
    if summary is None:
        return "There is no summary of the whole."
    mark = " (extractive)" if summary.origin == "extractive" else ""
    return unwrapped(summary.text) + mark


def _tiles(finished: Finished, contracts: Contracts) -> Markup:
    plan = finished.plan
    return blocks.tiles(
        [
            blocks.Tile("files", f"{len(plan.files):,}", f"{plan.tree.lines:,} lines"),
            blocks.Tile("chunks", f"{contracts.chunks:,}", f"{plan.options.chunks}"),
            blocks.Tile(
                "passed their checks",
                f"{contracts.success:.1%}",
                f"95%: {contracts.success_low:.1%} to {contracts.success_high:.1%}",
                "accepted" if contracts.success >= 0.95 else "refused",
            ),
            blocks.Tile("the model's own", f"{contracts.model_share:.1%}", "of the chunks"),
        ]
    )


def _shares(finished: Finished) -> Markup:
    counts = Counter(_standing(finished, node)[0] for node in finished.plan.level("chunk"))
    order: tuple[tuple[str, Tone], ...] = (
        ("model's", "accepted"),
        ("model's, flagged", "flagged"),
        ("extractive", "routed"),
        ("refused", "refused"),
        ("failed", "failed"),
    )
    shares = [(name, tone, counts[name]) for name, tone in order]
    return svg.stacked_bar(shares, caption="Chunks by who wrote their summary")


def _standing(finished: Finished, node: Node) -> tuple[str, Tone]:
    """How a node's summary stands, in a word, and the tone of it."""
    outcome = finished.outcomes[node.key]
    summary = summary_of(outcome)
    if summary is None:
        return ("refused", "refused") if outcome.status is Status.REFUSED else ("failed", "failed")
    if summary.origin == "extractive":
        return "extractive", "routed"
    if outcome.status is Status.FLAGGED:
        return "model's, flagged", "flagged"
    return "model's", "accepted"


def _tree(finished: Finished, top: Node) -> Section:
    # No recursion, as a tree may be deeper than the interpreter calls: parts come first.
    branches: dict[str, Branch] = {}
    for key, node in finished.plan.nodes.items():
        parts = node.parts if node.level != "file" or len(node.parts) > 1 else ()
        branches[key] = _branch(finished, node, tuple(branches[part] for part in parts))
    return Section(
        "Tree",
        "Folders, files and chunks. Open one to see its parts; the colour says who wrote the "
        "summary: the model, or, in blue, the source itself.",
        [blocks.tree(branches[part] for part in top.parts)],
    )


def _branch(finished: Finished, node: Node, children: tuple[Branch, ...]) -> Branch:
    outcome = finished.outcomes[node.key]
    summary = summary_of(outcome)
    standing, tone = _standing(finished, node)
    name = node.asked.name or node.key.removeprefix("chunk ")
    note = standing
    if summary is not None and summary.confidence is not None:
        note += f", confidence {summary.confidence:.2f}"
    return Branch(
        title=plain(name) + ("/" if node.level == "folder" else ""),
        text=unwrapped(summary.text) if summary else "; ".join(outcome.reasons),
        note=note,
        tone=tone,
        children=children,
    )


def _contracts(contracts: Contracts) -> Section:
    held = {True: "kept", False: "missed", None: ""}
    figures = [
        ("median service time a chunk", _seconds(contracts.chunk_seconds_median)),
        ("longest", _seconds(contracts.chunk_seconds_longest)),
        ("cores kept busy", "not measured" if contracts.busy is None else f"{contracts.busy:.0%}"),
        ("chunks asked for in this start", f"{contracts.asked:,}"),
        ("wall time of this start", f"{contracts.seconds:.1f} s"),
        (
            "tokens a second",
            "" if contracts.tokens_a_second is None else f"{contracts.tokens_a_second:,.0f}",
        ),
    ]
    return Section(
        "Contracts",
        "What was promised of parallel summaries, as this start measured it.",
        [
            blocks.table(
                ("contract", "measured", "bar", ""),
                [(name, value, bar, held[kept]) for name, value, bar, kept in contracts.kept()],
            ),
            blocks.facts(figures),
        ],
    )


def _refused(finished: Finished) -> Section:
    reasons: Counter[str] = Counter()
    for outcome in finished.outcomes.values():
        for step in outcome.steps:
            if step.reason and not step.result.answered:
                reasons[f"{step.name}: {_kind(step.reason)}"] += 1
    return Section(
        "What was turned down",
        "Answers that a guard refused, and engines that gave none; the next step took over.",
        [blocks.table(("reason", "times"), reasons.most_common(20))]
        if reasons
        else [blocks.paragraph("Nothing.")],
    )


def _kind(reason: str) -> str:
    """A reason without what is particular to one summary."""
    if reason.startswith("names "):
        return "names something that is not in the source"
    if reason.endswith("names and words are in the source"):
        return "too few of its names and words are in the source"
    if "characters; the limit is" in reason:
        return "longer than its limit"
    return reason


def _skipped(finished: Finished) -> Section:
    skipped = finished.plan.tree.skipped
    rows = [(plain(item.path), item.reason) for item in skipped[:200]]
    more = len(skipped) - len(rows)
    return Section(
        "Not summarised",
        f"{len(skipped):,} files and folders, each with its reason."
        + (f" {more:,} more are in summary.json." if more else ""),
        [blocks.table(("path", "reason"), rows)] if rows else [blocks.paragraph("None.")],
    )


def _settings(finished: Finished) -> Section:
    plan = finished.plan
    return Section(
        "How it was made",
        "The same settings, model and source give the same summaries.",
        [
            blocks.facts(
                [
                    ("model", plan.models.name or "none: extractive summaries only"),
                    *((f"digest of {each.name}", each.digest) for each in plan.models),
                    *([("the model saw", plan.options.view)] if plan.models.name else []),
                    ("chunks", f"{plan.options.chunks}, {plan.options.chunk_lines} lines"),
                    ("token budget of an input", f"{plan.budget.tokens:,}"),
                    ("instances", plan.options.instances),
                    ("seed", plan.options.seed),
                    ("run", finished.run_id),
                ]
            )
        ],
    )


def _seconds(value: float | None) -> str:
    return "the model was not asked" if value is None else f"{value:.2f} s"
