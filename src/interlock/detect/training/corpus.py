"""Labelled texts, cut into labelled windows.

A text is an attack or not; what its windows are is known for harmless texts (none is an attack),
for short ones (the text is the window) and where the attack's place in the text is known. For the
rest it stays open: at least one of the windows is an attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from interlock.detect.features import FAMILIES, Features
from interlock.detect.inputs import Reading, features_of, readings
from interlock.detect.normalise import normalise
from interlock.detect.place import Where, document_weight
from interlock.detect.rules import Place, RulePack
from interlock.detect.settings import DEFAULT_WINDOWS, WindowSettings

OPEN = -1


@dataclass(frozen=True, slots=True)
class Text:
    """A text of the training set.

    label    1 for an attack
    source   where it is from; sources are balanced, and left out one at a time
    spans    where the attacks are in it, end exclusive; None where that is not known
    family   of the attack, one of `FAMILIES`; None where that is not known
    where    what is known of its place
    """

    text: str
    label: int
    source: str
    spans: tuple[tuple[int, int], ...] | None = None
    family: str | None = None
    where: Where = "auto"


@dataclass(frozen=True, slots=True)
class Cut:
    """A text cut for the graph.

    windows   the windows that are used, at most as many as asked for
    labels    (W,) int64: 1, 0 or OPEN for each
    rules     (W, R) float32
    document  the graph's input of that name
    family    (F,) int64: 1, 0, or OPEN where the family is not known
    """

    text: Text
    windows: tuple[Reading, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    rules: Features
    document: float
    family: np.ndarray[Any, np.dtype[np.int64]]


def cut(
    text: Text, pack: RulePack, settings: WindowSettings = DEFAULT_WINDOWS, most: int = 0
) -> Cut | None:
    """The windows of `text` with their labels; None where it has none.

    most   keep at most so many windows, 0 for all: those with attacks and those with the most
           rule hits first
    """
    normalised = normalise(text.text)
    hits = pack.scan(normalised, Place(text.where))
    found, _ = readings(normalised, settings, hits)
    if not found:
        return None
    rules = features_of(found, hits)
    labels = np.array([_label(text, reading, len(found)) for reading in found], dtype=np.int64)
    if most and len(found) > most:
        order = np.argsort(-(10.0 * (labels == 1) + rules.sum(1)), kind="stable")
        # Half of the room for the most suspicious windows, the rest evenly over the others.
        first, rest = order[: most // 2], np.sort(order[most // 2 :])
        chosen = np.sort(
            np.concatenate([first, rest[:: max(1, len(rest) // (most - most // 2))]])[:most]
        )
        found = [found[index] for index in chosen]
        rules, labels = rules[chosen], labels[chosen]
    return Cut(
        text,
        tuple(found),
        labels,
        rules,
        document_weight(text.text, text.where),
        _families(text, rules),
    )


def cut_all(
    texts: Iterable[Text], pack: RulePack, settings: WindowSettings = DEFAULT_WINDOWS, most: int = 0
) -> Iterator[Cut]:
    """Those of `texts` that have windows."""
    for text in texts:
        found = cut(text, pack, settings, most)
        if found is not None:
            yield found


def _label(text: Text, reading: Reading, count: int) -> int:
    if not text.label:
        return 0
    if text.spans is None:
        return 1 if count == 1 else OPEN
    best = 0.0
    for start, end in text.spans:
        shared = min(end, reading.end) - max(start, reading.start)
        if shared > 0:
            best = max(best, shared / min(end - start, max(1, reading.end - reading.start)))
    # A window with a small part of an attack is neither.
    return 1 if best >= 0.5 else OPEN if best > 0.1 else 0


def _families(text: Text, rules: Features) -> np.ndarray[Any, np.dtype[np.int64]]:
    if not text.label:
        return np.zeros(len(FAMILIES), dtype=np.int64)
    if text.family is not None:
        return np.array([int(name == text.family) for name in FAMILIES], dtype=np.int64)
    hit = rules[:, : len(FAMILIES)].max(axis=0) > 0.5
    if not hit.any():
        return np.full(len(FAMILIES), OPEN, dtype=np.int64)
    return np.where(hit, 1, 0).astype(np.int64)
