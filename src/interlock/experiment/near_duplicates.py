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


def normal_text(text: str) -> str:
    """Words in lower case, one blank between them, without punctuation."""
    return " ".join(_WORD.findall(text.lower()))


def near_duplicates(
    texts: Sequence[str], keys: Sequence[object], similarity: float = 0.8
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, Jaccard similarity of word triples) of texts with equal keys, i < j.

    Texts that are equal as `normal_text` are left out. Found by MinHash (A. Broder, "On the
    resemblance and containment of documents", 1997), 16 bands of 4 hashes: a pair at 0.8 is missed
    with probability 3e-4. Time and memory grow with the number of texts, not its square.
    """
    shingles = [_shingles(text) for text in texts]
    rng = np.random.default_rng(0)
    factor = rng.integers(1, _PRIME, size=_BANDS * _ROWS, dtype=np.int64)
    offset = rng.integers(0, _PRIME, size=_BANDS * _ROWS, dtype=np.int64)
    buckets: dict[object, list[int]] = defaultdict(list)
    for index, found in enumerate(shingles):
        hashes = np.array([zlib.crc32(part.encode()) % _PRIME for part in found], dtype=np.int64)
        least = ((hashes[:, None] * factor + offset) % _PRIME).min(0).tolist()
        for band in range(_BANDS):
            rows = tuple(least[band * _ROWS : (band + 1) * _ROWS])
            buckets[keys[index], band, rows].append(index)
    candidates = {
        (members[a], members[b])
        for members in buckets.values()
        for a in range(len(members))
        for b in range(a + 1, len(members))
    }
    pairs = []
    for i, j in sorted(candidates):
        alike = len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j])
        if alike >= similarity and normal_text(texts[i]) != normal_text(texts[j]):
            pairs.append((i, j, alike))
    return pairs


def _shingles(text: str) -> set[str]:
    words = normal_text(text).split()
    return {" ".join(words[k : k + 3]) for k in range(max(1, len(words) - 2))}
