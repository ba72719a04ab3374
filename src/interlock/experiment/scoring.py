"""What a scorer is, and how one is found by name.

A scorer answers one yes-or-no question of each answer, and says so where it cannot: it does not
guess. Packages offer scorers as entry points of the group `interlock.scorers`; a program adds its
own with `register_scorer`, or turns a function into one with `from_function`.

    [project.entry-points."interlock.scorers"]
    cites_cvss = "acme.scorers:make_cites_cvss"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from interlock.experiment.prompts import Prompt
from interlock.experiment.records import PromptResult
from interlock.kernel.errors import ConfigError
from interlock.kernel.registry import Factory, Registry


class Verdict(StrEnum):
    """What became of one answer under one scorer."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"
    """The question applies, and the answer does not settle it: a hedge, a refusal, no stance."""
    NO_ANSWER = "no_answer"
    """The question applies, and there is no answer: the request failed."""
    ERROR = "error"
    """The scorer itself failed, such as a judge whose reply cannot be read."""
    NOT_APPLICABLE = "not_applicable"
    """The question does not apply to the prompt."""

    @property
    def counts(self) -> bool | None:
        """True and False for yes and no, None for what is missing. Not for NOT_APPLICABLE."""
        return {"yes": True, "no": False}.get(self.value)


@dataclass(frozen=True, slots=True)
class Score:
    """A verdict, a finer label of the scorer's own, and why, in words or as a quotation."""

    verdict: Verdict
    label: str = ""
    reason: str = ""


class Scorer(Protocol):
    """Answers one yes-or-no question of each answer.

    name      unique in a report
    question  what a yes means, such as "is the answer right about existence?"
    good      whether a yes is what one hopes for; None where it is neither
    """

    @property
    def name(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def good(self) -> bool | None: ...

    def applies(self, prompt: Prompt) -> str | None:
        """Why the question does not apply to a prompt; None where it does."""
        ...

    def score(self, prompt: Prompt, result: PromptResult) -> Score:
        """The verdict on one answer to a prompt to which the question applies.

        Only called for results with an answer; raises nothing for any text.
        """
        ...


@dataclass(frozen=True)
class FunctionScorer:
    """A scorer made of a function; see `from_function`."""

    name: str
    question: str
    good: bool | None
    function: Callable[[Prompt, str], bool | None]
    where: Callable[[Prompt], bool] | None = None

    def applies(self, prompt: Prompt) -> str | None:
        """Where `where` says so, or everywhere."""
        if self.where is None or self.where(prompt):
            return None
        return f"{self.name} does not apply to this prompt"

    def score(self, prompt: Prompt, result: PromptResult) -> Score:
        """The function's own verdict."""
        found = self.function(prompt, result.full_response)
        if found is None:
            return Score(Verdict.UNDECIDED)
        return Score(Verdict.YES if found else Verdict.NO)


def from_function(
    function: Callable[[Prompt, str], bool | None],
    *,
    name: str | None = None,
    question: str = "",
    good: bool | None = True,
    where: Callable[[Prompt], bool] | None = None,
) -> Scorer:
    """A scorer from a function of a prompt and an answer's text: yes, no, or None for undecided.

    name   the function's own where none is given
    where  says to which prompts it applies; to all without it
    """
    named = name or function.__name__
    return FunctionScorer(named, question or f"does {named} say yes?", good, function, where)


def evaluate(scorer: Scorer, prompt: Prompt, result: PromptResult) -> Score:
    """One scorer's verdict on one result: applicable, answered, then scored.

    A scorer that raises gets the verdict ERROR with the exception's type, never its text, which may
    quote the answer.
    """
    try:
        reason = scorer.applies(prompt)
        if reason is not None:
            return Score(Verdict.NOT_APPLICABLE, "", reason)
        if not has_answer(result):
            return Score(Verdict.NO_ANSWER, result.error_type or "", result.error or "no answer")
        return scorer.score(prompt, result)
    except Exception as error:  # noqa: BLE001  a user's scorer must not end the report
        return Score(
            Verdict.ERROR, type(error).__name__, f"the scorer raised {type(error).__name__}"
        )


def has_answer(result: PromptResult) -> bool:
    """Whether there is an answer to score.

    A refusal of the model counts as one, though it may have no text; what a filter held back and an
    empty answer do not.
    """
    return result.stop_reason == "refusal" or (not result.error and result.status != "failed")


SCORERS = Registry(
    "scorer",
    "interlock.scorers",
    lambda made: (
        callable(getattr(made, "score", None)) and callable(getattr(made, "applies", None))
    ),
)


def register_scorer(name: str, factory: Factory, *, extra: str | None = None) -> None:
    """Put a factory of scorers under `name` for this process. See `Registry.register`."""
    SCORERS.register(name, factory, extra=extra)


def make_scorers(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None, *, base: Path
) -> list[Scorer]:
    """The scorers under these names, each with its options.

    Raises ConfigError for an unknown name, a wrong option, or two scorers of one name.
    """
    made: list[Scorer] = [
        SCORERS.make(name, (options or {}).get(name), base=base) for name in names
    ]
    return unique(made)


def unique(scorers: Sequence[Scorer]) -> list[Scorer]:
    """The scorers; raises ConfigError where two have one name."""
    known: set[str] = set()
    for scorer in scorers:
        if scorer.name in known:
            raise ConfigError(f"two scorers are called '{scorer.name}'; names must be unique")
        known.add(scorer.name)
    return list(scorers)
