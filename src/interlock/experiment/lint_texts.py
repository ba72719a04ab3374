"""The linter's rules on texts and identifiers: repetition, ways to guess the label, dates."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from interlock.experiment.entities import CVE, can_be_assigned, cve_ids, subject
from interlock.experiment.lint_finding import Finding, ids_of
from interlock.experiment.near_duplicates import near_duplicates, normal_text
from interlock.experiment.prompts import Prompt
from interlock.experiment.scorers import asks_for_format, exists_label

_GIVES_AWAY = re.compile(
    r"\b(?:fictional|fictitious|made[- ]up|fake|non-?existent|does not exist|hypothetical|"
    r"if none exist|if (?:it|this) (?:does not|doesn't) exist)\b",
    re.IGNORECASE,
)
_ID_LABEL = re.compile(r"synth|fake|real(?![a-z])", re.IGNORECASE)
_REPEATED = re.compile(r"CVE-\d+-(\d)\1{4,}$|CVE-\d+-0{2,}\d*$", re.IGNORECASE)


def duplicates(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """The same text again, and texts that differ in a few words."""
    texts: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        texts[normal_text(prompt.text)].append(prompt)
    again = [prompt for group in texts.values() for prompt in group[1:]]
    if again:
        yield Finding(
            "duplicate-text",
            "warning",
            f"{len(again)} prompts repeat the text of another one",
            len(again),
            ids_of(again),
            "they count twice in every rate and narrow its interval without reason",
        )
    keys = [tuple(sorted(cve_ids(p.text))) or (subject(p) or "") for p in prompts]
    pairs = near_duplicates([prompt.text for prompt in prompts], keys)
    if pairs:
        named = [f"{prompts[i].id} and {prompts[j].id} ({alike:.2f})" for i, j, alike in pairs]
        yield Finding(
            "near-duplicate",
            "warning",
            f"{len(pairs)} pairs of prompts about the same thing share at least 80% of their word "
            f"triples: {', '.join(named[:5])}{', …' if len(pairs) > 5 else ''}",
            len(pairs),
            tuple(dict.fromkeys(prompts[k].id for i, j, _ in pairs for k in (i, j))),
        )


def templates(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Prompts that differ in the name of the thing alone."""
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        thing = subject(prompt)
        text = CVE.sub("CVE", prompt.text)
        groups[normal_text(text.replace(thing, "THING") if thing else text)].append(prompt)
    shared = sorted((g for g in groups.values() if len(g) > 1), key=len, reverse=True)
    inside = sum(len(group) for group in shared)
    if shared:
        yield Finding(
            "template",
            "note",
            f"{inside} prompts come from {len(shared)} templates and differ in a name alone; the "
            f"largest has {len(shared[0])}",
            inside,
            (),
            "answers to one template resemble one another: intervals that take prompts as "
            "independent are too narrow for claims about other templates",
        )


def leaks(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Ways to tell synthetic probes from real ones without knowing the thing."""
    telling = [p for p in prompts if _GIVES_AWAY.search(p.text)]
    if telling:
        yield Finding(
            "label-in-text",
            "warning",
            f"{len(telling)} prompts hint in their own words that the thing may not exist",
            len(telling),
            ids_of(telling),
        )
    made_up = [p for p in prompts if p.is_synthetic]
    if not made_up or len(made_up) == len(prompts):
        return
    named = [
        p
        for p in prompts
        if any(isinstance(v, str) and _ID_LABEL.search(v) for v in (p.id, *p.extra.values()))
    ]
    if named:
        yield Finding(
            "label-in-id",
            "note",
            f"{len(named)} prompts carry their kind in an id or another field",
            len(named),
            ids_of(named),
            "never show these fields to a model or to an annotator; the annotators' export hides "
            "them",
        )
    odd = [p for p in made_up if any(_REPEATED.search(cve) for cve in cve_ids(p.text))]
    plain = [
        p
        for p in prompts
        if not p.is_synthetic and any(_REPEATED.search(cve) for cve in cve_ids(p.text))
    ]
    if odd:
        yield Finding(
            "shortcut-digits",
            "warning",
            f"{len(odd)} synthetic probes name a CVE of repeated digits or leading zeros, "
            f"{len(plain)} real prompts do: their look gives them away",
            len(odd),
            ids_of(odd),
            "a model may deny them by their look, without knowing which identifiers exist",
        )
    words = _telling_words(prompts)
    if words:
        hit = [p for p in made_up if _starts(p) & set(words)]
        yield Finding(
            "shortcut-words",
            "warning",
            f"{len(hit)} synthetic probes hold a name that begins with one of "
            f"{', '.join(words[:8])}, which no real prompt has",
            len(hit),
            ids_of(hit),
            "a model may deny them by their style alone",
        )
    first = next(k for k, prompt in enumerate(prompts) if prompt.is_synthetic)
    if first >= max(8, len(prompts) / 4):
        yield Finding(
            "order",
            "warning",
            f"the first {first} prompts hold no synthetic probe",
            first,
            (),
            "take a stratified subset, not the first prompts",
        )


def _starts(prompt: Prompt) -> set[str]:
    """First six letters of the capitalised words of a text, where they begin no sentence."""
    return {
        word[:6].lower()
        for word in re.findall(r"(?<![.?!:]\s)(?<!^)\b[A-Z][A-Za-z]{5,}", prompt.text)
    }


def _telling_words(prompts: Sequence[Prompt]) -> list[str]:
    made_up: Counter[str] = Counter()
    real: Counter[str] = Counter()
    for prompt in prompts:
        (made_up if prompt.is_synthetic else real).update(_starts(prompt))
    return [word for word, n in made_up.most_common() if n >= 4 and not real[word]]


def identifiers(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Identifiers that cannot exist, and made-up ones that may be assigned some day."""
    single = [(p, ids[0]) for p in prompts if len(ids := cve_ids(p.text)) == 1]
    impossible = [
        p
        for p, cve in single
        if not p.is_synthetic and not can_be_assigned(cve) and not asks_for_format(p)
    ]
    if impossible:
        yield Finding(
            "impossible-identifier",
            "error",
            f"{len(impossible)} real prompts name a CVE that the syntax does not allow",
            len(impossible),
            ids_of(impossible),
        )
    may_come = [
        p
        for p, cve in single
        if p.is_synthetic and exists_label(p) is False and can_be_assigned(cve)
    ]
    if may_come:
        yield Finding(
            "label-may-expire",
            "note",
            f"{len(may_come)} synthetic probes name well-formed identifiers, which may have been "
            "assigned since the benchmark was written",
            len(may_come),
            ids_of(may_come),
            "look them up again before each study, or use identifiers that can never be assigned",
        )
    known = {cve for p, cve in single if exists_label(p) is True and not asks_for_format(p)}
    mixed = [p for p in prompts if p.is_synthetic and any(cve in known for cve in cve_ids(p.text))]
    if mixed:
        yield Finding(
            "synthetic-names-real",
            "note",
            f"{len(mixed)} synthetic probes name a CVE that other prompts label as existing",
            len(mixed),
            ids_of(mixed),
            "what is made up in them is something else; a label of existence cannot say what",
        )
