"""All readings of a text that the signals look at, with caps so that no input costs too much."""

from __future__ import annotations

from dataclasses import dataclass

from interlock.detect.decode import decodings
from interlock.detect.fold import fold, joined, latin, letters_for_digits
from interlock.detect.views import View
from interlock.kernel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Reach:
    """How far normalisation goes.

    depth        encodings inside encodings
    views        most readings of one text
    decoded      most characters of all decoded readings together
    """

    depth: int = 3
    views: int = 24
    decoded: int = 1 << 18

    def __post_init__(self) -> None:
        """Raise ConfigError for a negative depth, or no views."""
        if self.depth < 0 or self.views < 1 or self.decoded < 0:
            raise ConfigError(
                f"depth is {self.depth}, views {self.views} and decoded {self.decoded}; "
                "depth and decoded must be 0 or more, views 1 or more"
            )


DEFAULT_REACH = Reach()


@dataclass(frozen=True, slots=True)
class Normalised:
    """The readings of one text: the folded one first. `cut` says which cap left readings out."""

    views: tuple[View, ...]
    cut: str | None = None

    @property
    def text(self) -> str:
        """The folded text."""
        return self.views[0].text


def normalise(text: str, reach: Reach = DEFAULT_REACH) -> Normalised:
    """The readings of `text`: folded, with look-alikes and digits as letters, rejoined, decoded.

    Decoded readings are decoded again up to `reach.depth`. The work is linear in the length of
    the text for a given reach.
    """
    views: list[View] = []
    seen: set[str] = set()
    cut: str | None = None

    def add(view: View | None) -> None:
        nonlocal cut
        if view is None or view.text in seen:
            return
        if len(views) >= reach.views:
            cut = f"more than {reach.views} readings"
            return
        seen.add(view.text)
        views.append(view)

    spent = 0
    level = [View(text)]
    for depth in range(reach.depth + 1):
        for raw in level:
            for view in _disguises(fold(raw)):
                add(view)
        if depth == reach.depth:
            break
        deeper: list[View] = []
        for raw in level:
            for view in decodings(raw):
                spent += len(view.text)
                if spent > max(reach.decoded, len(text) * 2):
                    cut = f"more than {reach.decoded} decoded characters"
                    break
                deeper.append(view)
        level = deeper
        if not level:
            break
    if level and depth == reach.depth and any(decodings(raw) for raw in level):
        cut = cut or f"encodings nested deeper than {reach.depth}"
    return Normalised(tuple(views), cut)


def _disguises(folded: View) -> list[View]:
    """The folded reading, and what it is without each disguise, one laid off after the other."""
    found = [folded]
    for take_off in (latin, letters_for_digits, joined):
        plain = take_off(found[-1])
        if plain is not None:
            found.append(plain)
    return found
