"""The budget of tokens is kept, and whatever it leaves out is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import ConfigError
from interlock.summarize import budget
from interlock.summarize.asked import ANSWER_TOKENS
from interlock.summarize.budget import Budget


def words(text: str) -> int:
    return len(text.split())


@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=20), st.integers(1, 30))
def test_a_trimmed_text_fits_and_is_a_beginning(lines: list[str], tokens: int) -> None:
    room = Budget(tokens, words)
    text = "\n".join(lines)
    kept, note = room.trim(text)
    assert room.fits(kept)
    assert text.startswith(kept)
    assert bool(note) == (kept != text)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(9, 40))
def test_a_split_covers_every_line_once_and_every_part_fits(sizes: list[int], tokens: int) -> None:
    room = Budget(tokens, words)

    def see(first: int, last: int) -> str:
        return "\n".join("w " * size for size in sizes[first - 1 : last])

    parts = room.split(1, len(sizes), see)
    assert [n for first, last in parts for n in range(first, last + 1)] == [
        *range(1, len(sizes) + 1)
    ]
    assert all(room.fits(see(first, last)) for first, last in parts)


def test_whole_lines_are_kept_where_one_fits() -> None:
    kept, note = Budget(3, words).trim("a b\nc d\ne")
    assert kept == "a b"
    assert note == "saw 1 of 3 lines: the budget is 3 tokens"


def test_a_line_of_megabytes_is_cut_without_being_counted_whole() -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text) // 4

    kept, note = Budget(100, count).trim("x" * 5_000_000)
    assert max(counted) <= 100 * 16
    assert 0 < len(kept) <= 404
    assert "of 5,000,000 characters" in note


def test_an_input_needs_room() -> None:
    assert budget.make(2048, None, None).tokens == 2048 - ANSWER_TOKENS - budget.PROMPT_TOKENS
    assert budget.make(2048, 100, None).tokens == 100
    with pytest.raises(ConfigError, match="16 are the least"):
        budget.make(240, None, None)
