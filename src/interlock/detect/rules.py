"""The rule pack: patterns with an id, a family and a severity, and the stretches that they hit.

Matching takes linear time: patterns are RE2's, which never backtracks. A pattern is tried only
where one of its literals occurs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from interlock.detect.normalise import Normalised
from interlock.detect.pattern import Pattern, alternatives, compile_pattern, import_re2
from interlock.kernel.errors import ConfigError, MissingExtraError

PACK_SCHEMA = 1

# No folded text holds it, so a search that does not find it at the end was broken off.
_END = b"\x00"

# Bytes of a text that are searched at a time, and how far a match may reach into the next ones.
_STEP = 1536
_OVERLAP = 512


class Severity(StrEnum):
    """How much a hit says by itself."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Place(StrEnum):
    """Where a text came from: what is harmless from a user may be an attack in a document.

    AUTO stands for "not known": every rule applies.
    """

    USER = "user"
    DOCUMENT = "document"
    AUTO = "auto"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule, as the pack's file holds it.

    literals   texts of which one must occur, folded, before the patterns are tried; parts of words
               count
    patterns   RE2 patterns against the folded text; any of them is a hit. `{{name}}` stands for
               the pack's definition of that name
    places     where the rule applies
    examples   texts that it must hit, `harmless` texts that it must not
    """

    id: str
    family: str
    severity: Severity
    literals: tuple[str, ...]
    patterns: tuple[str, ...]
    examples: tuple[str, ...]
    harmless: tuple[str, ...] = ()
    places: tuple[Place, ...] = (Place.USER, Place.DOCUMENT)
    languages: tuple[str, ...] = ("en",)


class _PackFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    rules: tuple[Rule, ...]
    definitions: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matched: where in the original text, and by which reading of it."""

    rule: str
    family: str
    severity: Severity
    start: int
    end: int
    via: tuple[str, ...]


class RulePack:
    """Rules, compiled once. Safe across threads. `digest` is the SHA-256 over
    those of the pack's files, in the order of their names."""

    def __init__(self, rules: Sequence[Rule], definitions: Mapping[str, str], digest: str) -> None:
        self.rules = tuple(rules)
        self.digest = digest
        self.families = tuple(dict.fromkeys(rule.family for rule in rules))
        self._patterns = [
            [one for pattern in rule.patterns for one in _compile(rule, pattern, definitions)]
            for rule in rules
        ]
        self._literals, self._behind, self._end = _literal_set(rules)

    def scan(
        self, normalised: Normalised, place: Place = Place.USER, *, most: int = 64
    ) -> tuple[Hit, ...]:
        """The hits in all readings, each rule and stretch once, in text order.

        most  hits of one rule; no number of them hides what another rule hits
        """
        found: dict[tuple[str, int, int], Hit] = {}
        counts: Counter[str] = Counter()
        for view in normalised.views:
            data = view.text.encode("utf-8", "replace")
            characters = None if len(data) == len(view.text) else _Characters(data)
            for index, start, end in self._matches(data, place):
                rule = self.rules[index]
                if counts[rule.id] >= most:
                    continue
                if characters is not None:
                    start, end = characters.before(start), characters.until(end)
                start, end = view.span(start, end)
                key = (rule.id, start, end)
                if key not in found:
                    counts[rule.id] += 1
                    found[key] = Hit(
                        rule.id, rule.family, rule.severity, start, end, view.disguises
                    )
        return _in_order(found.values())

    def _matches(self, data: bytes, place: Place) -> Iterator[tuple[int, int, int]]:
        """Index of the rule, begin and end in bytes of each match, chunk by chunk.

        A pattern is tried only on chunks that hold a literal of its rule.
        """
        for begin in range(0, max(1, len(data) - _OVERLAP), _STEP):
            end = min(len(data), begin + _STEP + _OVERLAP)
            for index in self._candidates(data[begin:end]):
                if place is not Place.AUTO and place not in self.rules[index].places:
                    continue
                for pattern in self._patterns[index]:
                    for start, stop in pattern.find(data, begin, end):
                        # The next chunk finds what begins in the overlap.
                        if start < begin + _STEP or end == len(data):
                            yield index, start, stop

    def _candidates(self, data: bytes) -> Sequence[int]:
        """The rules of which a literal occurs in `data`, in the pack's order."""
        matched = self._literals.Match(data + _END)
        # RE2 gives up on a text that needs too much memory, and then finds nothing at all.
        if not matched or self._end not in matched:
            return range(len(self.rules))
        return sorted({index for literal in matched for index in self._behind[literal]})


