"""A finished run as a Markdown tree: folders, files and chunks as nested lists."""

from __future__ import annotations

import re
from collections.abc import Iterator

from interlock.summarize.contracts import Contracts
from interlock.summarize.lines import plain, unwrapped
from interlock.summarize.mark import MARKDOWN_LINE
from interlock.summarize.plan import Node
from interlock.summarize.run import Finished, summary_of


def render(finished: Finished, contracts: Contracts) -> str:
    """The whole text."""
    plan = finished.plan
    [top] = plan.level("repository")
    lines = [
        MARKDOWN_LINE,
        "",
        f"# {_text(plan.tree.name)}",
        "",
        _said(finished, top),
        "",
        f"{len(plan.files):,} files, {plan.tree.lines:,} lines, {contracts.chunks:,} chunks "
        f"({plan.options.chunks})"
        + (f"; the model saw {_view(plan.options.view)}." if plan.models.name else "."),
        f"Model: {_text(plan.models.name or 'none')}"
        f"{''.join(f' ({each.digest})' for each in plan.models)}.",
        f"{contracts.success:.1%} of the chunks have a summary that passed its checks, "
        f"{contracts.model_share:.1%} the model's own. *Extractive* ones are the source's own "
        "words, and no model's.",
        "",
        "## Tree",
        "",
        *_tree(finished, top),
        "",
        "## Contracts",
        "",
        "| contract | measured | bar | |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {measured} | {bar} | {_held(held)} |"
            for name, measured, bar, held in contracts.kept()
        ),
    ]
    if plan.tree.skipped:
        lines += ["", "## Not summarised", ""]
        lines += [f"- `{_code(item.path)}`: {item.reason}" for item in plan.tree.skipped]
    return "\n".join(lines) + "\n"


def _tree(finished: Finished, top: Node) -> Iterator[str]:
    # No recursion: a tree may be deeper than the interpreter calls.
    ahead = [(key, 0) for key in reversed(top.parts)]
    while ahead:
        key, depth = ahead.pop()
        part = finished.plan.nodes[key]
        yield f"{'  ' * depth}- {_name(part)} {_said(finished, part)}"
        # A file's only chunk says the same as the file.
        if len(part.parts) != 1 or part.level != "file":
            ahead += [(inner, depth + 1) for inner in reversed(part.parts)]


def _name(node: Node) -> str:
    if node.level == "chunk":
        return f"`{_code(node.key.removeprefix('chunk '))}`"
    return f"**{_text(node.asked.name)}{'/' if node.level == 'folder' else ''}**"


def _said(finished: Finished, node: Node) -> str:
    outcome = finished.outcomes[node.key]
    summary = summary_of(outcome)
    if summary is None:
        return f"*{outcome.status.value}*: {_text('; '.join(outcome.reasons))}"
    marks = ["extractive"] if summary.origin == "extractive" else []
    if outcome.status.value == "flagged":
        marks.append(f"flagged: {outcome.steps[-1].reason}")
    mark = f" *({_text('; '.join(marks))})*" if marks else ""
    return f"{_text(unwrapped(summary.text))}{mark}"


def _view(view: str) -> str:
    return {
        "full": "the full text",
        "stripped": "the text without comments",
        "signatures": "signatures and doc comments",
    }[view]


def _held(held: bool | None) -> str:
    return {True: "kept", False: "**missed**", None: ""}[held]


def _text(text: str) -> str:
    """Text of others on one line, so that nothing in it is taken for Markdown or HTML."""
    return re.sub(r"([\\*_{}\[\]<>#|~`])", r"\\\1", plain(text))


def _code(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text).replace("`", "'")
