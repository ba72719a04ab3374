"""A rule's pattern, compiled by RE2, which never backtracks: matching takes linear time.

A pattern of the form A[^.\\n]{0,80}B, two things with a gap between, is searched as two patterns
whose matches are paired. As one, its automaton would have a state for every set of places in the
gap at which A may have ended, and be a hundred times slower on a long text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interlock.kernel.errors import ConfigError, MissingExtraError

Span = tuple[int, int]

# Gaps shorter than this cost little inside a pattern.
_LEAST_GAP = 20
_GAP = re.compile(r"\[\^(\.?)\\n\]\{0,(\d{1,3})\}\??")


@dataclass(frozen=True, slots=True)
class _Gap:
    """What lies between two parts: at most so many bytes, none of them in `without`."""

    most: int
    without: bytes


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern: its parts, and the gaps between them."""

    parts: tuple[Any, ...]
    gaps: tuple[_Gap, ...]

    def find(self, data: bytes, begin: int, end: int) -> Iterator[Span]:
        """Where it matches in `data[begin:end]`, in bytes; what stands around is seen."""
        found: list[Span] = [match.span() for match in self.parts[0].finditer(data, begin, end)]
        for gap, part in zip(self.gaps, self.parts[1:], strict=True):
            if not found:
                return
            ends = [span[1] for span in found]
            paired: list[Span] = []
            for match in part.finditer(data, ends[0], end):
                start, stop = match.span()
                # The nearest end before it leaves the smallest gap.
                nearest = bisect_right(ends, start) - 1
                if start - ends[nearest] > gap.most:
                    continue
                between = data[ends[nearest] : start]
                if not any(byte in gap.without for byte in between):
                    paired.append((found[nearest][0], stop))
            found = paired
        yield from found


def compile_pattern(text: str, about: str) -> Pattern:
    """The pattern `text`; ConfigError, saying `about` what, where RE2 refuses it.

    One that matches the empty text is refused too.
    """
    whole = _compile(text, about)
    if whole.search(b"") is not None:
        raise ConfigError(f"{about}: pattern {text!r} matches the empty text")
    parts: list[Any] = []
    gaps: list[_Gap] = []
    done = 0
    for found in _top_level_gaps(text):
        parts.append(_compile(text[done : found.start()], about))
        gaps.append(_Gap(int(found[2]), b".\n" if found[1] else b"\n"))
        done = found.end()
    parts.append(_compile(text[done:], about))
    if any(part.search(b"") is not None for part in parts):
        return Pattern((whole,), ())
    return Pattern(tuple(parts), tuple(gaps))


def _top_level_gaps(text: str) -> list[re.Match[str]]:
    """The gaps of `text` that stand in no group, if it has no alternatives but in groups."""
    gaps: list[re.Match[str]] = []
    depth = 0
    at = 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 2
            continue
        if character == "[":
            found = _GAP.match(text, at)
            if found is not None and depth == 0 and int(found[2]) >= _LEAST_GAP:
                gaps.append(found)
                at = found.end()
                continue
            at = _end_of_class(text, at)
            continue
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            return []
        at += 1
    return [gap for gap in gaps if gap.start() > 0 and gap.end() < len(text)]


def _end_of_class(text: str, at: int) -> int:
    at += 2 if text[at + 1 : at + 2] == "^" else 1
    first = True
    while at < len(text) and (text[at] != "]" or first):
        at += 2 if text[at] == "\\" else 1
        first = False
    return at + 1


def _compile(text: str, about: str) -> Any:
    re2 = import_re2()
    options = re2.Options()
    options.log_errors = False
    pattern: str | bytes = text
    if text.isascii() and "\\x{" not in text and "\\p{" not in text:
        # Bytes make a far smaller automaton than characters, and ASCII is the same in both.
        options.encoding = re2.Options.Encoding.LATIN1
        pattern = text.encode("ascii")
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ConfigError(f"{about}: pattern {text!r}: {error}") from None


def alternatives(text: str) -> list[str]:
    """`text` cut at the alternatives that stand in no group."""
    cuts: list[int] = []
    depth = 0
    at = 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 2
            continue
        if character == "[":
            at = _end_of_class(text, at)
            continue
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            cuts.append(at)
        at += 1
    return [
        text[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(text)], strict=True)
    ]


def import_re2() -> Any:
    """The re2 module; MissingExtraError without it."""
    try:
        import re2
    except ImportError:
        raise MissingExtraError("detect", "matching rules") from None
    return re2
