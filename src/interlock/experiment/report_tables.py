"""Verdicts and rates as CSV or JSON lines, one row each, for other tools."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from interlock.experiment.analysis import Scored, confidence_of
from interlock.experiment.figures import Analysis
from interlock.kernel.errors import InputError
from interlock.report.page import write_whole

_RISKY = ("=", "+", "-", "@", "\t", "\r")


def score_rows(scored: Iterable[Scored]) -> list[dict[str, Any]]:
    """One row an answer and scorer."""
    return [
        {
            "scorer": one.scorer,
            "variant": one.variant,
            "model": one.result.model,
            "prompt_id": one.prompt.id,
            "sample": one.result.sample_index,
            "category": one.prompt.category,
            "is_synthetic_probe": one.prompt.is_synthetic,
            "verdict": one.score.verdict.value,
            "label": one.score.label,
            "reason": one.score.reason,
            "confidence": confidence_of(one.result),
        }
        for one in scored
    ]


def rate_rows(found: Analysis) -> list[dict[str, Any]]:
    """One row a rate, with its interval and bounds."""
    return [
        {
            "scorer": row.scorer,
            "variant": row.variant,
            "group": row.group,
            "name": row.name,
            "yes": row.rate.yes,
            "n": row.rate.n,
            "share": row.rate.share,
            "low": row.rate.low,
            "high": row.rate.high,
            "confidence": row.rate.confidence,
            "interval": row.rate.interval,
            "prompts": row.rate.clusters,
            "missing": row.rate.missing,
            "lowest": row.rate.lowest,
            "highest": row.rate.highest,
        }
        for row in found.rates
    ]


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write rows to a `.csv` or `.jsonl` file, whole or not at all.

    A CSV cell that a spreadsheet would run as a formula gets an apostrophe in front; JSON lines
    hold every value as it is. Raises InputError for another ending, StorageError where writing
    fails.
    """
    check_path(path)
    if path.suffix == ".jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return write_whole(path, lines.encode("utf-8", "backslashreplace"))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def check_path(path: Path) -> None:
    """Raise InputError for a file that is neither CSV nor JSON lines by its ending."""
    if path.suffix not in (".csv", ".jsonl"):
        raise InputError(f"{path.name} must end in .csv or .jsonl")


def csv_cell(value: Any) -> Any:
    """A value as it may stand in a spreadsheet."""
    if isinstance(value, str) and value.startswith(_RISKY):
        return "'" + value
    return value
