"""The words by which a disguised text is recognised as one.

A decoding, a reversal or a splitting counts only where it yields words of this list. It holds
common English words, the commonest of a few more languages, and the vocabulary of the rule pack;
it decides nothing by itself.
"""

from __future__ import annotations

import codecs
import math
from collections import Counter
from functools import lru_cache
from importlib import resources

WORDS = frozenset(
    (resources.files("interlock.detect") / "pack" / "words.txt").read_text("ascii").split()
)

ROTATED_WORDS = frozenset(codecs.encode(word, "rot13") for word in WORDS if len(word) > 1)
REVERSED_WORDS = frozenset(word[::-1] for word in WORDS if len(word) > 1)

_BEGINNINGS = frozenset(word[:count] for word in WORDS for count in range(1, len(word) + 1))
# "a" and "i" are words of their own, other single letters are what a segmentation fails on.
_COST_OF_A_LETTER = 3


@lru_cache(maxsize=1024)
def segment(letters: str) -> str | None:
    """`letters` (lower case, no spaces) read as words of the list, or None where it is mostly not.

    The reading with the fewest words and the fewest letters left over wins. It counts where at
    least three words cover at least four fifths of it, those of four letters and more half of it,
    or where it is one word. Fewer than 20 letters make one word for every four at most.
    """
    if letters in WORDS:
        return letters
    count = len(letters)
    # best[i] is the cost of the first i letters, begin[i] where the last word of them begins.
    best = [index * _COST_OF_A_LETTER for index in range(count + 1)]
    begin = list(range(-1, count))
    for start in range(count):
        so_far = best[start] + 1
        if so_far + _COST_OF_A_LETTER - 1 < best[start + 1]:
            best[start + 1], begin[start + 1] = so_far + _COST_OF_A_LETTER - 1, start
        for end in range(start + 1, count + 1):
            word = letters[start:end]
            if word not in _BEGINNINGS:
                break
            if so_far < best[end] and word in WORDS:
                best[end], begin[end] = so_far, start
    words: list[str] = []
    end = count
    while end:
        words.append(letters[begin[end] : end])
        end = begin[end]
    words.reverse()
    known = [len(word) for word in words if word in WORDS and (len(word) > 1 or word in "ai")]
    if len(known) < 3 or 5 * sum(known) < 4 * count:
        return None
    # Of short words alone, anything can be put together; a long word, of the endings of others.
    long = sum(size for size in known if size > 3)
    if 2 * long < count or (count < 20 and 4 * len(words) > count):
        return None
    return " ".join(words)


def _pairs() -> dict[str, float]:
    """The log probability of each letter after another, in words of the list; edges are spaces."""
    seen: Counter[str] = Counter()
    for word in WORDS:
        edged = f" {word} "
        seen.update(edged[at : at + 2] for at in range(len(edged) - 1))
    letters = " abcdefghijklmnopqrstuvwxyz"
    found = {}
    for first in letters:
        total = sum(seen[first + second] for second in letters)
        for second in letters:
            # Half a sighting each, so that no pair is impossible.
            share = (seen[first + second] + 0.5) / (total + 0.5 * len(letters))
            found[first + second] = math.log(share)
    return found


_PAIRS = _pairs()


@lru_cache(maxsize=1 << 13)
def likelihood(word: str) -> float:
    """The log probability of `word` (lower case, a to z) among words like those of the list.

    By its pairs of letters, so that a word of a related language is likelier than one in cipher.
    """
    edged = f" {word} "
    return sum(_PAIRS[edged[at : at + 2]] for at in range(len(edged) - 1))
