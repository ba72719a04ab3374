"""Texts written for this project, each by hand: `texts/*.jsonl` beside this file.

Every line is an object with `text`, `label` (1 = attack), `kind`, `input` ("user" or "document")
and, where an attack stands in a document, `attack`: that part of `text`.
"""

from __future__ import annotations

import json
from importlib import resources

from interlock.detect.training.corpus import Text
from interlock.kernel.errors import InputError

HELD = "~held"
_BLOCK, _OF = 20, 10


def written() -> list[Text]:
    """All of them; of every 200 lines of a file the last 20 have `~held` after their source.

    Blocks, since a document with an attack and the same one without stand beside each other.
    Raises InputError for a line that is not as above.
    """
    found: list[Text] = []
    folder = resources.files("interlock.detect.training") / "texts"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".jsonl"):
            found += parse(file.read_text("utf-8"), file.name)
    return found


def parse(data: str, name: str) -> list[Text]:
    """The texts of one file; see `written`."""
    found = []
    for number, line in enumerate(data.splitlines()):
        try:
            row = json.loads(line)
            text, label, place = str(row["text"]), int(row["label"]), str(row["input"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{name}, line {number + 1}: {error!r}") from None
        if place not in ("user", "document") or label not in (0, 1):
            raise InputError(f"{name}, line {number + 1}: input is {place!r}, label {label}")
        spans = None
        if attack := row.get("attack"):
            start = text.find(attack)
            if start < 0:
                raise InputError(f"{name}, line {number + 1}: the attack is not in the text")
            spans = ((start, start + len(attack)),)
        held = number // _BLOCK % _OF == _OF - 1
        source = f"written {name.removesuffix('.jsonl')}{HELD if held else ''}"
        # Half of them say where they are from, as callers do or do not.
        where = place if number % 2 else "auto"
        found.append(Text(text, label, source, spans, None, where))  # type: ignore[arg-type]
    return found
