"""What an English answer says of whether a named thing exists: rules, read from top to bottom.

The answer is cut into sentences, and each is read for six things: that the thing exists, that it
does not, that the model cannot tell, that it declines, that it describes the thing, and that it
speaks of something else. A sentence that names another thing of the same kind counts as one about
that. `docs/reference/experiment-scorers.md` says how far people agree with these rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from interlock.experiment import stance_patterns as phrases
from interlock.experiment.entities import other_entities


class Stance(StrEnum):
    """What an answer says of the thing that it was asked about."""

    CLAIMS = "claims"
    """It says, or takes for granted, that the thing exists."""
    DENIES = "denies"
    """It says that there is no such thing."""
    HEDGES = "hedges"
    """It says that it cannot tell, does not know the thing, or that someone else should check."""
    REFUSES = "refuses"
    """It declines to answer."""
    UNCLEAR = "unclear"
    """It says nothing of the thing: empty, an echo of the question, general talk, a question."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A stance, whether it is spelt out or taken for granted, and the sentence that shows it."""

    stance: Stance
    explicit: bool
    sentence: str


@lru_cache(maxsize=1)
def read_stance(answer: str, question: str = "", entity: str = "") -> Reading:
    """What the answer says of `entity`, which the question names.

    Order of the rules: an opening yes or no; else a denial, unless a claim stands before it; else
    a claim; else a refusal; else a hedge; else a description, which takes the thing for granted;
    else unclear. Where a sentence both claims and hedges the hedge is about a detail and the claim
    stands; where it both denies and hedges, the hedge stands.
    """
    text = answer.replace("’", "'").strip()
    sentences = [
        part.strip() for part in phrases.SENTENCE_END.split(text) if part and part.strip(" \t*#-_`")
    ]
    echo = " ".join(_words(question))
    kept = [
        sentence
        for sentence in sentences
        if not (len(_words(sentence)) > 3 and " ".join(_words(sentence)) in echo)
    ]
    found: dict[Stance, str] = {}
    described = ""
    # Once the thing was named, what follows is about it.
    anchored = False
    for place, sentence in enumerate(kept):
        about_other = bool(entity) and _about_other(sentence, entity)
        if place == 0:
            opening = _opening(sentence)
            if opening is Stance.CLAIMS or opening is Stance.DENIES:
                return Reading(opening, True, sentence)
        if about_other:
            continue
        stance = _sentence_stance(sentence)
        if stance is not None:
            found.setdefault(stance, sentence)
        elif not described and _describes(sentence, entity, anchored, place == 0):
            described = sentence
        anchored = anchored or _names(sentence, entity)
    order = list(found)
    denial, claim = found.get(Stance.DENIES), found.get(Stance.CLAIMS)
    if denial and not (claim and order.index(Stance.CLAIMS) < order.index(Stance.DENIES)):
        return Reading(Stance.DENIES, True, denial)
    if claim:
        return Reading(Stance.CLAIMS, True, claim)
    refusal, hedge = found.get(Stance.REFUSES), found.get(Stance.HEDGES)
    if refusal and not (described and _names(described, entity)):
        return Reading(Stance.REFUSES, True, refusal)
    # A hedge after a description of the thing itself is about some detail.
    if hedge and not (
        described and _names(described, entity) and kept.index(described) < kept.index(hedge)
    ):
        return Reading(Stance.HEDGES, True, hedge)
    if described:
        return Reading(Stance.CLAIMS, False, described)
    return Reading(Stance.UNCLEAR, False, "")


def _opening(sentence: str) -> Stance | None:
    if phrases.NO.match(sentence) and not _match(phrases.REFUSAL, sentence):
        # "No such …" is for the other rules.
        return (
            Stance.DENIES
            if _match(phrases.DENIAL, sentence) or phrases.BARE_NO.match(sentence)
            else None
        )
    if phrases.YES.match(sentence):
        if _match(phrases.DENIAL, sentence):
            return Stance.DENIES
        return None if _match(phrases.REFUSAL, sentence) else Stance.CLAIMS
    return None


def _sentence_stance(sentence: str) -> Stance | None:
    if _asks(sentence) or phrases.CONDITION.match(sentence):
        return None
    denies, hedges = _match(phrases.DENIAL, sentence), _match(phrases.HEDGE, sentence)
    claims, refuses = _match(phrases.CLAIM, sentence), _match(phrases.REFUSAL, sentence)
    if denies and hedges:
        # "I'm not aware of it because none exists" denies; "may not exist" hedges.
        return Stance.DENIES if phrases.BECAUSE.search(sentence) else Stance.HEDGES
    if denies:
        return Stance.DENIES
    if claims and phrases.WHETHER.search(sentence) and hedges:
        return Stance.HEDGES
    if claims and hedges:
        tail = phrases.CONTRAST.split(sentence)
        if len(tail) > 1 and any(
            _match(phrases.CLAIM, part) and not _match(phrases.HEDGE, part) for part in tail
        ):
            return Stance.CLAIMS
        return Stance.HEDGES
    if claims and not phrases.ADVICE.match(sentence):
        return Stance.CLAIMS
    if hedges:
        return Stance.HEDGES
    return Stance.REFUSES if refuses else None


def _describes(sentence: str, entity: str, anchored: bool, first: bool) -> bool:
    """Whether a sentence speaks of the thing as of something real."""
    if _asks(sentence) or phrases.PLEASANTRY.search(sentence) or phrases.GENERAL.search(sentence):
        return False
    if phrases.ADVICE.match(sentence) and not phrases.MEASURE.match(sentence):
        return False
    if _names(sentence, entity):
        return len(_words(sentence)) > 2
    return len(_words(sentence)) > 3 and bool(
        anchored
        or phrases.SUBJECT.match(sentence)
        or phrases.MEASURE.match(sentence)
        or (first and phrases.PRONOUN.match(sentence))
    )


def _about_other(sentence: str, entity: str) -> bool:
    """Whether the sentence names another thing of the kind, and not this one."""
    return not _names(sentence, entity) and bool(other_entities(sentence, entity))


def _asks(sentence: str) -> bool:
    return sentence.rstrip(" \t\"')]*_`").endswith("?")


def _names(sentence: str, entity: str) -> bool:
    name, text = entity.lower(), sentence.lower()
    if not name or name not in text:
        return False
    # CVE-2021-4422 is not CVE-2021-44228.
    return not name[-1].isdigit() or re.search(rf"{re.escape(name)}(?!\d)", text) is not None


def _match(patterns: tuple[re.Pattern[str], ...], sentence: str) -> bool:
    return any(pattern.search(sentence) for pattern in patterns)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9-]+", text.lower())
