"""A summary's characters, and its lines: a word longer than a line is broken where it is seen."""

from __future__ import annotations

import re

MARK = "↩"
"""Ends a line whose last word goes on at the beginning of the next."""


_STEERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The words on one line, with spaces for what would steer a terminal, or turn the direction.

    A source may hold both, and a summary is printed.
    """
    return " ".join(_STEERS.sub(" ", text).split())


def steers(text: str) -> bool:
    """Whether `plain` would take anything but line breaks out."""
    return bool(_STEERS.search(text.replace("\n", "")))


def wrapped(text: str, width: int) -> str:
    """The words of `text` on lines of at most `width` characters; 0 is one line, 1 is too few."""
    if not width:
        return text
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) <= width:
            line += f" {word}"
            continue
        if line and line != MARK:
            lines.append(line)
        # A mark of the text's own would be taken for a break: it goes on to the next line.
        line = f"{MARK} {word}" if line.endswith(MARK) else word
        while len(line) > width:
            lines.append(line[: width - 1] + MARK)
            line = line[width - 1 :]
    return "\n".join([*lines, line])


def unwrapped(text: str) -> str:
    """The summary on a single line, as it was before `wrapped` broke it."""
    return " ".join(text.replace(f"{MARK}\n", "").split())
