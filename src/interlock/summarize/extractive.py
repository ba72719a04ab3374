"""Summaries taken from the source itself: its documentation and the names that it defines.

They are a step of the route with a name of its own, and no model has a part in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from interlock.summarize.outline import comment_text, first_paragraph, one_line

MOST_NAMES = 8
_LONGEST_OPENING = 120

HELD = "file"
"""The kind of what a folder holds."""


def describe(
    doc: str, defined: Iterable[tuple[str, str]], opening: str, most: int, further: int = 0
) -> str:
    """One line of at most `most` characters, or nothing where there is nothing to take.

    doc      what the source says of itself
    defined  kind and name of what it defines; names of the kind HELD are files
    opening  the text, whose first words stand in where it neither says nor defines anything
    further  how many more it defines than `defined` lists
    """
    parts = []
    if any(map(str.isalnum, doc)):
        sentence = first_sentence(doc)
        parts.append(sentence if sentence[-1] in ".!?…" else f"{sentence}.")
    pairs = list(defined)
    for verb, names in (
        ("Defines", defines((p for p in pairs if p[0] != HELD), further)),
        ("Holds", defines((p for p in pairs if p[0] == HELD), further).removeprefix(f"{HELD} ")),
    ):
        if names:
            parts.append(f"{verb} {names}.")
    if not parts:
        words = first_words(opening)
        marks = one_line(opening, _LONGEST_OPENING)
        if not marks:
            return "Holds only blank lines." if opening else ""
        parts.append(f"Begins with {words}" if words else f"Holds no words, but {marks}")
    return fit(parts, most)


def defines(defined: Iterable[tuple[str, str]], further: int = 0) -> str:
    """`fn a, b; struct C and 3 more`: kinds in the order they come up, each name once."""
    by_kind: dict[str, list[str]] = {}
    left = further
    listed = 0
    for kind, name in defined:
        names = by_kind.setdefault(kind, [])
        if name in names:
            continue
        if listed == MOST_NAMES:
            left += 1
            continue
        listed += 1
        names.append(name)
    text = "; ".join(f"{kind} {', '.join(names)}" for kind, names in by_kind.items() if names)
    return f"{text} and {left} more" if text and left else text


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence."""
    found = re.match(r"(.+?[.!?])(\s|$)", text)
    return found[1] if found else text


def first_words(text: str) -> str:
    """The first lines that hold words, three of them at least, without the marks of comments."""
    found: list[str] = []
    for line in text.split("\n"):
        words = " ".join(comment_text(line).strip().lstrip("#").split())
        if any(map(str.isalnum, words)):
            found.append(words)
            if len(re.findall(r"\w+", " ".join(found))) >= 3:
                break
    return one_line(" ".join(found), _LONGEST_OPENING)


def prose(text: str) -> str:
    """The first paragraph of a text that is no heading, picture, badge, list or table."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.strip().split("\n") if not re.match(r"\s*#+ ", line)]
        if lines and not re.match(r"\s*([\[!<|>=*:+.`-]|\d+\.)", lines[0]):
            words = first_paragraph("\n".join(lines))
            if words.count(" ") >= 3:
                return words
    return ""


def fit(parts: list[str], most: int) -> str:
    """The parts in a row within `most` characters: whole ones first, then cut at a word with …."""
    text = " ".join(parts)
    if len(text) <= most:
        return text
    if len(parts) > 1 and len(parts[0]) > most // 2:
        parts = [one_line(parts[0], most // 2), *parts[1:]]
    return one_line(" ".join(parts), most)
