"""Extractive summaries are the source's own words within a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.summarize.extractive import describe, first_sentence, prose


def test_documentation_comes_first_then_names() -> None:
    defined = [("fn", "bind"), ("fn", "accept"), ("struct", "Acceptor"), ("fn", "bind")]
    text = describe("Listens. For ever.", defined, "", 200)
    assert text == "Listens. Defines fn bind, accept; struct Acceptor."


def test_names_beyond_the_first_eight_are_counted() -> None:
    text = describe("", [("def", f"f{n}") for n in range(11)], "", 400)
    assert text.endswith("f7 and 3 more.")


def test_what_a_list_leaves_out_is_counted_too() -> None:
    text = describe("", [("def", f"f{n}") for n in range(11)], "", 400, further=100)
    assert text.endswith("f7 and 103 more.")
    assert describe("", [("file", "a.py")], "", 400, further=2) == "Holds a.py and 2 more."


def test_a_folder_holds_files() -> None:
    assert describe("", [("file", "a.py"), ("file", "b/")], "", 99) == "Holds a.py, b/."


@pytest.mark.parametrize(
    ("opening", "text"),
    [
        ("# Settings of the tool\nport = 1", "Begins with Settings of the tool"),
        ("a = 1\nb = 2\nc = 3", "Begins with a = 1 b = 2"),
        ("}\n}\n", "Holds no words, but } }"),
        (" \n", "Holds only blank lines."),
        ("", ""),
    ],
)
def test_without_both_the_first_words_stand_in(opening: str, text: str) -> None:
    assert describe("", [], opening, 200) == text


@given(
    st.text(max_size=300),
    st.lists(st.tuples(st.sampled_from(["fn", "struct"]), st.text("abc", min_size=1)), max_size=20),
    st.integers(40, 200),
)
def test_no_description_is_longer_than_its_limit(
    doc: str, defined: list[tuple[str, str]], most: int
) -> None:
    assert len(describe(" ".join(doc.split()), defined, doc, most)) <= most


def test_a_sentence_ends_at_its_full_stop() -> None:
    assert first_sentence("Reads version 1.2 files. Writes.") == "Reads version 1.2 files."


def test_prose_is_the_first_paragraph_that_says_something() -> None:
    text = "# Title\n\n[![badge](x)](y)\n\n- a list of things here\n\nCounts words\nof a text.\n"
    assert prose(text) == "Counts words of a text."
    assert prose("# Only a title\n") == ""
