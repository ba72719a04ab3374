"""Score a run, analyse it and write its report, as `interlock experiment report` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from interlock.experiment.analysis import Scored, analyse, score_answers, summaries
from interlock.experiment.figures import Analysis
from interlock.experiment.judge import read_judge
from interlock.experiment.lint import lint_prompts
from interlock.experiment.report_input import load_answers
from interlock.experiment.scoring import Scorer, make_scorers, unique

DEFAULT_SCORERS = ("hallucination", "existence", "refusal", "hedging")
"""Scorers of a report that names none; `exact` and `regex` join where a prompt has a gold text."""


@dataclass(frozen=True)
class Report:
    """The figures, and the verdicts behind them."""

    analysis: Analysis
    scored: tuple[Scored, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, the same for the same input."""
        plain: dict[str, Any] = msgspec.to_builtins(self.analysis)
        return plain


def make_report(
    source: Path | str,
    *,
    prompts: Path | str | None = None,
    run_id: str | None = None,
    scorers: Sequence[Scorer] | None = None,
    judges: Sequence[Path] = (),
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 2000,
    examples: int = 3,
) -> Report:
    """Read a run directory or result file and compute everything that its report shows.

    judges  directories of judges' runs on the answers; each judge becomes a scorer

    Raises InputError where there is nothing to report on.
    """
    answers = load_answers(source, prompts=prompts, run_id=run_id)
    asked = list(answers.prompts.values())
    if scorers is None:
        scorers = make_scorers(DEFAULT_SCORERS, base=Path())
        gold = make_scorers(("exact", "regex"), base=Path())
        scorers += [s for s in gold if any(s.applies(prompt) is None for prompt in asked)]
    judge_runs = [read_judge(Path(judge)) for judge in judges]
    scorers = unique([*scorers, *(s for run in judge_runs for s in run.scorers)])
    scored = score_answers(answers, scorers)
    analysis = analyse(
        answers,
        scorers,
        scored=scored,
        lint=lint_prompts(asked, answers.facts.prompts_file or answers.facts.name, scorers),
        seed=seed,
        confidence=confidence,
        resamples=resamples,
        examples=examples,
        judges=[summary for run in judge_runs for summary in summaries(run.answers)],
    )
    return Report(analysis, tuple(scored))


def write_report(report: Report, output: Path, written: str) -> Path:
    """Write the HTML page, whole or not at all; raises StorageError where that fails.

    written  the time to put at its foot
    """
    from interlock.experiment.report_page import build
    from interlock.report.page import write

    return write(build(report.analysis, written), output)
