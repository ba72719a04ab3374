"""How far a text is a document."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.detect.place import document_weight

MAIL = "Hi Ann,\n\nthanks for the photos.\n\nBest regards\nTom"
HEADERS = "From: a@example.com\nSubject: Lunch\n\nAt noon?"
TABLE = "| a | b |\n| 1 | 2 |\n| 3 | 4 |"
CODE = "import os\n\ndef name():\n    return os.name\n"


@pytest.mark.parametrize("text", [MAIL, HEADERS, TABLE, CODE])
def test_what_looks_like_a_document_is_one(text: str) -> None:
    assert document_weight(text) == 1.0


@pytest.mark.parametrize("text", ["What is the capital of France?", "Hi! Tell me a joke.", ""])
def test_a_prompt_is_none(text: str) -> None:
    assert document_weight(text) == 0.0


def test_a_long_text_without_a_form_is_in_between() -> None:
    assert document_weight("The road is long. " * 100) == 0.5


def test_a_text_of_some_lines_is_most_likely_one() -> None:
    assert document_weight("\nMilk\nBread\nA lemon\n") == 0.75
    assert document_weight("\n\nMilk, bread.\n") == 0.0


def test_what_the_caller_says_decides() -> None:
    assert document_weight(MAIL, "user") == 0.0
    assert document_weight("hello", "document") == 1.0


@settings(deadline=1_000, max_examples=20)
@given(st.sampled_from(["\n", " ", "\t", "|", "<a", ";", "; ", "hi ", "{ \n", " \n"]))
def test_a_hostile_form_is_bounded_work(piece: str) -> None:
    text = "a\n\n" + piece * (20_000 // len(piece)) + "a"
    assert document_weight(text) in (0.0, 0.5, 0.75, 1.0)
