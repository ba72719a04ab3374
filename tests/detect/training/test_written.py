"""The texts that were written for the training set."""

import json

import pytest

from interlock.detect.training.written import HELD, parse, written
from interlock.errors import InputError


def line(**fields: object) -> str:
    return json.dumps({"text": "a b c", "label": 0, "kind": "x", "input": "user"} | fields)


def test_every_text_is_there_once_and_a_tenth_is_held_back() -> None:
    found = written()
    assert len({text.text for text in found}) == len(found) > 20_000
    held = [text for text in found if text.source.endswith(HELD)]
    assert 0.07 < len(held) / len(found) < 0.13
    assert {text.label for text in held} == {0, 1}


def test_the_place_of_an_attack_in_a_document_is_known() -> None:
    (found,) = parse(line(text="one two three", label=1, input="document", attack="two"), "m.jsonl")
    assert found.spans == ((4, 7),)
    assert found.source == "written m"


def test_blocks_of_twenty_lines_are_held_back_together() -> None:
    found = parse("\n".join(line(text=str(n)) for n in range(400)), "m.jsonl")
    held = [int(text.text) for text in found if text.source == f"written m{HELD}"]
    assert held == [*range(180, 200), *range(380, 400)]


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "[]",
        '{"text": "a"}',
        line(input="page"),
        line(label=2),
        line(label=1, attack="nowhere"),
    ],
)
def test_a_line_that_does_not_fit_is_named(wrong: str) -> None:
    with pytest.raises(InputError, match=r"m\.jsonl, line 2"):
        parse(f"{line()}\n{wrong}", "m.jsonl")