class _Characters:
    """How many characters lie before a byte of UTF-8: a pattern of bytes may end inside one."""

    def __init__(self, data: bytes) -> None:
        begins = np.frombuffer(data, np.uint8) & 0xC0 != 0x80
        self._counts = np.concatenate([[0], np.cumsum(begins)])
        self._begins = np.append(begins, True)

    def before(self, at: int) -> int:
        """The whole characters before the byte `at`."""
        return int(self._counts[at]) - (not self._begins[at])

    def until(self, at: int) -> int:
        """The characters before the byte `at`, with one that it lies in."""
        return int(self._counts[at])


def _in_order(hits: Iterable[Hit]) -> tuple[Hit, ...]:
    """In text order, without hits of a rule inside another hit of it."""
    kept: list[Hit] = []
    last: dict[str, int] = {}
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end, hit.rule)):
        if hit.end > last.get(hit.rule, -1):
            kept.append(hit)
            last[hit.rule] = hit.end
    return tuple(kept)


def load_pack(path: str | Path | None = None) -> RulePack:
    """The pack in the YAML file `path` or in the directory's `*.yaml` files, or the shipped one.

    The files of a directory are one pack: definitions of one hold in all. Raises ConfigError,
    naming the file or the rule and what is wrong with it, for a file that cannot be read, an
    unknown field, a rule without patterns, literals or examples, an id or a definition given
    twice, and a pattern that RE2 refuses or that matches the empty text.
    """
    if path is None:
        return _shipped()
    path = Path(path)
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"rule pack {path}: no *.yaml file in it")
    try:
        return _read({file.name: file.read_bytes() for file in files})
    except OSError as error:
        raise ConfigError(f"rule pack {path}: {error.strerror}") from None


@lru_cache(maxsize=1)
def _shipped() -> RulePack:
    pack = resources.files("interlock.detect") / "pack"
    files = sorted((file for file in pack.iterdir() if file.name.endswith(".yaml")), key=_name)
    return _read({file.name: file.read_bytes() for file in files})


def _name(file: Traversable) -> str:
    return file.name


def _read(files: Mapping[str, bytes]) -> RulePack:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("detect", "reading a rule pack") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rules: dict[str, Rule] = {}
    definitions: dict[str, str] = {}
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(hashlib.sha256(data).digest())
        try:
            file = msgspec.convert(yaml.load(data, Loader=loader), _PackFile)
        except (yaml.YAMLError, msgspec.ValidationError) as error:
            raise ConfigError(f"rule pack {name}: {error}") from None
        if file.schema != PACK_SCHEMA:
            raise ConfigError(
                f"rule pack {name}: schema is {file.schema}; this release reads {PACK_SCHEMA}"
            )
        for rule in file.rules:
            if rule.id in rules:
                raise ConfigError(f"rule pack {name}: two rules have the id {rule.id}")
            if not (rule.patterns and rule.literals and rule.examples):
                raise ConfigError(
                    f"rule pack {name}: rule {rule.id} lacks patterns, literals or examples"
                )
            rules[rule.id] = rule
        for key, meaning in file.definitions.items():
            if key in definitions:
                raise ConfigError(f"rule pack {name}: {key} is defined twice")
            definitions[key] = meaning
    return RulePack(tuple(rules.values()), definitions, digest.hexdigest())


def _compile(rule: Rule, pattern: str, definitions: Mapping[str, str]) -> list[Pattern]:
    text = pattern
    # Definitions may use others; a cycle would never end.
    for _ in range(8):
        if "{{" not in text:
            break
        for name, meaning in definitions.items():
            text = text.replace("{{" + name + "}}", f"(?:{meaning})")
    if "{{" in text:
        raise ConfigError(f"rule {rule.id}: unknown or endless definition in {pattern!r}")
    return [compile_pattern(part, f"rule {rule.id}") for part in alternatives(text)]


def _literal_set(rules: Sequence[Rule]) -> tuple[Any, list[list[int]], int]:
    re2 = import_re2()
    found = re2.Set.SearchSet()
    behind: list[list[int]] = []
    of: dict[str, int] = {}
    for index, rule in enumerate(rules):
        for literal in rule.literals:
            if literal not in of:
                of[literal] = found.Add(re2.escape(literal))
                behind.append([])
            behind[of[literal]].append(index)
    end = found.Add(_END)
    behind.append([])
    found.Compile()
    return found, behind, end
