"""Keeps what a model reads within its budget of tokens, and says so wherever something is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interlock.kernel.errors import ConfigError
from interlock.summarize.asked import ANSWER_TOKENS

PROMPT_TOKENS = 160
"""What the instruction, the question and the chat template's own tokens take at most."""

CHARACTERS_A_TOKEN = 3.2
"""The estimate where no tokenizer is at hand."""

_MOST_CHARACTERS_A_TOKEN = 16
"""Longer texts are cut before they are counted: a tokenizer is slow on a line of megabytes."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many tokens an input may have, and how they are counted."""

    tokens: int
    count: Callable[[str], int]

    def size(self, text: str) -> int:
        """Tokens of a text; where it is far too long, a lower bound above the budget."""
        longest = self.tokens * _MOST_CHARACTERS_A_TOKEN
        if len(text) <= longest:
            return self.count(text)
        return max(self.count(text[:longest]), self.tokens + 1)

    def fits(self, text: str) -> bool:
        """Whether the text is within the budget."""
        return self.size(text) <= self.tokens

    def trim(self, text: str) -> tuple[str, str]:
        """The text's beginning that fits, and a note of what was left out, empty for nothing.

        Whole lines are kept where one of them fits, else characters.
        """
        if self.fits(text):
            return text, ""
        lines = text.split("\n")
        whole = _most(len(lines), lambda n: self.fits("\n".join(lines[:n])))
        if whole:
            kept = "\n".join(lines[:whole])
            return (
                kept,
                f"saw {whole:,} of {len(lines):,} lines: the budget is {self.tokens} tokens",
            )
        room = min(len(lines[0]), self.tokens * _MOST_CHARACTERS_A_TOKEN)
        characters = _most(room, lambda n: self.fits(text[:n]))
        note = f"saw {characters:,} of {len(text):,} characters: the budget is {self.tokens} tokens"
        return text[:characters], note

    def split(self, first: int, last: int, see: Callable[[int, int], str]) -> list[tuple[int, int]]:
        """Halves the lines from `first` to `last` until what is seen of each part fits.

        A single line is not cut here.
        """
        if first == last or self.fits(see(first, last)):
            return [(first, last)]
        middle = (first + last) // 2
        return [*self.split(first, middle, see), *self.split(middle + 1, last, see)]

    def join(self, texts: Sequence[str]) -> tuple[str, str]:
        """The texts as a list, all of them, or the first ones with a note."""
        return self.trim("\n".join(f"- {text}" for text in texts))


def make(context: int | None, most: int | None, count: Callable[[str], int] | None) -> Budget:
    """The budget of a model with so large a context, or of none; `most` is the user's own limit.

    Raises ConfigError where nothing is left for an input.
    """
    tokens = 8192 if context is None else context
    tokens -= ANSWER_TOKENS + PROMPT_TOKENS
    if most is not None:
        tokens = min(tokens, most)
    if tokens < 16:
        raise ConfigError(
            f"{tokens} tokens are left for an input; 16 are the least",
            hint="take a model with a longer context, or a larger --max-input-tokens",
        )
    return Budget(tokens, count or estimate)


def estimate(text: str) -> int:
    """Tokens of a text by its length, for want of a tokenizer."""
    return math.ceil(len(text) / CHARACTERS_A_TOKEN)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits, where every smaller one does too; else 0."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
