"""The linter's rules: each takes the prompts and yields findings. A rule is added to `RULES`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from interlock.experiment.entities import CVE, can_be_assigned, cve_ids, subject
from interlock.experiment.near_duplicates import near_duplicates, normal_text
from interlock.experiment.prompts import Prompt
from interlock.experiment.scorers import Existence, asks_for_format, exists_label


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of defect. An error spoils results, a warning biases or wastes, a note informs."""

    code: str
    severity: Literal["error", "warning", "note"]
    message: str
    count: int
    ids: tuple[str, ...] = ()
    hint: str = ""


_SAYS_MISSING = re.compile(
    r"\bnon-?existent\b|\bdo(?:es)?(?:n't| not) exist\b|\bdidn't exist\b|"
    r"\bnot (?:an? )?(?:real|defined|AWS)\b",
    re.IGNORECASE,
)
_SAYS_EXISTS = re.compile(r"^\W*(?:yes\b|exists\b|published\b|valid\b)", re.IGNORECASE)
_GIVES_AWAY = re.compile(
    r"\b(?:fictional|fictitious|made[- ]up|fake|non-?existent|does not exist|hypothetical|"
    r"if none exist|if (?:it|this) (?:does not|doesn't) exist)\b",
    re.IGNORECASE,
)
_ID_LABEL = re.compile(r"synth|fake|real(?![a-z])", re.IGNORECASE)
_REPEATED = re.compile(r"CVE-\d+-(\d)\1{4,}$|CVE-\d+-0{2,}\d*$", re.IGNORECASE)


def _description(prompt: Prompt) -> str:
    label = prompt.gold_label
    found: Any = label.get("description") if isinstance(label, Mapping) else None
    return found if isinstance(found, str) else ""


def _ids(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    return tuple(prompt.id for prompt in prompts)


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
            _ids(wrong),
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
            _ids(empty),
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
            _ids(foreign),
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
            _ids(null),
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
            _ids(described),
            "set gold_label.exists to false where it is the thing asked about that is missing",
        )
    existing = [p for p in prompts if p.is_synthetic and exists_label(p) is True]
    if existing:
        yield Finding(
            "synthetic-labelled-existing",
            "error",
            f"{len(existing)} synthetic probes are labelled as existing",
            len(existing),
            _ids(existing),
            "correct the label or the flag; the scorer 'hallucination' leaves them out",
        )
    missing = [p for p in prompts if not p.is_synthetic and exists_label(p) is False]
    if missing:
        yield Finding(
            "real-labelled-missing",
            "error",
            f"{len(missing)} prompts that are no synthetic probes are labelled as not existing",
            len(missing),
            _ids(missing),
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
            _ids(opposite),
        )
    of_format = [p for p in prompts if exists_label(p) is not None and asks_for_format(p)]
    if of_format:
        yield Finding(
            "label-answers-format",
            "warning",
            f"{len(of_format)} prompts ask whether an identifier is well-formed, and their label "
            "of existence answers that question instead",
            len(of_format),
            _ids(of_format),
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
            f"{len(torn)} things are labelled both ways: {', '.join(sorted(torn)[:10])}",
            len(torn),
            _ids(found),
        )


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
            _ids(again),
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
            _ids(telling),
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
            _ids(named),
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
            _ids(odd),
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
            _ids(hit),
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
            _ids(impossible),
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
            _ids(may_come),
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
            _ids(mixed),
            "what is made up in them is something else; a label of existence cannot say what",
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
