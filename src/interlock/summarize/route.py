"""The route of a summary: the model, the model with another seed, then the source's own words."""

from __future__ import annotations

import re
import threading
from typing import Any

import msgspec

from interlock.kernel.clock import NO_DEADLINE, SYSTEM_CLOCK, Clock, Deadline
from interlock.kernel.errors import EngineUnavailableError
from interlock.kernel.outcome import Evidence, EvidenceKind, Outcome
from interlock.kernel.route import Route, RouteStep
from interlock.summarize import extractive
from interlock.summarize.asked import (
    ANSWER_TOKENS,
    Asked,
    Spent,
    Summary,
    SummaryModel,
    facts,
    messages,
)
from interlock.summarize.budget import PROMPT_TOKENS
from interlock.summarize.guards import (
    EXTRACTIVE_GUARDS,
    MODEL_GUARDS,
    ONLY_PART_GUARDS,
    confidence,
    grounding_of,
)
from interlock.summarize.lines import plain, wrapped
from interlock.summarize.models import Models, as_models

MODEL = "model"
SECOND_SEED = "model-second-seed"
EXTRACTIVE = "extractive"
ONLY_PART = "only-part"


class Meter(threading.local):
    """What the model spent on the item that this thread is working on.

    A refused answer leaves nothing but its reason in an outcome, and yet it took time.
    """

    spent = Spent()

    def add(self, spent: Spent) -> None:
        """So much more."""
        self.spent = self.spent.plus(spent)


class ModelEngine:
    """Asks the model once: greedy; or drawn from the item's seed, and in other words.

    What is asked again in the same words is often answered with the same mistake.
    """

    def __init__(self, model: SummaryModel, *, drawn: bool, meter: Meter) -> None:
        self._model = model
        self._drawn = drawn
        self._meter = meter

    def answer(self, item: Asked, *, deadline: Deadline) -> Summary:
        """The summary; raises an EngineError where the model gives none."""
        if not item.shown.strip():
            raise EngineUnavailableError("there is nothing to read")
        seed = item.seed if self._drawn else None
        # What is shown has its place in the context; the facts take what is left.
        left = self._model.context - ANSWER_TOKENS - PROMPT_TOKENS - self._model.count(item.shown)
        fits = self._model.count(facts(item)) <= left
        again = self._drawn
        prompt = messages(item, named=not again, with_facts=fits and not again)
        written = self._model.write(prompt, seed=seed, deadline=deadline)
        self._meter.add(Spent(1, written.input_tokens, written.output_tokens, written.seconds))
        text = shape(written.text, item.width)
        return Summary(
            text=text,
            origin="model",
            confidence=confidence(grounding_of(item, text), written.mean_logprob),
            input_tokens=written.input_tokens,
            output_tokens=written.output_tokens,
            mean_logprob=written.mean_logprob,
            seconds=written.seconds,
            seed=seed,
            cut=written.cut,
        )


class ExtractiveEngine:
    """Takes a summary from the source's own words."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    def answer(self, item: Asked, *, deadline: Deadline) -> Summary:
        """The summary; raises EngineUnavailableError where there are no words to take."""
        started = self._clock.monotonic()
        text, room = self._text(item, item.most), item.most
        # A line break stands for a space and costs nothing, but for one inside of a word.
        while len(text) > item.most:
            room -= len(text) - item.most
            text = self._text(item, room)
        if not text:
            raise EngineUnavailableError("the source holds no words to take")
        return Summary(
            text=text,
            origin="extractive",
            seconds=self._clock.monotonic() - started,
        )

    def _text(self, item: Asked, most: int) -> str:
        text = extractive.describe(item.doc, item.defined, item.opening, most, item.further)
        return wrapped(plain(text), item.width)


class OnlyPart:
    """Takes over the summary of the only part, and who wrote it."""

    def answer(self, item: Asked, *, deadline: Deadline) -> Summary:
        """The part's summary; it cost nothing again."""
        if item.only is None:
            raise EngineUnavailableError("there is not exactly one part with a summary")
        return msgspec.structs.replace(
            item.only, input_tokens=0, output_tokens=0, seconds=0.0, spent=Spent()
        )


def build(
    model: SummaryModel | None, *, seconds: float | None = None, meter: Meter | None = None
) -> Route[Asked, Summary]:
    """The route for sources with several parts or none; without a model it is extractive alone.

    seconds  what the model may take for one attempt, waiting included
    meter    is told what each attempt took
    """
    meter = Meter() if meter is None else meter
    steps: tuple[RouteStep, ...] = ()
    if model is not None:
        ran = (Evidence(EvidenceKind.ATTESTED, "model", {"digest": model.digest}),)
        steps = tuple(
            RouteStep(
                name,
                ModelEngine(model, drawn=drawn, meter=meter),
                MODEL_GUARDS,
                time_limit=seconds,
                evidence=ran,
            )
            for name, drawn in ((MODEL, False), (SECOND_SEED, True))
        )
    return Route(
        "summarize",
        (*steps, RouteStep(EXTRACTIVE, ExtractiveEngine(), EXTRACTIVE_GUARDS)),
        otherwise="record",
    )


def build_only_part() -> Route[Asked, Summary]:
    """The route for what has exactly one part."""
    return Route(
        "summarize", (RouteStep(ONLY_PART, OnlyPart(), ONLY_PART_GUARDS),), otherwise="record"
    )


class Summarizer:
    """Work for an executor: plain items in, one outcome each. Safe to share between threads."""

    def __init__(
        self, model: SummaryModel | Models | None, *, seconds: float | None = None
    ) -> None:
        self._meter = Meter()
        self._models = as_models(model)
        self._extractive = build(None)
        self._routes = {
            each.digest: build(each, seconds=seconds, meter=self._meter) for each in self._models
        }
        self._only_part = build_only_part()

    def __call__(self, items: Any) -> list[Outcome[Any]]:
        """The outcome of each; their values are summaries as plain mappings."""
        return [self._one(msgspec.convert(item, Asked)) for item in items]

    def _one(self, item: Asked) -> Outcome[Any]:
        model = self._models.of(item.language)
        route = self._extractive if model is None else self._routes[model.digest]
        if item.only is not None:
            route = self._only_part
        self._meter.spent = Spent()
        outcome = route.run(item, deadline=NO_DEADLINE)
        if outcome.value is None:
            return outcome
        value = msgspec.structs.replace(outcome.value, spent=self._meter.spent)
        return msgspec.structs.replace(outcome, value=msgspec.to_builtins(value))


def shape(text: str, width: int = 0) -> str:
    """What a model wrote as one sentence on one line, or on lines of `width` characters."""
    # Parts are listed in the prompt, and a model may go on with the list.
    flat = re.sub(r"^[-*] ", "", plain(text))
    # The stop text that ended generation is the sentence's own full stop.
    if flat and re.search(r"[\w)`'\"]$", flat):
        flat += "."
    return wrapped(flat, width)
