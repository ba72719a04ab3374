"""Words in a simple cipher: rot13, a text read backwards, each word read backwards.

A stretch counts as in cipher where its words are far likelier as words of a language when read so
than as they stand.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from interlock.detect.fold import bare_word
from interlock.detect.lexicon import REVERSED_WORDS, ROTATED_WORDS, WORDS, likelihood
from interlock.detect.views import Part, View

_WORD = re.compile(r"[^\W\d_]+")

# Words only when read so: a text of the lexicon's own words without any is in no such cipher.
_ROTATED_ONLY = frozenset(word for word in ROTATED_WORDS - WORDS if len(word) > 2)
_REVERSED_ONLY = frozenset(word for word in REVERSED_WORDS - WORDS if len(word) > 2)

# Applied twice they give the text that was there before.
_STEPS = frozenset({"rot13", "reversed", "reversed words"})

# What a word of the lexicon adds to the log of how much likelier its stretch is.
_KNOWN = 4.0
# From which sum on a stretch is read, and how far the sum may fall within one.
_LEAST = 20.0
_FALL = 12.0
# How likely each pair of letters of it must be: random letters are not a language either way.
_LIKELY = -3.0
# A word at the edge of a stretch that is no less likely by more than this belongs to it.
_EDGE = 2.0

Read = Callable[[str], str]
"""What a word is read as."""


def deciphered(view: View) -> list[View]:
    """The readings of `view` in which words came out of a cipher.

    Letters with accents and look-alikes are no part of the cipher's alphabet, so `view` may be one
    that is not folded.
    """
    if not _STEPS.isdisjoint(view.via):
        return []
    there = set(_WORD.findall(view.text.lower()))
    # Where a third of the words are known as they stand, cipher must show by known words as well,
    # which look-alikes hide.
    foreign = 3 * len(WORDS & there) < len(there) or not view.text.isascii()
    rotated = foreign or len(_ROTATED_ONLY & there) > 1
    turned = foreign or len(_REVERSED_ONLY & there) > 1
    if not rotated and not turned:
        return []
    words = [(found.start(), found.end(), found[0]) for found in _WORD.finditer(view.text)]
    found: list[View | None] = []
    if rotated:
        parts = [(_rotated(view.text[a:b]), a, b) for a, b in _stretches(words, _rotated)]
        found.append(view.changed(parts, "rot13", aligned=True))
    if turned:
        stretches = list(_stretches(words, _turned))
        found.append(view.changed(_backwards(view.text, stretches), "reversed"))
        parts = [
            (_WORD.sub(lambda word: _turned(word[0]), view.text[a:b]), a, b) for a, b in stretches
        ]
        found.append(view.changed(parts, "reversed words", aligned=True))
    return [read for read in found if read is not None]


def _backwards(text: str, stretches: list[tuple[int, int]]) -> Iterator[Part]:
    for start, end in stretches:
        # The signs at its ends are read backwards with it.
        while start and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and not text[end].isspace():
            end += 1
        yield text[start:end][::-1], start, end


def _rotated(word: str) -> str:
    return codecs.encode(word, "rot13")


def _turned(word: str) -> str:
    return word[::-1]


@lru_cache(maxsize=1 << 14)
def _weighed(word: str, read: Read) -> tuple[float, float]:
    """How much likelier a word is when read so, and by how much it then falls short of a word.

    Both are logarithms.
    """
    plain, out = bare_word(word), bare_word(read(word))
    if len(plain) == 1 or not (plain + out).isascii() or not (plain + out).isalpha():
        return 0.0, 0.0  # a single letter reads the same in too many ways
    likely = likelihood(out)
    known = (out in WORDS) - (plain in WORDS)
    gain = 0.0 if out == plain else likely - likelihood(plain) + _KNOWN * known
    return gain, likely - _LIKELY * (len(out) + 1) + _KNOWN * (out in WORDS)


def _stretches(words: list[tuple[int, int, str]], read: Read) -> Iterator[tuple[int, int]]:
    """Stretches of three words or more whose gains add up to `_LEAST` or more."""
    weighed = [_weighed(word, read) for _, _, word in words]
    gains = [gain for gain, _ in weighed]
    at = 0
    done = 0
    while at < len(words):
        if gains[at] <= 0:
            at += 1
            continue
        total = best = gains[at]
        last = at
        for after in range(at + 1, len(words)):
            total += gains[after]
            if total > best:
                best, last = total, after
            elif total < best - _FALL or total <= 0:
                break
        likely = sum(over for _, over in weighed[at : last + 1]) >= 0
        if best >= _LEAST and last - at > 1 and likely:
            first = at
            while first > done and gains[first - 1] > -_EDGE:
                first -= 1
            while last + 1 < len(words) and gains[last + 1] > -_EDGE:
                last += 1
            yield words[first][0], words[last][1]
            done = last + 1
        at = last + 1
