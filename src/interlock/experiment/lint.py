"""What is wrong with a benchmark, by count and id, and which scorers can use which prompts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from interlock.experiment.lint_finding import Finding
from interlock.experiment.lint_rules import RULES
from interlock.experiment.prompts import Problem, Prompt, scan_prompts
from interlock.experiment.scoring import Scorer
from interlock.kernel.errors import InputError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Usable:
    """How many prompts a scorer applies to, and why not to the others: (reason, ids)."""

    scorer: str
    question: str
    prompts: int
    not_usable: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class LintReport:
    """A benchmark's findings, errors first.

    sha256      of the file; None where no file was read
    prompts     well-formed prompts
    synthetic   of them, synthetic probes
    categories  (name, prompts, synthetic probes)
    """

    path: str
    sha256: str | None
    prompts: int
    synthetic: int
    categories: tuple[tuple[str, int, int], ...]
    findings: tuple[Finding, ...]
    usable: tuple[Usable, ...]

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def lint(path: Path | str, scorers: Sequence[Scorer]) -> LintReport:
    """Read a prompts file and name its defects; raises InputError where it cannot be read."""
    path = Path(path)
    prompts: list[Prompt] = []
    problems: list[Problem] = []
    for found in scan_prompts(path):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            prompts.append(found)
    findings = _metadata(path, prompts)
    if problems:
        findings.append(
            Finding(
                "malformed",
                "error",
                f"{len(problems)} entries are malformed: "
                + "; ".join(str(problem) for problem in problems[:20])
                + ("; …" if len(problems) > 20 else ""),
                len(problems),
            )
        )
    return lint_prompts(prompts, path.name, scorers, sha256=_digest(path), more=findings)


def lint_prompts(
    prompts: Sequence[Prompt],
    name: str,
    scorers: Sequence[Scorer],
    *,
    sha256: str | None = None,
    more: Sequence[Finding] = (),
) -> LintReport:
    """The same for prompts that were read already; `more` are findings of reading them."""
    findings = [finding for rule in RULES for finding in rule(prompts)] + list(more)
    order = {"error": 0, "warning": 1, "note": 2}
    categories = Counter(prompt.category for prompt in prompts)
    made_up = Counter(prompt.category for prompt in prompts if prompt.is_synthetic)
    return LintReport(
        path=name,
        sha256=sha256,
        prompts=len(prompts),
        synthetic=made_up.total(),
        categories=tuple((name, n, made_up[name]) for name, n in sorted(categories.items())),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.severity])),
        usable=tuple(_usable(scorer, prompts) for scorer in scorers),
    )


def _usable(scorer: Scorer, prompts: Sequence[Prompt]) -> Usable:
    reasons: dict[str, list[str]] = {}
    usable = 0
    for prompt in prompts:
        reason = scorer.applies(prompt)
        if reason is None:
            usable += 1
        else:
            reasons.setdefault(reason, []).append(prompt.id)
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return Usable(
        scorer.name, scorer.question, usable, tuple((why, tuple(ids)) for why, ids in ranked)
    )


def _metadata(path: Path, prompts: Sequence[Prompt]) -> list[Finding]:
    """Counts that the file states of itself against what it holds."""
    if path.suffix == ".jsonl":
        return []
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, RecursionError):
        return []  # reported line by line
    stated: Any = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(stated, dict):
        return []
    synthetic = sum(prompt.is_synthetic for prompt in prompts)
    held = {
        "total_prompts": len(prompts),
        "synthetic_prompts": synthetic,
        "real_prompts": len(prompts) - synthetic,
    }
    wrong = [
        f"{name} says {stated[name]}, the file holds {n}"
        for name, n in held.items()
        if name in stated and stated[name] != n
    ]
    if not wrong:
        return []
    return [Finding("metadata-disagrees", "warning", "; ".join(wrong), len(wrong))]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
