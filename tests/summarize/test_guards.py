"""Each guard refuses what it is there for, and lets an honest summary pass."""

import math

import msgspec
import pytest
from support.source_trees import MODULE

from interlock.kernel.outcome import StepResult
from interlock.summarize.asked import Asked, Summary, instruction_words
from interlock.summarize.grounding import Grounding
from interlock.summarize.guards import EXTRACTIVE_GUARDS, MODEL_GUARDS, confidence
from interlock.summarize.lines import MARK, wrapped

ITEM = Asked("chunk", language="Python", shown=MODULE, ground=MODULE, most=200)
HONEST = "Counts the words of a text and keeps totals by word in `Counter`."


def verdict(text: str, item: Asked = ITEM, cut: bool = False) -> tuple[StepResult, str]:
    answer = Summary(text, "model", cut=cut)
    for guard in MODEL_GUARDS:
        found = guard.check(item, answer)
        if found.result is not StepResult.ACCEPTED:
            return found.result, found.reason
    return StepResult.ACCEPTED, ""


def test_an_honest_summary_passes() -> None:
    assert verdict(HONEST) == (StepResult.ACCEPTED, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Counts words.", "empty"),
        ("Counts words " * 20, "the limit is 200"),
        ("Counts words words words of a text.", "repeats a word"),
        ("Counts words. Counts words.", "repeats a sentence"),
        (
            "Counts the words of a text and the words of a text and the words of a text.",
            "repeats itself",
        ),
        ('It does return len(re.findall(r"[a-z]+", text)) of the text.', "echoes the code"),
        ("```python\ncount_words(text)\n```", "echoes the code: a fence"),
        ("Counts the words of a \x1b[31mtext by Counter.", "holds control characters"),
        (instruction_words()[:120], "repeats the instruction"),
        ("Counts the pixels of a PixelBuffer and keeps totals.", "names PixelBuffer"),
        ("A Java class that counts the words of a text.", "names Java"),
        ("This code defines a class with methods.", "says nothing of its source"),
        ("Counts words as a Bentley does in a text.", "names Bentley, not in the source"),
        ("Draws shaded triangles onto a canvas for text.", "1 of 5 names and words"),
    ],
)
def test_what_cannot_stand_is_refused_with_its_reason(text: str, reason: str) -> None:
    result, said = verdict(text)
    assert result is StepResult.REFUSED
    assert reason in said


def test_running_into_the_token_limit_is_refused() -> None:
    assert verdict(HONEST, cut=True) == (StepResult.REFUSED, "ran into the token limit")


def test_a_line_longer_than_its_width_is_refused() -> None:
    item = Asked("chunk", language="Python", shown=MODULE, ground=MODULE, most=200, width=30)
    assert verdict(HONEST, item)[1] == f"a line of {len(HONEST)} characters; the limit is 30"


def test_guards_read_a_broken_word_as_one() -> None:
    """A stretch of code is a copy, and a name is one name, wherever the lines break."""
    copied = wrapped("It sets self.totals[word] = self.totals.get(word, 0) + 1 of a text.", 20)
    assert MARK in copied
    assert verdict(copied, msgspec.structs.replace(ITEM, width=20))[1] == "echoes the code"
    name = wrapped("Counts words of a text by CountingOfWordsFactory.", 20)
    assert verdict(name)[1] == "names CountingOfWordsFactory, not in the source"


PARTS = Asked(
    "folder",
    name="words",
    language="Python",
    shown=(
        "counting.py: `Counter` counts the words of a text and keeps totals by word.\n"
        "handlers.py: `handle_create` answers the requests of a user with what they ask for."
    ),
    most=200,
)


def test_the_summary_of_one_part_is_none_of_them_all() -> None:
    said = "The folder counts the words of a text and keeps totals by word."
    assert verdict(said, PARTS) == (StepResult.REFUSED, "repeats the summary of one part")
    wrapped_too = msgspec.structs.replace(PARTS, width=20)
    assert verdict(wrapped(said, 20), wrapped_too)[1] == "repeats the summary of one part"
    both = "It counts the words of a text and answers the requests of a user."
    assert verdict(both, PARTS) == (StepResult.ACCEPTED, "")
    # One part is all there is, and a chunk has none.
    alone = msgspec.structs.replace(PARTS, shown=PARTS.shown.split("\n")[0])
    assert verdict(said, alone)[0] is StepResult.ACCEPTED
    assert verdict(said, msgspec.structs.replace(PARTS, level="chunk"))[0] is StepResult.ACCEPTED


def test_half_grounded_is_flagged() -> None:
    result, said = verdict("Counts words of a text on shaded triangles.")
    assert result is StepResult.FLAGGED
    assert said == "only 3 of 5 names and words are in the source"


def test_a_summary_of_a_cut_input_is_flagged() -> None:
    item = Asked("chunk", shown=MODULE, ground=MODULE, most=200, left_out="saw 3 of 9 lines")
    assert verdict(HONEST, item) == (StepResult.FLAGGED, "saw 3 of 9 lines")


def test_repeating_a_doc_comment_is_no_echo() -> None:
    item = Asked(
        "chunk", shown="/// Accepts connections until it is closed by its owner.\n", most=200
    )
    assert verdict("Accepts connections until it is closed by its owner.", item)[1] == ""


def test_an_extractive_summary_has_no_word_of_its_own() -> None:
    item = Asked("chunk", doc="Counts words.", defined=(("def", "count_words"),), most=200)

    def refused(text: str) -> list[str]:
        verdicts = [guard.check(item, Summary(text, "extractive")) for guard in EXTRACTIVE_GUARDS]
        return [found.reason for found in verdicts if found.result is StepResult.REFUSED]

    assert refused("Counts words. Defines def count_words.") == []
    assert refused("Counts pixels. Defines def count_words.") == ["a word is not in the source"]
    assert refused("Counts words. Defines def count_wo…") == []
    assert refused("Counts words. Defines def count_pi…") == ["a word is not in the source"]
    assert refused(f"Counts words. Defines def count_{MARK}\nwords.") == []
    assert refused(f"Counts words. Defines def count_{MARK}\npixels.") == [
        "a word is not in the source"
    ]
    assert refused("Counts words. Defines def count_\nwords.") == ["a word is not in the source"]


def test_confidence_is_the_geometric_mean_of_its_three_parts() -> None:
    found = Grounding(names=("a",), unknown=(), content=2, supported=1)
    expected = ((2 / 3) * (3 / 6) * 0.5) ** (1 / 3)
    assert confidence(found, math.log(0.5)) == pytest.approx(expected, abs=1e-4)
    assert confidence(Grounding((), (), 0, 0), -0.1) == 0.0
