"""Prompts of a benchmark: read one at a time, each malformed one named by its line and field.

A file holds `{"metadata": …, "prompts": [prompt, …]}`, a bare array of prompts, or, with the
ending `.jsonl`, one prompt a line. A prompt has `id` and `prompt`, and may have `category`,
`is_synthetic_probe`, `gold_label` and `gold_refs`; whatever else it has is kept.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np

from interlock.kernel.errors import InputError

LISTED = 20
"""Problems that one error message lists."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of a benchmark.

    gold_label    what is known of the right answer, such as `{"exists": true, "description": …}`
    gold_refs     references that belong to it
    extra         the prompt's other fields, by name
    """

    id: str
    text: str
    category: str = ""
    is_synthetic: bool = False
    gold_label: Any = None
    gold_refs: tuple[Any, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The prompt in the benchmark's schema."""
        return {
            "id": self.id,
            "category": self.category,
            "prompt": self.text,
            "is_synthetic_probe": self.is_synthetic,
            "gold_label": self.gold_label,
            "gold_refs": list(self.gold_refs),
            **self.extra,
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a prompt. `line` counts from 1, `place` is such as `prompts[3].id`."""

    line: int
    place: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.place} {self.message}"


def load_prompts(path: Path | str) -> list[Prompt]:
    """All prompts of a file; raises InputError that lists the problems of a malformed one."""
    return list(iter_prompts(path))


def iter_prompts(path: Path | str) -> Iterator[Prompt]:
    """The prompts of a file, in order, in memory that does not grow with their texts.

    Raises InputError where the file cannot be read, and, after the last prompt, one that lists
    what was wrong with the malformed ones, which are left out.
    """
    problems: list[Problem] = []
    total = 0
    for found in scan_prompts(path):
        if isinstance(found, Problem):
            total += 1
            if len(problems) < LISTED:
                problems.append(found)
        elif not problems:
            yield found
    if problems:
        raise _malformed(path, problems, total)


def scan_prompts(path: Path | str) -> Iterator[Prompt | Problem]:
    """Each prompt, or what is wrong with it; after the last one, the ids that occur twice.

    Raises InputError where the file cannot be opened.
    """
    path = Path(path)
    ids = _Ids()
    found = False
    try:
        with path.open(encoding="utf-8-sig") as file:
            objects = _json_lines(file) if path.suffix == ".jsonl" else _json_objects(file)
            for line, place, value in objects:
                found = True
                if isinstance(value, _Bad):
                    yield Problem(line, place, value.message)
                    continue
                problems = list(_problems(line, place, value))
                if problems:
                    yield from problems
                    continue
                ids.add(value["id"], line)
                yield _prompt(value)
    except OSError as error:
        raise InputError(
            f"prompts_file {path} cannot be read: {error.strerror or error}",
            hint="give the path of a JSON file with prompts",
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"prompts_file {path} is not UTF-8 text") from None
    if not found:
        yield Problem(1, "prompts", "holds no prompt")
    for first, again in ids.twice():
        yield Problem(again, "id", f"is that of the prompt on line {first}; ids must be unique")


class _Ids:
    """Digests of the ids seen, 16 bytes an id, so that many prompts take little memory."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._lines = array("Q")

    def add(self, text: str, line: int) -> None:
        self._digests.append(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()))
        self._lines.append(line)

    def twice(self) -> list[tuple[int, int]]:
        """Lines of an id's first and of each later occurrence, in the order of the latter."""
        digests = np.frombuffer(self._digests, np.uint64)
        lines = np.frombuffer(self._lines, np.uint64)
        if len(digests) < 2:
            return []
        order = np.argsort(digests, kind="stable")
        ranked = digests[order]
        starts = np.r_[True, ranked[1:] != ranked[:-1]]
        firsts = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
        pairs = zip(lines[firsts[~starts]].tolist(), lines[order[~starts]].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: pair[1])


def _malformed(path: Path | str, problems: list[Problem], total: int) -> InputError:
    listed = "\n".join(f"  {problem}" for problem in problems)
    more = f"\n  and {total - len(problems)} more" if total > len(problems) else ""
    return InputError(f"prompts_file {path} has {total} problems:\n{listed}{more}", hint="")


_KNOWN = frozenset(["id", "prompt", "category", "is_synthetic_probe", "gold_label", "gold_refs"])


def _prompt(value: dict[str, Any]) -> Prompt:
    return Prompt(
        id=value["id"],
        text=value["prompt"],
        category=value.get("category") or "",
        is_synthetic=bool(value.get("is_synthetic_probe")),
        gold_label=value.get("gold_label"),
        gold_refs=tuple(value.get("gold_refs") or ()),
        extra={name: kept for name, kept in value.items() if name not in _KNOWN},
    )


def prompt_from_dict(value: Mapping[str, Any]) -> Prompt:
    """A prompt from the benchmark's schema; raises InputError that names the malformed field."""
    for problem in _problems(1, "prompt", dict(value)):
        raise InputError(f"{problem.place} {problem.message}")
    return _prompt(dict(value))


