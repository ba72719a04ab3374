"""Summaries on lines of a width. A word longer than a line is broken where the reader sees it."""

from __future__ import annotations

MARK = "↩"
"""Ends a line whose last word goes on at the beginning of the next."""


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
        if line:
            lines.append(line)
        line = word
        while len(line) > width:
            lines.append(line[: width - 1] + MARK)
            line = line[width - 1 :]
    return "\n".join([*lines, line])


def unwrapped(text: str) -> str:
    """The summary on a single line, as it was before `wrapped` broke it."""
    return " ".join(text.replace(f"{MARK}\n", "").split())
