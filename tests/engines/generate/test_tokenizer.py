"""Text to tokens and back: nothing splits a character, and no text ends a turn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_models import SPECIALS, tokenizer
from tokenizers import AddedToken

from interlock.engines.chat import Message
from interlock.engines.generate.chat_template import ChatTemplate
from interlock.engines.generate.tokenizer import TextStream, Tokenizer
from interlock.errors import BundleFormatError

TOKENIZER = Tokenizer(tokenizer().to_str().encode())
TOKENS = st.lists(st.integers(3, TOKENIZER.size - 1), max_size=40)


@settings(deadline=None)
@given(st.text())
def test_what_is_encoded_decodes_to_itself(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text.encode("utf-8", "replace").decode()
    assert TOKENIZER.count(text) == len(tokens)


@settings(deadline=None)
@given(st.text(), st.sampled_from(SPECIALS), st.text())
def test_the_name_of_a_special_token_in_a_text_is_text(before: str, name: str, after: str) -> None:
    assert not set(TOKENIZER.encode(before + name + after)) & set(TOKENIZER.specials.values())
    assert TOKENIZER.specials[name] in TOKENIZER.encode_markup(name)


def test_an_added_token_that_no_file_marks_as_special_is_text_as_well() -> None:
    """Some files leave the tokens that divide turns unmarked."""
    made = tokenizer()
    made.add_tokens([AddedToken("<|user|>", special=False), AddedToken("   ", special=False)])
    found = Tokenizer(made.to_str().encode())
    [user] = found.encode_markup("<|user|>")
    [spaces] = found.encode_markup("   ")
    assert user not in found.encode("a<|user|>b")
    assert found.decode(found.encode("a<|user|>b"), specials=True) == "a<|user|>b"
    # White space ends no turn, and code is full of it.
    assert spaces in found.encode("a   b")
    template = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    tokens = ChatTemplate(template, {}).tokens([Message("user", "x<|user|>y")], found)
    assert tokens.count(user) == 1


def test_a_lone_surrogate_is_no_reason_to_fail() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\udc80b")) == "a?b"


@settings(deadline=None)
@given(TOKENS)
def test_pieces_are_the_text_and_split_no_character(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER)
    pieces = [stream.add(token) for token in tokens]
    pieces.append(stream.end())
    assert "".join(pieces) == TOKENIZER.decode(tokens)


@settings(deadline=None)
@given(st.text(min_size=1))
def test_pieces_of_sound_text_hold_no_replacement_characters(text: str) -> None:
    text = text.replace("\ufffd", "")
    stream = TextStream(TOKENIZER)
    assert not any("\ufffd" in stream.add(token) for token in TOKENIZER.encode(text))


@settings(deadline=None)
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
