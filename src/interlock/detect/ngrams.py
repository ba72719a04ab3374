"""Hashed character and word n-grams of windows, as the ids that the graph looks up.

The ids depend on nothing but the text and the settings: no vocabulary is kept. Two n-grams may
share an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interlock.detect.settings import DEFAULT_NGRAMS, NgramSettings

Ids = np.ndarray[Any, np.dtype[np.int64]]
_Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_Flags = np.ndarray[Any, np.dtype[np.bool_]]

PADDING = 0

# Odd 64-bit constants: of splitmix64 (Steele et al., 2014) and of 64-bit FNV-1.
_BASE = np.uint64(0x100000001B3)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD_SEED = np.uint64(0x9E3779B97F4A7C15)
_SPACE = np.uint64(32)
_ASCII = [chr(point) for point in range(128)]
_LETTERS = np.array([character.isalnum() for character in _ASCII])
_BLANK = np.array([character.isspace() for character in _ASCII])
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def ngram_ids(texts: Sequence[str], settings: NgramSettings = DEFAULT_NGRAMS) -> Ids:
    """(W, G) int64: the ids of each window's n-grams, each once, ascending, 0 as padding.

    Characters are taken within words, with one space on each side; a word is a run of letters and
    digits, and every other sign counts as a word of its own. G is the largest count among the
    windows, at least 1 and at most `settings.most`; what is beyond that is left out, highest ids
    first.
    """
    rows = [_ids(text, settings) for text in texts]
    width = max([1, *(len(row) for row in rows)])
    table = np.full((len(rows), width), PADDING, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def _ids(text: str, settings: NgramSettings) -> Ids:
    points = _spaced(text)
    if len(points) < 3:
        return np.zeros(0, dtype=np.int64)
    space = points == _SPACE
    found = []
    # The hash of n characters follows from that of n - 1; one with a space inside is dropped.
    hashes = points
    inside = np.ones(len(points), dtype=np.bool_)
    for length in range(2, min(settings.longest, len(points)) + 1):
        hashes = hashes[:-1] * _BASE + points[length - 1 :]
        inside = inside[:-1]
        if length > 2:
            inside = inside & ~space[length - 2 : -1]
        if length >= settings.shortest:
            found.append(hashes[inside] ^ np.uint64(length))
    hashes = _mixed(np.concatenate(found)) if found else points[:0]
    if settings.words:
        hashes = np.concatenate([_word_hashes(points, space, settings.words), hashes])
    ids = np.sort((hashes % np.uint64(settings.buckets - 1)).astype(np.int64)) + 1
    once = np.empty(len(ids), dtype=np.bool_)
    once[0], once[1:] = True, ids[1:] != ids[:-1]
    return ids[once][: settings.most]


def _spaced(text: str) -> _Hashes:
    """Code points with one space before, between and after words and single signs."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(
        np.uint64
    )
    if not len(points):
        return points
    letters, blank = _kinds(text, points)
    # A new word starts where a sign stands, or where letters follow something else.
    start = ~blank
    start[1:] &= ~(letters[1:] & letters[:-1])
    kept = ~blank
    lengths = kept.astype(np.int64) + start
    spread = np.repeat(points, lengths)
    ends = np.cumsum(lengths)
    spread[(ends - 2)[start]] = _SPACE
    out = np.empty(len(spread) + 1, dtype=np.uint64)
    out[:-1], out[-1] = spread, _SPACE
    return out


def _kinds(text: str, points: _Hashes) -> tuple[_Flags, _Flags]:
    """Which characters are letters or digits, and which are blank."""
    if text.isascii():
        return _LETTERS[points], _BLANK[points]
    letters = np.fromiter(map(str.isalnum, text), dtype=np.bool_, count=len(text))
    blank = np.fromiter(map(str.isspace, text), dtype=np.bool_, count=len(text))
    return letters, blank


def _word_hashes(points: _Hashes, space: np.ndarray[Any, np.dtype[np.bool_]], most: int) -> _Hashes:
    """Hashes of runs of 1 … `most` words."""
    at = np.flatnonzero(space)
    starts, ends = at[:-1] + 1, at[1:]
    place = np.arange(len(points)) - at[np.cumsum(space) - 1]
    weighed = _mixed(points * _BASE + place.astype(np.uint64)) * ~space
    total = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(weighed, dtype=np.uint64)])
    words = _mixed((total[ends] - total[starts]) ^ _WORD_SEED)
    found = [words]
    run = words
    for length in range(2, min(most, len(words)) + 1):
        run = _mixed(run[:-1] * _BASE + words[length - 1 :])
        found.append(run)
    return np.concatenate(found)


def _mixed(values: _Hashes) -> _Hashes:
    """Bits spread evenly: the finalizer of splitmix64."""
    values = (values ^ (values >> _30)) * _MIX_1
    values = (values ^ (values >> _27)) * _MIX_2
    return values ^ (values >> _31)
