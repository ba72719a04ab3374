"""Whether summaries say what is known of their chunks: facts written down by a person.

Three kinds of facts, all of which a program can look up in a summary: it names something that the
chunk defines, it says what the chunk is for in any of the words given, and it names no other
language. They say nothing of style, nor that the rest of a summary is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from interlock.kernel.errors import InputError
from interlock.summarize.grounding import NAMED_LANGUAGES


class Case(msgspec.Struct, frozen=True):
    """A chunk, by where it is to be found, and what is known of it.

    origin   the index that the package comes from
    sha256   of the chunk's lines, each ended by LF, in hex
    names    of which a summary is to hold one
    purpose  groups of beginnings of words; a summary is to hold one of each group
    """

    origin: Literal["pypi", "debian"]
    package: str
    version: str
    licence: str
    language: str
    path: str
    first: int
    last: int
    sha256: str
    names: tuple[str, ...]
    purpose: tuple[tuple[str, ...], ...]

    @property
    def key(self) -> str:
        """A name for people."""
        return f"{self.package}:{self.path.rpartition('/')[2]}:{self.first}"


class _Set(msgspec.Struct, frozen=True):
    schema: Literal[1]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Marks:
    """Which facts a summary holds."""

    names: bool
    purpose: bool
    language: bool

    @property
    def all(self) -> bool:
        """Every one of them."""
        return self.names and self.purpose and self.language


NOTHING = Marks(False, False, False)
"""What holds of a summary that is not there."""


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of a file; raises InputError where it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Set).cases
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path.name} is no set of cases: {error}") from None


def mark(case: Case, summary: str | None) -> Marks:
    """Look the facts up in a summary."""
    if not summary:
        return NOTHING
    return Marks(
        names=any(_holds(rf"{re.escape(name)}(?!\w)", summary) for name in case.names),
        purpose=all(
            any(_holds(re.escape(word), summary) for word in group) for group in case.purpose
        ),
        language=not any(
            _holds(rf"{re.escape(other)}(?!\w)", summary)
            for other in NAMED_LANGUAGES - {case.language}
        ),
    )


def shuffled(cases: Sequence[Case], summaries: Mapping[str, str | None]) -> dict[str, float]:
    """Shares of facts held where every summary is read as that of every other chunk.

    The mean over all pairs of different chunks: what summaries earn without regard to their source.
    """
    totals = {"names": 0, "purpose": 0, "language": 0, "all": 0}
    pairs = 0
    for case in cases:
        for other in cases:
            if other.key == case.key:
                continue
            found = mark(case, summaries[other.key])
            pairs += 1
            for kind in totals:
                totals[kind] += getattr(found, kind)
    return {kind: total / max(1, pairs) for kind, total in totals.items()}


def _holds(pattern: str, summary: str) -> bool:
    return re.search(rf"(?<![^\W_]){pattern}", summary, re.IGNORECASE) is not None
