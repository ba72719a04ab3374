"""What is asked of a model, and what it is told of the source."""

import msgspec
from support.summary_models import NamingModel

from interlock.kernel.clock import NO_DEADLINE
from interlock.summarize.asked import (
    ANSWER_TOKENS,
    PROMPT_VERSION,
    Asked,
    Summary,
    facts,
    messages,
)
from interlock.summarize.budget import PROMPT_TOKENS
from interlock.summarize.guards import Grounded, grounding_of
from interlock.summarize.route import Meter, ModelEngine

CHUNK = Asked(
    "chunk",
    language="Rust",
    shown="fn bind(addr: &str) -> Listener",
    doc="A TCP socket server. It listens for connections.",
    defined=(("struct", "Listener"), ("fn", "bind")),
)


def test_a_chunk_is_asked_for_what_its_first_definition_is_for() -> None:
    system, user = messages(CHUNK)
    assert system.role == "system"
    assert user.content == (
        "fn bind(addr: &str) -> Listener\n\n"
        "Its documentation: A TCP socket server.\n"
        "It defines: struct Listener; fn bind.\n\n"
        "What is `Listener` in this Rust code for? "
        "Answer in one short sentence that begins with its name."
    )


def test_the_second_attempt_asks_in_other_words() -> None:
    model = NamingModel()
    for drawn in (False, True):
        ModelEngine(model, drawn=drawn, meter=Meter()).answer(CHUNK, deadline=NO_DEADLINE)
    first, second = model.asked
    assert first == messages(CHUNK)[1].content
    assert second == (
        "fn bind(addr: &str) -> Listener\n\n"
        "What is this Rust code for? Answer in one short sentence."
    )


def test_all_prompts_begin_alike_so_that_the_beginning_is_read_once() -> None:
    other = Asked("folder", name="net", shown="- tcp.rs: sockets")
    assert messages(CHUNK)[0] == messages(other)[0]
    assert messages(other)[1].content == (
        "- tcp.rs: sockets\n\nWhat is the folder net for? Answer in one short sentence."
    )


def test_a_chunk_that_defines_nothing_is_asked_as_a_whole() -> None:
    text = messages(Asked("chunk", language="text", shown="one two"))[1].content
    assert text == "one two\n\nWhat is this text code for? Answer in one short sentence."


def test_facts_are_short_and_left_out_where_the_context_is_full() -> None:
    long = Asked(
        "chunk",
        language="Python",
        doc="word " * 500,
        defined=tuple(("function", f"a_rather_long_name_of_a_function_{n}") for n in range(40)),
    )
    assert len(facts(long)) < 500
    for context, told in ((4096, True), (ANSWER_TOKENS + PROMPT_TOKENS + 8, False)):
        model = NamingModel(context=context)
        ModelEngine(model, drawn=False, meter=Meter()).answer(
            msgspec.structs.replace(long, shown="a"), deadline=NO_DEADLINE
        )
        assert ("It defines" in model.asked[0]) is told


def test_a_name_that_the_model_was_told_is_no_invention() -> None:
    """Where the view was cut, the facts are all that the model knows of the rest."""
    cut = Asked(
        "chunk",
        language="Rust",
        shown="fn bind()",
        defined=CHUNK.defined,
        doc=CHUNK.doc,
        left_out="saw 1 of 9 lines",
    )
    summary = Summary("`Listener` is a TCP socket server.", origin="model")
    assert not grounding_of(cut, summary.text).unknown
    assert Grounded().check(cut, summary).result.answered
    assert "Listener" in facts(cut)


def test_another_prompt_has_another_version() -> None:
    """Summaries of an earlier prompt are not taken for those of this one."""
    assert PROMPT_VERSION == 3
