"""A pattern with a gap finds what RE2 finds with the pattern as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import count

from interlock.detect.pattern import alternatives, compile_pattern, import_re2
from interlock.errors import ConfigError

GAP = r"\b(?:take|steal)\b[^.\n]{0,30}\b(?:key|gold)s?\b"


def test_a_gap_is_matched_by_pairing() -> None:
    pattern = compile_pattern(GAP, "here")
    assert len(pattern.parts) == 2
    text = b"take it. steal the old keys and take\ngold"
    assert list(pattern.find(text, 0, len(text))) == [(9, 27)]


@given(
    st.lists(st.sampled_from(["take", "steal", "key", "golds", "x" * 12, ".", "\n"]), max_size=9)
)
def test_pairing_finds_a_match_where_the_whole_pattern_has_one(words: list[str]) -> None:
    text = " ".join(words).encode()
    whole = import_re2().compile(GAP)
    found = list(compile_pattern(GAP, "here").find(text, 0, len(text)))
    assert bool(found) == (whole.search(text) is not None)
    for start, end in found:
        assert whole.search(text, start, end) is not None


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        (r"a[^\n]{0,40}b", 2),
        (r"a[^\n]{0,5}b", 1),
        (r"(?:a[^\n]{0,40}b)", 1),
        (r"a[^\n]{0,40}b|c", 1),
        (r"a[^\n]{0,40}(?:b|$)", 1),
        (r"a[^.\n]{0,40}b[^\n]{0,40}?c", 3),
        (r"[^]\n]a\[[^\n]{0,40}b", 2),
    ],
)
def test_only_a_gap_outside_groups_parts_a_pattern(pattern: str, parts: int) -> None:
    assert len(compile_pattern(pattern, "here").parts) == parts


def test_alternatives_outside_groups_are_patterns_of_their_own() -> None:
    assert alternatives(r"a|(?:b|c)|[|]d|\|e") == ["a", "(?:b|c)", "[|]d", r"\|e"]


@pytest.mark.parametrize("pattern", ["(?=x)", "x*", "("])
def test_a_wrong_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="here: pattern"):
        compile_pattern(pattern, "here")


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_matches_lie_inside_what_was_asked(data: bytes, begin: int, length: int) -> None:
    begin = min(begin, len(data))
    end = min(len(data), begin + length)
    pattern = compile_pattern(r"\w\W[^\n]{0,40}\w\W", "here")
    for start, stop in pattern.find(data, begin, end):
        assert begin <= start < stop <= end


@pytest.mark.parametrize("size", [count(20_000, 1_000_000)])
def test_many_half_matches_end(size: int) -> None:
    text = b"take " * (size // 5)
    assert list(compile_pattern(GAP, "here").find(text, 0, len(text))) == []
