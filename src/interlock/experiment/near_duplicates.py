"""Texts that say almost the same: MinHash finds candidates, and their shingles decide."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+(?:[-.]\w+)*")
_BANDS, _ROWS = 16, 4
_PRIME = (1 << 31) - 1
_COMPARED = 50


def normal_text(text: str) -> str:
    """Words in lower case, one blank between them, without punctuation."""
    return " ".join(_WORD.findall(text.lower()))


def near_duplicates(
    texts: Sequence[str], keys: Sequence[object], similarity: float = 0.8
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, Jaccard similarity of word triples) of texts with equal keys, i < j.

    Texts that are equal as `normal_text` are left out. Found by MinHash (A. Broder, "On the
    resemblance and containment of documents", 1997), 16 bands of 4 hashes: a pair at 0.8 is missed
    with probability 3e-4. A text is compared with at most 50 others of a band, so that time and
    memory grow with the number of texts and not its square.
    """
    # Of equal texts the first stands for all.
    firsts: dict[object, int] = {}
    for k, (key, text) in enumerate(zip(keys, texts, strict=True)):
        firsts.setdefault((key, normal_text(text)), k)
    shingles = {k: _shingles(texts[k]) for k in firsts.values()}
    rng = np.random.default_rng(0)
    factor = rng.integers(1, _PRIME, size=_BANDS * _ROWS, dtype=np.int64)
    offset = rng.integers(0, _PRIME, size=_BANDS * _ROWS, dtype=np.int64)
    buckets: dict[object, list[int]] = defaultdict(list)
    for index, found in shingles.items():
        hashes = np.array([zlib.crc32(part.encode()) % _PRIME for part in found], dtype=np.int64)
        least = ((hashes[:, None] * factor + offset) % _PRIME).min(0).tolist()
        for band in range(_BANDS):
            rows = tuple(least[band * _ROWS : (band + 1) * _ROWS])
            buckets[keys[index], band, rows].append(index)
    candidates = {
        (members[a], members[b])
        for members in buckets.values()
        for a in range(len(members))
        for b in range(a + 1, min(len(members), a + 1 + _COMPARED))
    }
    pairs = []
    for i, j in sorted(candidates):
        alike = len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j])
        if alike >= similarity:
            pairs.append((i, j, alike))
    return pairs


def _shingles(text: str) -> set[str]:
    words = normal_text(text).split()
    return {" ".join(words[k : k + 3]) for k in range(max(1, len(words) - 2))}
