"""All readings of a text that the signals look at, with caps so that no input costs too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from interlock.detect.cipher import deciphered
from interlock.detect.decode import decodings
from interlock.detect.fold import fold, joined, latin, letters_for_digits, squeezed, visible
from interlock.detect.hidden import hidden, uncovered
from interlock.detect.stretches import most_telling
from interlock.detect.views import View
from interlock.kernel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Reach:
    """How far normalisation goes.

    depth        encodings inside encodings
    views        most readings of one text
    decoded      most characters of all decoded readings together
    length       most characters that are read of one text; of a longer one its ends are, and the
                 stretches between that stand out
    """

    depth: int = 3
    views: int = 24
    decoded: int = 1 << 18
    length: int = 1 << 18

    def __post_init__(self) -> None:
        """Raise ConfigError for a negative depth, no views, or a length below 4,096."""
        if self.depth < 0 or self.views < 1 or self.decoded < 0 or self.length < 4096:
            raise ConfigError(
                f"depth is {self.depth}, views {self.views}, decoded {self.decoded} and length "
                f"{self.length}; depth and decoded must be 0 or more, views 1 or more, length "
                "4096 or more"
            )


DEFAULT_REACH = Reach()


@dataclass(frozen=True, slots=True)
class Normalised:
    """The readings of one text: the folded one first. `cut` says which cap left something out.

    Only the first reading is whole; the others hold what a disguise was taken off, and what stands
    around it.
    """

    views: tuple[View, ...]
    cut: str | None = None

    @property
    def text(self) -> str:
        """The folded text."""
        return self.views[0].text


def normalise(text: str, reach: Reach = DEFAULT_REACH) -> Normalised:
    """The readings of `text`: folded, with look-alikes and digits as letters, rejoined, decoded.

    Decoded readings are decoded again up to `reach.depth`. The work is linear in the length of
    the text for a given reach, and bounded but for folding, which looks at every character.
    """
    views: list[View] = []
    seen: set[str] = set()
    cuts: list[str] = []
    original = View(text)
    if len(text) > reach.length:
        original = most_telling(text, reach.length)
        cuts.append(f"{len(text)} characters, of which {reach.length} were read")

    spent = 0
    level = [original]
    # Two encodings side by side come off in either order, and leave the same.
    decoded = {text}
    for depth in range(reach.depth + 1):
        # What has invisible characters inside its words is also read without them.
        level += [bare for raw in level if (bare := uncovered(raw)) is not None]
        deeper: list[View] = []
        for raw in level:
            disguises, plainest = _disguises(fold(raw))
            for view in map(squeezed, disguises):
                if view.text in seen:
                    continue
                if len(views) >= reach.views:
                    cuts.append(f"more than {reach.views} readings")
                    break
                seen.add(view.text)
                views.append(view)
            for view in _decoded(raw, plainest):
                if view.text in decoded:
                    continue
                decoded.add(view.text)
                spent += len(view.text)
                if spent > max(reach.decoded, 2 * min(len(text), reach.length)):
                    cuts.append(f"more than {reach.decoded} decoded characters")
                    break
                deeper.append(view)
        if deeper and depth == reach.depth:
            cuts.append(f"encodings nested deeper than {reach.depth}")
        level = deeper
        if not level:
            break
    return Normalised(tuple(views), "; ".join(dict.fromkeys(cuts)) or None)


# One disguise may stand under another, and a look-alike shows only in a word put together again.
_CHAIN = (latin, joined, latin, joined)


def _disguises(folded: View) -> tuple[list[View], View]:
    """The folded reading and what it is without each disguise; and without all but digits.

    One disguise is laid off after the other, and each by itself, since a reading holds only what
    stands around its changes.
    """
    found = [folded]
    for take_off in (latin, joined, letters_for_digits):
        alone = take_off(folded)
        if alone is not None:
            found.append(alone)
    if len(found) == 1:
        return found, folded
    plainest = folded
    for take_off in _CHAIN:
        chained = take_off(plainest)
        if chained is not None:
            plainest = chained
            found.append(plainest)
    worded = letters_for_digits(plainest)
    if worded is not None:
        found.append(worded)
        # Letters apart in a word that was written with digits.
        again = joined(worded)
        if again is not None:
            found.append(again)
    return found, plainest


def _decoded(raw: View, plainest: View) -> Iterator[View]:
    """What is encoded in `raw`, and in what it is without other disguises."""
    yield from hidden(raw)
    seen = visible(raw)
    yield from decodings(seen)
    yield from deciphered(seen)
    if plainest.disguises != raw.disguises:
        # Letters keep their case, which encodings need.
        together = joined(seen)
        if together is not None:
            yield from decodings(together)
        yield from deciphered(plainest)
