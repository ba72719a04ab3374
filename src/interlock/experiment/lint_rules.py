"""The linter's rules on references, labels and balance; a rule is added to `RULES`.

Each takes the prompts and yields findings.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from interlock.experiment.entities import CVE, cve_ids, subject
from interlock.experiment.lint_finding import Finding, ids_of
from interlock.experiment.lint_texts import duplicates, identifiers, leaks, templates
from interlock.experiment.prompts import Prompt
from interlock.experiment.scorers import Existence, asks_for_format, exists_label

_SAYS_MISSING = re.compile(
    r"\bnon-?existent\b|\bdo(?:es)?(?:n't| not) exist\b|\bdidn't exist\b|"
    r"\bnot (?:an? )?(?:real|defined|AWS)\b",
    re.IGNORECASE,
)
_SAYS_EXISTS = re.compile(r"^\W*(?:yes\b|exists\b|published\b|valid\b)", re.IGNORECASE)


def _description(prompt: Prompt) -> str:
    label = prompt.gold_label
    found: Any = label.get("description") if isinstance(label, Mapping) else None
    return found if isinstance(found, str) else ""


def references(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """CVEs that a prompt names and its references do not, and the other way round."""
    naming = [prompt for prompt in prompts if cve_ids(prompt.text)]
    # Benchmarks without references at all are not misaligned.
    if not any(prompt.gold_refs for prompt in prompts):
        return
    refs = {prompt.id: {str(ref).upper() for ref in prompt.gold_refs} for prompt in prompts}
    without = [p for p in naming if not refs[p.id] & set(cve_ids(p.text))]
    listed = len(naming) - len(without)
    wrong = [p for p in without if p.gold_refs]
    if wrong:
        yield Finding(
            "refs-misaligned",
            "error",
            f"{len(naming)} prompts name a CVE and {listed} list it in gold_refs; {len(wrong)} "
            "list other references instead",
            len(wrong),
            ids_of(wrong),
            "do not score against gold_refs; it seems to hold the references of other prompts",
        )
    # A made-up identifier has no reference.
    empty = [p for p in without if not p.gold_refs and exists_label(p) is not False]
    if empty:
        yield Finding(
            "refs-missing",
            "warning",
            f"{len(naming)} prompts name a CVE and {listed} list it in gold_refs; {len(empty)} "
            "list no reference at all",
            len(empty),
            ids_of(empty),
        )
    foreign = [
        prompt
        for prompt in naming
        if any(CVE.fullmatch(ref) for ref in refs[prompt.id] - set(cve_ids(prompt.text)))
    ]
    if foreign:
        yield Finding(
            "refs-foreign",
            "warning",
            f"{len(foreign)} prompts list CVEs in gold_refs that they do not name",
            len(foreign),
            ids_of(foreign),
            "harmless where they are related reading, wrong where they are another prompt's",
        )


def labels(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Labels that are missing, contradict their own description, or one another."""
    null = [prompt for prompt in prompts if exists_label(prompt) is None]
    if null:
        yield Finding(
            "label-null",
            "warning",
            f"gold_label.exists is null for {len(null)} of {len(prompts)} prompts, "
            f"{sum(p.is_synthetic for p in null)} of them synthetic probes",
            len(null),
            ids_of(null),
            "no scorer that needs the label can use them",
        )
    described = [p for p in null if p.is_synthetic and _SAYS_MISSING.search(_description(p))]
    if described:
        yield Finding(
            "label-null-but-described",
            "warning",
            f"{len(described)} synthetic probes have a null label whose description says that the "
            "thing does not exist",
            len(described),
            ids_of(described),
            "set gold_label.exists to false where it is the thing asked about that is missing",
        )
    existing = [p for p in prompts if p.is_synthetic and exists_label(p) is True]
    if existing:
        yield Finding(
            "synthetic-labelled-existing",
            "error",
            f"{len(existing)} synthetic probes are labelled as existing",
            len(existing),
            ids_of(existing),
            "correct the label or the flag; the scorer 'hallucination' leaves them out",
        )
    missing = [p for p in prompts if not p.is_synthetic and exists_label(p) is False]
    if missing:
        yield Finding(
            "real-labelled-missing",
            "error",
            f"{len(missing)} prompts that are no synthetic probes are labelled as not existing",
            len(missing),
            ids_of(missing),
            "correct the label or the flag",
        )
    opposite = [
        p
        for p in prompts
        if (exists_label(p) is True and _SAYS_MISSING.search(_description(p)))
        or (exists_label(p) is False and _SAYS_EXISTS.search(_description(p)))
    ]
    if opposite:
        yield Finding(
            "label-against-description",
            "error",
            f"{len(opposite)} labels say the opposite of their description",
            len(opposite),
            ids_of(opposite),
        )
    of_format = [p for p in prompts if exists_label(p) is not None and asks_for_format(p)]
    if of_format:
        yield Finding(
            "label-answers-format",
            "warning",
            f"{len(of_format)} prompts ask whether an identifier is well-formed, and their label "
            "of existence answers that question instead",
            len(of_format),
            ids_of(of_format),
            "the scorers of existence leave them out",
        )


