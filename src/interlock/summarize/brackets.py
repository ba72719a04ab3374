"""Bracket expressions of ignore patterns, such as `[a-z]`, read as Git reads them.

The package `pathspec` hands them to `re` nearly as they stand, which knows no classes of POSIX,
fails on `[z-a]`, and lets `[!a]` match a slash.
"""

from __future__ import annotations

import string

_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, (*range(32), 127))),
    "digit": string.digits,
    "graph": "".join(map(chr, range(33, 127))),
    "lower": string.ascii_lowercase,
    "print": "".join(map(chr, range(32, 127))),
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
_LAST = 0x10FFFF
# They mean something inside of brackets, or at the beginning, and come last, each alone.
_SPECIAL = "[\\!^-"

Range = tuple[int, int]


def plain_brackets(line: str) -> str | None:
    """The pattern with brackets that list characters and ranges alone; None where Git takes it for
    a pattern that matches nothing.
    """
    parts: list[str] = []
    at = 0
    while at < len(line):
        if line[at] == "\\":
            parts.append(line[at : at + 2])
            at += 2
        elif line[at] == "[":
            found = _read(line, at + 1)
            if found is None:
                return None
            ranges, end = found
            if not ranges:
                return None
            parts.append(_written(ranges))
            at = end
        else:
            parts.append(line[at])
            at += 1
    return "".join(parts)


def _read(line: str, at: int) -> tuple[list[Range], int] | None:
    """The characters of the expression that begins before `at`, no slash among them, and its end.

    None where it has none, or holds a class that there is not.
    """
    negated = line[at : at + 1] in ("!", "^")
    at += negated
    found: list[Range] = []
    before: int | None = None
    first = True
    while first or line[at : at + 1] != "]":
        first = False
        character = line[at : at + 1]
        if not character:
            return None
        if character == "-" and before is not None and line[at + 1 : at + 2] not in ("", "]"):
            at += 1 + (line[at + 1] == "\\")
            if at >= len(line):
                return None
            found.append((before, ord(line[at])))
            before = None
        elif character == "[" and line[at + 1 : at + 2] == ":":
            end = line.find("]", at + 2)
            if end < 0:
                return None
            if end > at + 2 and line[end - 1] == ":":
                members = _CLASSES.get(line[at + 2 : end - 1])
                if members is None:
                    return None
                found += [(ord(member), ord(member)) for member in members]
                at, before = end, None
            else:
                # No class after all: a bracket among the characters.
                before = ord("[")
                found.append((before, before))
        else:
            at += character == "\\"
            if at >= len(line):
                return None
            before = ord(line[at])
            found.append((before, before))
        at += 1
    return _without_slash(_complement(found) if negated else found), at + 1


def _complement(ranges: list[Range]) -> list[Range]:
    found: list[Range] = []
    free = 0
    for low, high in sorted(ranges):
        if high < low:
            continue
        if low > free:
            found.append((free, low - 1))
        free = max(free, high + 1)
    return [*found, (free, _LAST)] if free <= _LAST else found


def _without_slash(ranges: list[Range]) -> list[Range]:
    # Twice the complement: in order, and none twice.
    slash = ord("/")
    return _complement([*_complement(ranges), (slash, slash)])


def _written(ranges: list[Range]) -> str:
    """Brackets with these characters, one at least; the ranges in order, apart from one another."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        alone = chr(ranges[0][0])
        # The library takes white space off the end of a line.
        return f"[{alone}]" if alone.isspace() else f"\\{alone}"
    single = [ord(character) for character in f"]{_SPECIAL}"]
    listed = {each for each in single if any(low <= each <= high for low, high in ranges)}
    rest = _complement([*_complement(ranges), *((each, each) for each in single)])
    body = "".join(chr(a) if a == b else f"{chr(a)}-{chr(b)}" for a, b in rest)
    first = "]" if ord("]") in listed else ""
    last = "".join(character for character in _SPECIAL if ord(character) in listed)
    # No name has a NUL: it keeps what follows from standing first.
    return f"[{first or ('' if body else chr(0))}{body}{last}]"
