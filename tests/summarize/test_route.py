"""The route of a summary: model, model with another seed, the source's own words."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.source_trees import MODULE
from support.summary_models import NamingModel

from interlock.errors import DeadlineError, EngineCrashError, EngineError
from interlock.kernel.outcome import EvidenceKind, Outcome, Status
from interlock.summarize.asked import Asked, Summary, Written
from interlock.summarize.lines import steers, unwrapped
from interlock.summarize.route import Summarizer, shape

ITEM = Asked(
    "chunk",
    language="Python",
    shown=MODULE,
    ground=MODULE,
    doc="Counts words of a text.",
    defined=(("def", "count_words"),),
    seed=7,
)
GOOD = "Counts the words of a text and keeps totals by word"
BAD = "Draws a PixelBuffer of shaded triangles"


def summarised(model: Any, item: Asked = ITEM) -> tuple[Outcome[Any], Summary | None]:
    [outcome] = Summarizer(model)([msgspec.to_builtins(item)])
    value = outcome.value
    return outcome, None if value is None else msgspec.convert(value, Summary)


def test_a_good_answer_is_the_models_own() -> None:
    outcome, summary = summarised(NamingModel(lambda prompt, seed: GOOD))
    assert outcome.status is Status.ACCEPTED
    assert [step.name for step in outcome.steps] == ["model"]
    assert summary is not None
    assert (summary.text, summary.origin, summary.seed) == (f"{GOOD}.", "model", None)
    assert summary.confidence is not None
    assert 0.5 < summary.confidence < 1
    kinds = {piece.kind for piece in outcome.steps[0].evidence}
    assert kinds == {EvidenceKind.CHECKED, EvidenceKind.ATTESTED}


def test_a_refused_answer_is_drawn_again_with_the_items_seed() -> None:
    model = NamingModel(lambda prompt, seed: BAD if seed is None else GOOD)
    outcome, summary = summarised(model)
    assert [step.name for step in outcome.steps] == ["model", "model-second-seed"]
    assert outcome.reasons == ("model: names PixelBuffer, not in the source",)
    assert summary is not None
    assert (summary.origin, summary.seed) == ("model", 7)
    assert summary.spent.attempts == 2


def test_refused_twice_the_source_speaks_for_itself_and_says_so() -> None:
    outcome, summary = summarised(NamingModel(lambda prompt, seed: BAD))
    assert [step.name for step in outcome.steps] == ["model", "model-second-seed", "extractive"]
    assert summary is not None
    assert summary.origin == "extractive"
    assert summary.text == "Counts words of a text. Defines def count_words."
    assert summary.confidence is None
    assert summary.spent.attempts == 2


def test_where_nothing_can_be_taken_either_it_is_refused() -> None:
    bare = msgspec.structs.replace(ITEM, doc="", defined=(), opening="")
    outcome, summary = summarised(NamingModel(lambda prompt, seed: BAD), bare)
    assert outcome.status is Status.REFUSED
    assert outcome.action == "record"
    assert summary is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineCrashError("the instance was killed"), "engine_crash: the instance was killed"),
        (DeadlineError("it hung"), "deadline: it hung"),
        (ValueError("secret text of the prompt"), "raised ValueError"),
    ],
)
def test_an_engine_that_breaks_costs_its_own_step(error: Exception, reason: str) -> None:
    class Broken(NamingModel):
        def write(self, *arguments: Any, **named: Any) -> Written:
            raise error

    outcome, summary = summarised(Broken())
    assert outcome.reasons[0] == f"model: {reason}"
    assert summary is not None
    assert summary.origin == "extractive"


def test_without_a_model_the_only_step_is_extractive() -> None:
    outcome, summary = summarised(None)
    assert [step.name for step in outcome.steps] == ["extractive"]
    assert summary is not None
    assert summary.origin == "extractive"


@pytest.mark.parametrize("width", [0, 20, 120])
@pytest.mark.parametrize(
    "item",
    [
        Asked("chunk", doc="Text engine."),
        Asked("file", name="a.py", doc="Configuration."),
        Asked("chunk", doc="---", opening="# --- Settings ---\n"),
        Asked("chunk", defined=tuple(("class", f"ALongNameOfAReader{n}Factory") for n in range(9))),
        Asked("chunk", doc="计数" * 200, defined=(("def", "count"),)),
        Asked("chunk", opening=f"{'x' * 300} word\n"),
        Asked("chunk", doc="Counts \x1b[31mred\x1b[0m words.", defined=(("def", "a\u202eb"),)),
        Asked("folder", defined=(("file", "a\x1b[2J.py"),)),
        Asked(
            "chunk", doc="Waits until ↩ pressed↩ again↩ is released↩ by↩ the↩ user↩ and↩ is read."
        ),
    ],
)
def test_the_sources_own_words_are_never_refused(item: Asked, width: int) -> None:
    """However few they are, and where they are cut to fit."""
    outcome, summary = summarised(None, msgspec.structs.replace(item, width=width))
    assert outcome.status is Status.ACCEPTED, outcome.reasons
    assert summary is not None
    assert len(summary.text) <= item.most
    assert not steers(summary.text)
    assert not width or max(map(len, summary.text.split("\n"))) <= width


@given(
    st.text(max_size=300),
    st.lists(st.text("abc_", min_size=1, max_size=90), max_size=12),
    st.text(max_size=400).map(str.rstrip),
    st.sampled_from([0, 20, 33, 120]),
)
def test_any_words_of_a_source_stand(doc: str, names: list[str], opening: str, width: int) -> None:
    doc = " ".join(doc.split())
    defined = tuple(("def", name) for name in names)
    outcome, _ = summarised(
        None, Asked("chunk", doc=doc, defined=defined, opening=opening, width=width)
    )
    assert outcome.status is Status.ACCEPTED or not (names or opening or any(map(str.isalnum, doc)))


def test_the_only_parts_summary_stands_for_the_whole_with_its_author() -> None:
    part = Summary("Counts words.", "extractive", seconds=3.0)
    outcome, summary = summarised(NamingModel(), msgspec.structs.replace(ITEM, only=part))
    assert [step.name for step in outcome.steps] == ["only-part"]
    assert summary is not None
    assert (summary.text, summary.origin, summary.seconds) == ("Counts words.", "extractive", 0.0)


LONG_NAME = "TheCountingOfWordsInTextsOfManyLanguagesFactory"


@pytest.mark.parametrize("width", [20, 33, 40])
@pytest.mark.parametrize("quote", ["", "`"])
def test_a_grounded_name_longer_than_a_line_is_the_models_own(quote: str, width: int) -> None:
    source = f"class {LONG_NAME}:\n    def count_words(self, text): ...\n"
    item = Asked("chunk", language="Python", shown=source, ground=source, width=width)
    said = f"{quote}{LONG_NAME}{quote} is there to count the words of a text"
    outcome, summary = summarised(NamingModel(lambda prompt, seed: said), item)
    assert outcome.status is Status.ACCEPTED, outcome.reasons
    assert summary is not None
    assert summary.origin == "model"
    assert max(map(len, summary.text.split("\n"))) <= width
    assert unwrapped(summary.text) == f"{said}."
    _, alike = summarised(
        NamingModel(lambda prompt, seed: said), msgspec.structs.replace(item, width=0)
    )
    assert alike is not None
    assert summary.confidence == alike.confidence


def test_a_name_longer_than_a_line_that_is_not_grounded_is_refused_whole() -> None:
    item = msgspec.structs.replace(ITEM, width=20)
    said = f"{LONG_NAME} is there to count the words of a text"
    outcome, _ = summarised(NamingModel(lambda prompt, seed: said), item)
    # A word that begins a sentence is no name without more; this one has inner capitals.
    assert outcome.reasons[0] == f"model: names {LONG_NAME}, not in the source"


def test_a_parent_without_any_part_is_not_asked_of_the_model() -> None:
    model = NamingModel()
    outcome, _ = summarised(model, msgspec.structs.replace(ITEM, level="folder", shown=""))
    assert model.asked == []
    assert "there is nothing to read" in outcome.reasons[0]


def test_errors_of_ours_are_all_engine_errors() -> None:
    assert issubclass(EngineCrashError, EngineError)


@pytest.mark.parametrize(
    ("text", "width", "shaped"),
    [
        ("Counts  words\nof text", 0, "Counts words of text."),
        ("Counts words.", 0, "Counts words."),
        ("Counts `words`", 0, "Counts `words`."),
        ("", 0, ""),
        ("Counts \x1b]0;a\x07 words\x9b of \u202etext", 0, "Counts ]0;a words of text."),
        ("- Counts words of -x and a - b", 0, "Counts words of -x and a - b."),
        ("-x counts words", 0, "-x counts words."),
        ("one two three", 8, "one two\nthree."),
    ],
)
def test_an_answer_becomes_a_sentence(text: str, width: int, shaped: str) -> None:
    assert shape(text, width) == shaped
