"""The guards on a summary: each looks at what the model wrote and says why it cannot stand."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from interlock.kernel.outcome import Evidence, EvidenceKind, StepResult
from interlock.kernel.route import Verdict
from interlock.summarize.asked import Asked, facts, instruction_words
from interlock.summarize.grounding import Grounding, Vocabulary, ground
from interlock.summarize.lines import steers, unwrapped

REFUSED_BELOW = 0.6
FLAGGED_BELOW = 0.75
"""Shares of a summary's names and words that occur in its source.

Of 40 summaries by a small model, 75% passed for their own chunk, and 13% for another one of the
same package: what is refused is then left to the source's own words.
"""

LEAST_CONTENT = 3
ENOUGH_CONTENT = 6

_ECHO = 40
_WORD = re.compile(r"\w+")
_CODE_MARKS = re.compile(r"[(){}\[\];=<>&|]|::|->")


@dataclass(frozen=True)
class NotEmpty:
    """Refuses a summary of fewer than `least` words."""

    least: int = 3
    """Of a model, three are the least that say something; a source may say it in one."""

    def check(self, item: Any, answer: Any) -> Verdict:
        """Words are counted, marks are not."""
        if len(_WORD.findall(unwrapped(answer.text))) < self.least:
            return _refused(
                "empty: no words" if self.least == 1 else "empty: fewer than three words"
            )
        return Verdict()


class Plain:
    """Refuses a summary that could steer the terminal that it is shown on."""

    def check(self, item: Any, answer: Any) -> Verdict:
        """No step gives one: it would come from a journal that others wrote."""
        return _refused("holds control characters") if steers(answer.text) else Verdict()


class Complete:
    """Refuses a summary that ran into the limit of tokens."""

    def check(self, item: Any, answer: Any) -> Verdict:
        """What was cut off is not known, so neither is what the sentence means."""
        return _refused("ran into the token limit") if answer.cut else Verdict()


@dataclass(frozen=True)
class WithinLength:
    """Refuses a summary that is longer than its limit, in all or a line."""

    def check(self, item: Asked, answer: Any) -> Verdict:
        """Lines are counted as they will be shown."""
        length = len(answer.text)
        if length > item.most:
            return _refused(f"{length} characters; the limit is {item.most}")
        if item.width:
            longest = max(map(len, answer.text.split("\n")))
            if longest > item.width:
                return _refused(f"a line of {longest} characters; the limit is {item.width}")
        return Verdict()


class NoRepetition:
    """Refuses a summary that says the same again and again."""

    def check(self, item: Any, answer: Any) -> Verdict:
        """A word three times in a row, a sentence twice, or three words that keep coming back."""
        text = unwrapped(answer.text)
        words = [word.lower() for word in _WORD.findall(text)]
        for at in range(len(words) - 2):
            if words[at] == words[at + 1] == words[at + 2]:
                return _refused("repeats a word")
        sentences = [s.strip(" .!?").lower() for s in re.split(r"[.!?]\s", text)]
        if len(set(sentences)) < len(sentences):
            return _refused("repeats a sentence")
        triples = list(zip(words, words[1:], words[2:], strict=False))
        if len(triples) >= 8 and len(set(triples)) < 0.85 * len(triples):
            return _refused("repeats itself")
        most = Counter(word for word in words if len(word) > 3).most_common(1)
        if len(words) >= 10 and most and most[0][1] > 0.25 * len(words):
            return _refused("repeats a word")
        return Verdict()


class NoEcho:
    """Refuses a summary that copies code or the instruction instead of saying what they mean.

    A sentence of a doc comment is no code: to repeat it is to say what the code is for.
    """

    def check(self, item: Asked, answer: Any) -> Verdict:
        """A stretch of 40 characters with the marks of code in it is a copy."""
        text = unwrapped(answer.text)
        if text.count("```"):
            return _refused("echoes the code: a fence")
        if _shared(text, _flat(instruction_words())):
            return _refused("repeats the instruction")
        for source in (item.shown, item.ground):
            copied = _shared(text, _flat(source))
            if len(_CODE_MARKS.findall(copied)) >= 2:
                return _refused("echoes the code")
        marks = len(_CODE_MARKS.findall(re.sub(r"`[^`]*`|\(\)", "", text)))
        if marks > 4 and marks > 0.04 * len(text):
            return _refused("echoes the code: more code than words")
        return Verdict()


class OfAllParts:
    """Refuses a summary of several parts that repeats what was said of one of them."""

    def check(self, item: Asked, answer: Any) -> Verdict:
        """More than half of it, in one stretch: of the others it says nothing, or little."""
        parts = item.shown.split("\n")
        if item.level == "chunk" or len(parts) < 2:
            return Verdict()
        text = unwrapped(answer.text)
        most = max(_ECHO, len(text) // 2 + 1)
        if any(_shared(text, part, most) for part in parts):
            return _refused("repeats the summary of one part")
        return Verdict()


class Grounded:
    """Refuses a summary that names what its source does not hold, or hardly speaks of it."""

    def check(self, item: Asked, answer: Any) -> Verdict:
        """See `interlock.summarize.grounding`; between the two shares it is flagged."""
        found = grounding_of(item, answer.text)
        if found.unknown:
            named = ", ".join(name[:60] for name in found.unknown[:3])
            return _refused(f"names {named}, not in the source")
        total = len(found.names) + found.content
        if total < LEAST_CONTENT:
            return _refused("says nothing of its source")
        share = found.share
        said = f"{len(found.names) + found.supported} of {total} names and words are in the source"
        if share < REFUSED_BELOW:
            return _refused(said)
        evidence = Evidence(
            EvidenceKind.CHECKED,
            "grounding",
            {"share": round(share, 4), "names": len(found.names), "words": found.content},
        )
        if share < FLAGGED_BELOW:
            return Verdict(StepResult.FLAGGED, f"only {said}", (evidence,))
        return Verdict(evidence=(evidence,))


class SawEverything:
    """Flags a summary of an input that the token budget cut."""

    def check(self, item: Asked, answer: Any) -> Verdict:
        """The model did not see all of it."""
        return Verdict(StepResult.FLAGGED, item.left_out) if item.left_out else Verdict()


class AsItsPart:
    """Flags the summary of an only part that was flagged there."""

    def check(self, item: Any, answer: Any) -> Verdict:
        """What was said of it goes with it."""
        return Verdict(StepResult.FLAGGED, answer.flagged) if answer.flagged else Verdict()


_JOINING = "Defines Holds Begins with no words but and more only blank lines"


class FromSource:
    """Refuses an extractive summary with a word that is not the source's own."""

    def check(self, item: Asked, answer: Any) -> Verdict:
        """All but numbers, and the few words that join what was taken."""
        taken = " ".join(
            (item.doc, item.opening, *(f"{kind} {name}" for kind, name in item.defined))
        )
        words = set(_WORD.findall(f"{taken} {item.ground} {_JOINING}"))
        text = unwrapped(answer.text)
        for found in _WORD.finditer(text):
            word = found[0]
            if word in words or word.isdigit():
                continue
            # Where the text was cut, a piece of a word may stand.
            whole = "…" not in (text[: found.start()][-1:], text[found.end() :][:1])
            if whole or not any(word in each for each in words):
                return _refused("a word is not in the source")
        return Verdict(evidence=(Evidence(EvidenceKind.CHECKED, "extractive"),))