def conflicts(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """One thing that is labelled as existing here and as missing there."""
    by_thing: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        thing = subject(prompt)
        if thing and exists_label(prompt) is not None:
            by_thing[thing.upper()].append(prompt)
    torn = {
        thing: found
        for thing, found in by_thing.items()
        if len({exists_label(prompt) for prompt in found}) > 1
    }
    if torn:
        found = [prompt for group in torn.values() for prompt in group]
        yield Finding(
            "labels-conflict",
            "error",
            f"labelled both ways: {', '.join(sorted(torn)[:10])}{', …' if len(torn) > 10 else ''}",
            len(torn),
            ids_of(found),
        )


def balance(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Categories of very different size, and labels that a constant answer would get right."""
    sizes = Counter(prompt.category for prompt in prompts)
    if len(sizes) > 1 and max(sizes.values()) > 2 * min(sizes.values()):
        large, small = max(sizes, key=lambda c: sizes[c]), min(sizes, key=lambda c: sizes[c])
        yield Finding(
            "category-imbalance",
            "warning",
            f"category {large!r} has {sizes[large]} prompts, {small!r} has {sizes[small]}",
            sizes[large] - sizes[small],
            (),
            "read the rates of each category, not the overall rate alone",
        )
    shares = {
        c: sum(p.is_synthetic for p in prompts if p.category == c) / n for c, n in sizes.items()
    }
    if len(shares) > 1 and max(shares.values()) - min(shares.values()) > 0.2:
        most, least = max(shares, key=lambda c: shares[c]), min(shares, key=lambda c: shares[c])
        yield Finding(
            "synthetic-imbalance",
            "note",
            f"{shares[most]:.0%} of category {most!r} are synthetic probes, {shares[least]:.0%} of "
            f"{least!r}",
            len(shares),
            (),
            "compare real with synthetic inside a category: overall it compares categories too",
        )
    scorer = Existence()
    usable = [p for p in prompts if scorer.applies(p) is None]
    exist = sum(exists_label(p) is True for p in usable)
    if usable and max(exist, len(usable) - exist) > 0.6 * len(usable):
        word = "exists" if 2 * exist > len(usable) else "does not exist"
        share = max(exist, len(usable) - exist) / len(usable)
        yield Finding(
            "label-imbalance",
            "warning",
            f"of {len(usable)} prompts with a usable label of existence, {share:.0%} say that the "
            f"thing {word}: a model that always says so is right that often",
            abs(2 * exist - len(usable)),
            (),
            "report both kinds apart",
        )


RULES: tuple[Callable[[Sequence[Prompt]], Iterator[Finding]], ...] = (
    references,
    labels,
    conflicts,
    duplicates,
    templates,
    leaks,
    identifiers,
    balance,
)