def _problems(line: int, place: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem(line, place, f"is {_kind(value)}; it must be an object")
        return
    for name in ("id", "prompt"):
        text = value.get(name)
        if name not in value:
            yield Problem(line, f"{place}.{name}", "is missing")
        elif not isinstance(text, str):
            yield Problem(line, f"{place}.{name}", f"is {_kind(text)}; it must be text")
        elif not text.strip():
            yield Problem(line, f"{place}.{name}", "is empty")
        elif not is_unicode(text):
            yield Problem(line, f"{place}.{name}", "holds a lone surrogate, which is no text")
        elif name == "id" and not text.isprintable():
            yield Problem(line, f"{place}.id", "holds a character that cannot be printed")
    category = value.get("category")
    if category is not None and not (isinstance(category, str) and is_unicode(category)):
        yield Problem(line, f"{place}.category", f"is {_kind(category)}; it must be text")
    synthetic = value.get("is_synthetic_probe")
    if synthetic is not None and not isinstance(synthetic, bool):
        yield Problem(
            line,
            f"{place}.is_synthetic_probe",
            f"is {_kind(synthetic)}; it must be true or false",
        )
    refs = value.get("gold_refs")
    if refs is not None and not isinstance(refs, list):
        yield Problem(line, f"{place}.gold_refs", f"is {_kind(refs)}; it must be an array")
    label = value.get("gold_label")
    if isinstance(label, dict):
        exists = label.get("exists")
        if exists is not None and not isinstance(exists, bool):
            yield Problem(
                line,
                f"{place}.gold_label.exists",
                f"is {_kind(exists)}; it must be true, false or null",
            )
    for name, kept in value.items():
        if not is_unicode(name):
            yield Problem(line, place, "holds a lone surrogate in a field's name, which is no text")
        elif name not in ("id", "prompt", "category") and not _is_text_throughout(kept):
            yield Problem(line, f"{place}.{name}", "holds a lone surrogate, which is no text")


def _is_text_throughout(value: Any) -> bool:
    """Whether a JSON value can be written as UTF-8, with all that is in it."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return False
    return True


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    """A value's JSON type, since the value itself may be prompt text."""
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false"}
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    return "null" if value is None else names.get(type(value), type(value).__name__)


@dataclass(frozen=True, slots=True)
class _Bad:
    """A piece of the file that is not JSON."""

    message: str


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which would else keep the last of two fields of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _json_lines(file: Iterable[str]) -> Iterator[tuple[int, str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, "prompt", _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                yield number, "prompt", _Bad(_not_json(error))


def _json_objects(file: TextIO) -> Iterator[tuple[int, str, Any]]:
    """The elements of the file's array, or of the array `prompts` of its object."""
    text = _Window(file)
    try:
        if text.peek() == "[":
            yield from _elements(text)
        elif text.peek() == "{":
            text.expect("{")
            found = False
            while text.peek() != "}":
                name = text.value()
                text.expect(":")
                if name == "prompts" and text.peek() == "[":
                    found = True
                    yield from _elements(text)
                else:
                    text.value()
                if text.peek() != "}":
                    text.expect(",")
            text.expect("}")
            if not found:
                yield 1, "prompts", _Bad("is missing; it must be an array of prompts")
        else:
            yield 1, "prompts", _Bad("is missing: the file holds neither an object nor an array")
            return
        if text.peek():
            yield text.line, "prompts", _Bad("is followed by more text after its end")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        # What follows cannot be told apart, so this is the last problem of the file.
        yield text.line, "prompts", _Bad(_not_json(error))


def _elements(text: _Window) -> Iterator[tuple[int, str, Any]]:
    text.expect("[")
    at = 0
    while text.peek() != "]":
        line = text.line
        yield line, f"prompts[{at}]", text.value()
        at += 1
        if text.peek() != "]":
            text.expect(",")
    text.expect("]")


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg}"
    return "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"


_IN_NUMBERS = "0123456789+-.eE"


class _Window:
    """The unread part of a JSON text, a block at a time; `line` is where the next value starts."""

    BLOCK = 1 << 18

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False
        self.line = 1

    def peek(self) -> str:
        """The next character that is no white space, empty at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
            self._advance(at)
            if at < len(text) or not self._read(self.BLOCK):
                return self._text[self._at : self._at + 1]

    def expect(self, character: str) -> None:
        """Skip this character; raises ValueError where another one comes."""
        if self.peek() != character:
            raise ValueError(f"'{character}' was expected")
        self._advance(self._at + 1)

    def value(self) -> Any:
        """The next JSON value; raises ValueError where there is none."""
        self.peek()
        block = self.BLOCK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A value may go on in the next block; each block is twice as long as the last.
                if self._read(block):
                    block *= 2
                    continue
                self.line += self._text.count("\n", self._at, error.pos)
                raise
            # A number, unlike all else, may go on after what was decoded: 1.25 in 1.25e3.
            cut = isinstance(value, int | float) and not self._text[end:].strip(_IN_NUMBERS)
            if cut and self._read(self.BLOCK):
                continue
            self._advance(end)
            return value

    def _advance(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _read(self, characters: int) -> bool:
        block = "" if self._ended else self._file.read(characters)
        if not block:
            self._ended = True
            return False
        self._text = self._text[self._at :] + block
        self._at = 0
        return True
