"""How far a summary speaks of its own source: the names in it, and its words, looked up there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from interlock.summarize.languages import NAMES

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_BACKTICKED = re.compile(r"`([^`]+)`")
_TOKEN = re.compile(r"[^\W\d][\w]*(?:(?:::|\.|->)[^\W\d]\w*)*(?:\(\))?")
_CODE_LIKE = re.compile(r"_|::|\(\)|->|[a-z0-9][A-Z]|[A-Z]{2,}[a-z]{2,}|\w\.\w")

# Words that any summary of any code may hold: they speak for nothing.
_ANYWHERE = """
    a an the this that these those it its they them their there here and or but not no nor so as
    at by for from in into of off on onto out over per to up with within without via is are was were
    be been being am do does did done has have had having can could may might must shall should will
    would if then else when while where which who whom whose what why how all any both each every
    few more most other some such only own same than too very just also about above after again
    against before below between down during further once under until through across along around
    because either neither whether one two three first second new several many multiple various
    different following given based like well main example etc see use used uses using user users
    code codes program programs function functions class classes method methods module modules file
    files folder project library libraries package packages snippet script source software
    implementation implementations implement implements implemented implementing provide provides
    provided providing define defines defined defining definition definitions contain contains
    containing include includes including create creates created creating make makes made making
    allow allows allowing enable enables return returns returned returning take takes taking get
    gets getting set sets setting call calls called calling perform performs performing purpose
    part parts set way ways thing things type types value values variable variables object objects
    data name names named simple specific particular common general language written write writes
    called calls represent represents representing describe describes ensure ensures handle handles
    handling manage manages managing work works working run runs running
"""
_EMPTY_WORDS = frozenset(_ANYWHERE.split())
_SUFFIXES = (
    "izations", "ization", "ations", "ation", "ingly", "ators", "ator", "ments", "ment", "ings",
    "ness", "able", "ible", "ions", "ing", "ers", "ors", "ies", "ied", "ion", "ate", "ed", "er",
    "or", "es", "ly", "al", "s", "e", "y",
)  # fmt: skip

# Languages whose names are no common words; a summary that names one which is not the chunk's own
# is as wrong as one that makes up an identifier.
NAMED_LANGUAGES = frozenset(
    name for name in NAMES if name not in {"C", "R", "make", "shell", "batch", "text", "Go", "INI",
                                           "Nim", "Nix", "Swift", "Assembly", "Vue"}
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """The names and words of a source, as a summary of it may use them."""

    text: str

    @cached_property
    def identifiers(self) -> frozenset[str]:
        """Every name, in lower case."""
        return frozenset(name.lower() for name in _IDENTIFIER.findall(self.text))

    @cached_property
    def stems(self) -> frozenset[str]:
        """The stems of all words, parts of names among them."""
        words = {
            part.lower()
            for name in set(_IDENTIFIER.findall(self.text))
            for part in (name, *_PARTS.findall(name))
        }
        return frozenset(stem(word) for word in words if len(word) > 1)

    def holds_name(self, name: str) -> bool:
        """Whether every part of a name such as `net::TcpListener` occurs, in any case."""
        parts = [part.lower() for part in _IDENTIFIER.findall(name)]
        return all(
            part in self.identifiers or part.removesuffix("s") in self.identifiers for part in parts
        )


@dataclass(frozen=True, slots=True)
class Grounding:
    """What was found of a summary in its source.

    names      code names in it that occur in the source
    unknown    code names, and names of languages, that do not
    content    words that say something, code names aside
    supported  those of them whose stem occurs in the source
    """

    names: tuple[str, ...]
    unknown: tuple[str, ...]
    content: int
    supported: int

    @property
    def share(self) -> float:
        """Names and words found, of all of them; 0 where there are none."""
        total = len(self.names) + len(self.unknown) + self.content
        return (len(self.names) + self.supported) / total if total else 0.0


def ground(summary: str, source: Vocabulary, language: str = "") -> Grounding:
    """Look up a summary's names and words in its source.

    A name is what is in backticks, has an underscore, an inner capital, `::`, `->`, `()` or an
    inner full stop, or begins with a capital inside of a sentence. Words that any summary may hold
    count for nothing.
    """
    names: list[str] = []
    unknown: list[str] = []
    plain = summary
    spans = [span for span in _BACKTICKED.findall(summary) if _IDENTIFIER.search(span)]
    for name in spans:
        plain = plain.replace(f"`{name}`", " ")
    own = {part.strip().lower() for part in language.split(",")}
    words: list[str] = []
    for found in _TOKEN.finditer(plain):
        token, at = found[0], found.start()
        proper = token[0].isupper() and not token.isupper() and at > 0
        proper = proper and not plain[:at].rstrip().endswith((".", "!", "?", ":"))
        if token.lower() not in own and (proper or _CODE_LIKE.search(token)):
            spans.append(token)
        else:
            words.append(token)
    for name in dict.fromkeys(spans):
        (names if source.holds_name(name) or name.lower() in own else unknown).append(name)
    for other in NAMED_LANGUAGES:
        if other.lower() in own or source.holds_name(other):
            continue
        if re.search(rf"(?<!\w){re.escape(other)}(?!\w)", plain):
            unknown.append(other)
    content = [
        word.lower()
        for word in words
        if len(word) > 2 and word.lower() not in _EMPTY_WORDS and word.lower() not in own
    ]
    supported = sum(stem(word) in source.stems for word in content)
    return Grounding(tuple(names), tuple(dict.fromkeys(unknown)), len(content), supported)


def stem(word: str) -> str:
    """A word without its ending, so that `listening`, `listener` and `listen` are one."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    # `running` and `run`, `stopped` and `stop`.
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