MODEL_GUARDS = (
    NotEmpty(),
    Plain(),
    Complete(),
    WithinLength(),
    NoRepetition(),
    NoEcho(),
    OfAllParts(),
    Grounded(),
    SawEverything(),
)
ONLY_PART_GUARDS = (AsItsPart(),)
EXTRACTIVE_GUARDS = (NotEmpty(least=1), Plain(), WithinLength(), FromSource())


def grounding_of(item: Asked, text: str) -> Grounding:
    """A summary's grounding in what it was asked of."""
    source = _vocabulary(f"{item.ground}\n{item.shown}\n{facts(item)}\n{item.name}")
    return ground(unwrapped(text), source, item.language)


@lru_cache(maxsize=32)
def _vocabulary(text: str) -> Vocabulary:
    """Kept for a while: an answer is looked up when it is weighed, when it is judged, and again
    when it is drawn anew.
    """
    return Vocabulary(text)


def confidence(found: Grounding, mean_logprob: float | None) -> float:
    """The geometric mean of three numbers between 0 and 1.

    The share of names and words found in the source; how much is said, 1 from six names and words
    on; the geometric mean of the tokens' probabilities. It orders summaries of one model, and is no
    probability that one is right.
    """
    said = min(1.0, (len(found.names) + found.content) / ENOUGH_CONTENT)
    likely = 1.0 if mean_logprob is None else math.exp(min(0.0, mean_logprob))
    return round(float((found.share * said * likely) ** (1 / 3)), 4)


def _refused(reason: str) -> Verdict:
    return Verdict(StepResult.REFUSED, reason)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _shared(text: str, source: str, length: int = _ECHO) -> str:
    """The first stretch of `length` characters that both hold, or nothing."""
    for at in range(len(text) - length + 1):
        if text[at : at + length] in source:
            return text[at : at + length]
    return ""
