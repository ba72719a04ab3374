"""What is read of a text that is too long to be read whole: its ends, and what stands out."""

from __future__ import annotations

from interlock.detect.views import Part, View

_BLOCK = 2048
# What a block is read with before and after, so that nothing is cut at its edge.
_EDGE = 256

# Beginnings of words that orders to a model are made of.
_TELLING = (
    b"ignor", b"instruc", b"prompt", b"system", b"assistant", b"secret", b"pretend", b"reveal",
    b"forget", b"overrid", b"language model", b"you must", b"http", b"<|", b"anweis", b"istruz",
)  # fmt: skip


def most_telling(text: str, most: int) -> View:
    """The ends of `text` and the blocks that stand out, together about `most` characters.

    A quarter each goes to the beginning and to the end, the rest to the blocks with the most
    different words that orders are made of, or with hardly a space, as encoded text has.
    """
    quarter = most // 4
    blocks = [
        (_telling(text[start : start + _BLOCK]), start)
        for start in range(quarter, len(text) - quarter, _BLOCK)
    ]
    blocks.sort(key=lambda block: (-block[0], block[1]))
    kept = sorted(start for _, start in blocks[: max(0, most // 2 // (_BLOCK + 2 * _EDGE))])
    stretches = [(0, quarter)]
    for start in kept:
        stretches.append((start - _EDGE, min(len(text), start + _BLOCK + _EDGE)))
    stretches.append((max(0, len(text) - quarter), len(text)))
    parts: list[Part] = []
    done = 0
    for start, end in stretches:
        start = max(done, start)
        if start >= end:
            continue
        if parts and start > done:
            # A line's end keeps apart what does not stand side by side.
            parts.append(("\n", done, done))
        parts.append((text[start:end], start, end))
        done = end
    return View(text).pieces(parts, "stretches")


def _telling(block: str) -> int:
    # Without what is not ASCII, an invisible character or an accent hides no word.
    plain = block.encode("ascii", "ignore").lower()
    dense = 16 * plain.count(b" ") < len(plain)
    hidden = 2 * len(plain) < len(block)
    return sum(map(plain.__contains__, _TELLING)) + 2 * dense + hidden
