"""The words by which a disguised text is recognised as one.

A decoding, a reversal or a splitting counts only where it yields words of this list. It holds
common English words and the vocabulary of the rule pack; it decides nothing by itself.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

WORDS = frozenset(
    (resources.files("interlock.detect") / "pack" / "words.txt").read_text("ascii").split()
)

_LONGEST = max(map(len, WORDS))
# "a" and "i" are words of their own, other single letters are what a segmentation fails on.
_COST_OF_A_LETTER = 3


@lru_cache(maxsize=1024)
def segment(letters: str) -> str | None:
    """`letters` (lower case, no spaces) read as words of the list, or None where it is mostly not.

    The reading with the fewest words and the fewest letters left over wins. It counts where at
    least three words cover at least four fifths of it, or where it is one word.
    """
    if letters in WORDS:
        return letters
    count = len(letters)
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, count + 1):
        cost, start = best[end - 1][0] + _COST_OF_A_LETTER, end - 1
        for begin in range(max(0, end - _LONGEST), end):
            if best[begin][0] + 1 < cost and letters[begin:end] in WORDS:
                cost, start = best[begin][0] + 1, begin
        best.append((cost, start))
    words: list[str] = []
    end = count
    while end:
        start = best[end][1]
        words.append(letters[start:end])
        end = start
    words.reverse()
    known = [word for word in words if word in WORDS and (len(word) > 1 or word in "ai")]
    if len(known) < 3 or 5 * sum(map(len, known)) < 4 * count:
        return None
    return " ".join(words)
