"""A finished run as one JSON document, and the map of the repository for other tools."""

from __future__ import annotations

from typing import Any

import interlock
from interlock.kernel.outcome import Outcome
from interlock.summarize.contracts import Contracts, status_counts
from interlock.summarize.mark import GENERATOR
from interlock.summarize.plan import Node
from interlock.summarize.run import Finished, summary_of

SCHEMA = 1


def document(finished: Finished, contracts: Contracts) -> dict[str, Any]:
    """Everything, by node; docs/reference/summarize.md describes the fields."""
    plan = finished.plan
    return {
        "generator": GENERATOR,
        "schema": SCHEMA,
        "tool": f"interlock {interlock.__version__}",
        "root": plan.tree.name,
        "run": finished.run_id,
        "settings": {
            "chunks": plan.options.chunks,
            "chunk_lines": plan.options.chunk_lines,
            "input": plan.options.view,
            "budget_tokens": plan.budget.tokens,
            "seed": plan.options.seed,
            "model": plan.models.name,
            "model_digests": [each.digest for each in plan.models],
        },
        "files": len(plan.files),
        "lines": plan.tree.lines,
        "chunks": len(plan.level("chunk")),
        "counts": {status.value: count for status, count in status_counts(finished).items()},
        "reused": len(finished.reused),
        "contracts": contracts,
        "nodes": [
            node_document(node, finished.outcomes[key], plan.model_digest(node))
            for key, node in plan.nodes.items()
        ],
        "skipped": plan.tree.skipped,
    }


def node_document(node: Node, outcome: Outcome[Any], model: str) -> dict[str, Any]:
    """One summary with where it comes from."""
    summary = summary_of(outcome)
    by_model = summary is not None and summary.origin == "model"
    return {
        "key": node.key,
        "level": node.level,
        "path": node.path,
        "language": node.asked.language,
        "status": outcome.status.value,
        "summary": None if summary is None else summary.text,
        "origin": None if summary is None else summary.origin,
        "step": outcome.steps[-1].name if outcome.status.usable else None,
        "reasons": list(outcome.reasons),
        "confidence": None if summary is None else summary.confidence,
        "model_digest": model if by_model else None,
        "input": node.view,
        "notes": [note for note in node.notes if note],
        "tokens": {
            "input": 0 if summary is None else summary.spent.input_tokens,
            "output": 0 if summary is None else summary.spent.output_tokens,
            "attempts": 0 if summary is None else summary.spent.attempts,
        },
        "seconds": 0.0 if summary is None else summary.spent.seconds,
        "parts": list(node.parts),
        "sources": list(node.sources),
        "address": node.address,
    }


def repository_map(finished: Finished) -> dict[str, Any]:
    """Files with their language, size, summary and definitions, for tools that look code up.

    Line numbers begin at 1. A file without a summary has null there.
    """
    plan = finished.plan
    by_file = {node.path: node.key for node in plan.level("file")}
    entries = []
    for file in plan.files:
        path = file.file.path
        key = by_file.get(path)
        summary = None if key is None else summary_of(finished.outcomes[key])
        symbols = () if file.outline is None else file.outline.symbols
        entries.append(
            {
                "path": path,
                "language": file.file.language.name,
                "lines": len(file.file.lines),
                "sha256": file.file.digest,
                "summary": None if summary is None else summary.text,
                "origin": None if summary is None else summary.origin,
                "symbols": [
                    {
                        "kind": symbol.kind,
                        "name": symbol.name,
                        "signature": symbol.signature,
                        "first": symbol.first,
                        "last": symbol.last,
                        "depth": symbol.depth,
                    }
                    for symbol in symbols
                ],
            }
        )
    folders = [
        {
            "path": node.path,
            "summary": None if summary is None else summary.text,
            "origin": None if summary is None else summary.origin,
        }
        for node in (*plan.level("folder"), *plan.level("repository"))
        for summary in (summary_of(finished.outcomes[node.key]),)
    ]
    return {
        "generator": GENERATOR,
        "schema": SCHEMA,
        "root": plan.tree.name,
        "folders": folders,
        "files": entries,
    }
