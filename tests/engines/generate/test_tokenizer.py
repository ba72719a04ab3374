"""Text to tokens and back: nothing splits a character, and no text ends a turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.text_models import SPECIALS, tokenizer

from interlock.engines.generate.tokenizer import TextStream, Tokenizer
from interlock.errors import BundleFormatError

TOKENIZER = Tokenizer(tokenizer().to_str().encode())
TOKENS = st.lists(st.integers(3, TOKENIZER.size - 1), max_size=40)


@given(st.text())
def test_what_is_encoded_decodes_to_itself(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text.encode("utf-8", "replace").decode()
    assert TOKENIZER.count(text) == len(tokens)


@given(st.text(), st.sampled_from(SPECIALS), st.text())
def test_the_name_of_a_special_token_in_a_text_is_text(before: str, name: str, after: str) -> None:
    assert not set(TOKENIZER.encode(before + name + after)) & set(TOKENIZER.specials.values())
    assert TOKENIZER.specials[name] in TOKENIZER.encode_markup(name)


def test_a_lone_surrogate_is_no_reason_to_fail() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\udc80b")) == "a?b"


@given(TOKENS)
def test_pieces_are_the_text_and_split_no_character(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER)
    pieces = [stream.add(token) for token in tokens]
    pieces.append(stream.end())
    assert "".join(pieces) == TOKENIZER.decode(tokens)


@given(st.text(min_size=1))
def test_pieces_of_sound_text_hold_no_replacement_characters(text: str) -> None:
    text = text.replace("\ufffd", "")
    stream = TextStream(TOKENIZER)
    assert not any("\ufffd" in stream.add(token) for token in TOKENIZER.encode(text))


@given(
    st.text("abä€ \n", max_size=30), st.lists(st.text("abä€ ", min_size=1, max_size=4), max_size=3)
)
def test_a_stop_text_ends_the_text_wherever_tokens_meet(text: str, stops: list[str]) -> None:
    stream = TextStream(TOKENIZER, stops)
    shown = ""
    for token in TOKENIZER.encode(text):
        shown += stream.add(token)
        if stream.stopped:
            break
    shown += stream.end()
    found = [text.index(stop) for stop in stops if stop in text]
    assert stream.stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # The stop that is complete first ends the text; others may start before it.
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
        assert not any(stop in shown for stop in stops)


def test_a_file_that_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(BundleFormatError, match="malformed"):
        Tokenizer(b'{"version": "1.0"}')
