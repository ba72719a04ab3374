"""A part of a benchmark that keeps its proportions.

The first 250 prompts of a benchmark may hold no synthetic probe at all. A stratified subset holds
each combination of category and real-or-synthetic in proportion, one of each at least where there
is room, chosen by a hash of the seed and the prompt's id: the same seed gives the same subset,
whatever the order of the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from interlock.experiment.prompts import Prompt

Stratum = tuple[str, bool]


def stratified(prompts: Iterable[Prompt], wanted: int, seed: int) -> tuple[np.ndarray, int]:
    """Which prompts belong to the subset: a truth value a prompt, in their order; and how many are.

    `prompts` is read once, and 16 bytes a prompt are kept. Where there are no more than `wanted`,
    all belong to it.
    """
    ranks: dict[Stratum, array[int]] = {}
    places: dict[Stratum, array[int]] = {}
    total = 0
    for prompt in prompts:
        stratum = (prompt.category, prompt.is_synthetic)
        digest = blake2b(f"{seed}\0{prompt.id}".encode(), digest_size=8).digest()
        ranks.setdefault(stratum, array("Q")).append(int.from_bytes(digest))
        places.setdefault(stratum, array("Q")).append(total)
        total += 1
    chosen = np.zeros(total, bool)
    sizes = {stratum: len(found) for stratum, found in ranks.items()}
    for stratum, share in shares(sizes, wanted).items():
        order = np.argsort(np.frombuffer(ranks[stratum], np.uint64), kind="stable")[:share]
        chosen[np.frombuffer(places[stratum], np.uint64)[order]] = True
    return chosen, int(chosen.sum())


def shares(sizes: dict[Stratum, int], wanted: int) -> dict[Stratum, int]:
    """How many of each stratum: in proportion by largest remainders, one at least where it fits."""
    total = sum(sizes.values())
    if wanted >= total:
        return dict(sizes)
    strata = sorted(sizes)
    if wanted < len(strata):
        # Too few for all: the larger ones first, real and synthetic in turn.
        ranked = sorted(strata, key=lambda stratum: (-sizes[stratum], stratum))
        kinds = [[s for s in ranked if s[1] is kind] for kind in (False, True)]
        turns = [s for pair in _in_turn(*kinds) for s in pair]
        return dict.fromkeys(turns[:wanted], 1)
    found = dict.fromkeys(strata, 1)
    rest = wanted - len(strata)
    spare = {stratum: sizes[stratum] - 1 for stratum in strata}
    exact = {s: rest * spare[s] / (sum(spare.values()) or 1) for s in strata}
    for stratum in strata:
        found[stratum] += int(exact[stratum])
    left = wanted - sum(found.values())
    for stratum in sorted(strata, key=lambda s: (int(exact[s]) - exact[s], s))[:left]:
        found[stratum] += 1
    return found


def _in_turn(first: list[Stratum], second: list[Stratum]) -> list[list[Stratum]]:
    longest = max(len(first), len(second))
    return [[*first[at : at + 1], *second[at : at + 1]] for at in range(longest)]
