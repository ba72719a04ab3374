"""What a text holds and nobody sees: bytes in variation selectors, bits in zero-width characters.

And what stands invisibly inside its words: control characters, tags, a terminal's codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from interlock.detect.decode import readable
from interlock.detect.views import Part, View

# One selector stands for each value of a byte: sixteen in one block, the rest in another.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BITS = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff]{32,}")
_UNSEEN = (
    r"(?:\x1b\[[0-9;]{0,16}[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
    "\U000e0000-\U000e007f])+"
)
_RUN = re.compile(_UNSEEN)
_INSIDE = re.compile(rf"(?<=\w){_UNSEEN}(?=\w)")


def hidden(view: View) -> list[View]:
    """The readings of `view` in which invisible characters are read as the text that they spell."""
    if view.text.isascii():
        return []
    found = [
        view.changed(_selected(view.text), "variation selectors"),
        view.changed(_bits(view.text), "zero-width bits"),
    ]
    return [read for read in found if read is not None]


def uncovered(view: View) -> View | None:
    """`view` without invisible characters, if any of them stands inside a word; else None."""
    if not _INSIDE.search(view.text):
        return None
    changes = [("", *found.span()) for found in _RUN.finditer(view.text)]
    return view.changed(changes, "invisible")


def _selected(text: str) -> Iterator[Part]:
    for found in _SELECTORS.finditer(text):
        raw = bytes(
            point - 0xFE00 if point < 0xE0100 else point - 0xE0100 + 16
            for point in map(ord, found[0])
        )
        decoded = readable(raw)
        if decoded is not None:
            yield decoded, *found.span()


def _bits(text: str) -> Iterator[Part]:
    for found in _BITS.finditer(text):
        run = found[0]
        signs = sorted(set(run))
        if len(signs) != 2:
            continue
        for zero, one in (signs, signs[::-1]):
            digits = run.translate({ord(zero): "0", ord(one): "1"})
            digits = digits[: len(digits) // 8 * 8]
            decoded = readable(int(digits, 2).to_bytes(len(digits) // 8, "big"))
            if decoded is not None:
                yield decoded, *found.span()
                break
