"""Summaries on lines of a width: none is longer, and a word that is broken can be joined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.summarize.lines import MARK, unwrapped, wrapped


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 0, "one two three"),
        ("one two three", 8, "one two\nthree"),
        ("one twothree", 8, "one\ntwothree"),
        ("is twothreefour", 8, f"is\ntwothre{MARK}\nefour"),
        ("twothreefourfive.", 6, f"twoth{MARK}\nreefo{MARK}\nurfiv{MARK}\ne."),
        ("a-b one-two-three", 8, f"a-b\none-two{MARK}\n-three"),
        ("", 8, ""),
        # The text's own mark, at the end of a line, is not taken for a break.
        (f"press {MARK} now", 8, f"press {MARK}\n{MARK} now"),
        (f"press{MARK} twothree", 8, f"press{MARK}\n{MARK} twoth{MARK}\nree"),
    ],
)
def test_lines_break_between_words_and_visibly_inside_of_them(
    text: str, width: int, lines: str
) -> None:
    assert wrapped(text, width) == lines
    assert unwrapped(lines) == text


@given(st.text() | st.text(f"ab {MARK}"), st.integers(3, 60))
def test_no_line_is_longer_and_nothing_is_lost(text: str, width: int) -> None:
    flat = " ".join(text.split())
    lines = wrapped(flat, width)
    assert all(len(line) <= width for line in lines.split("\n"))
    assert unwrapped(lines) == flat
