"""The tokenizer made of a GGUF file's SentencePiece vocabulary, against SentencePiece itself."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from support.text_models import tiny_directory

from interlock.engines.chat import Message, Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator, load_text_model
from interlock.engines.generate.chat_template import ChatTemplate
from interlock.engines.generate.convert.gguf_vocabulary import vocabulary_of
from interlock.engines.generate.tokenizer import TextStream, Tokenizer

TEXT = Path(__file__).parents[3].joinpath("ARCHITECTURE.md").read_text("utf-8")
CORPUS = [line for line in TEXT.splitlines() if line.strip()]


@functools.cache
def trained() -> Any:
    """A small BPE model with byte fallback, as Llama's and Mistral's are."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=made,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        add_dummy_prefix=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


@functools.cache
def converted() -> Tokenizer:
    """The same vocabulary by the way of a GGUF file's fields."""
    model = trained()
    count = model.get_piece_size()

    def kind(number: int) -> int:
        if model.is_unknown(number):
            return 2
        if model.is_control(number):
            return 3
        return 6 if model.is_byte(number) else 1

    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(n) for n in range(count)],
        "tokenizer.ggml.scores": [model.get_score(n) for n in range(count)],
        "tokenizer.ggml.token_type": [kind(n) for n in range(count)],
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    }
    found = vocabulary_of(fields)
    assert found.start_token == model.bos_id()
    assert found.end_tokens == (model.eos_id(),)
    return Tokenizer(found.tokenizer)


TEXTS = st.one_of(
    st.sampled_from(CORPUS),
    st.lists(st.sampled_from([*TEXT.split(), " ", "  ", "\n", "é", "日本", "😀"]), max_size=8).map(
        " ".join
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00▁"), max_size=20),
)


@given(TEXTS)
def test_tokens_are_those_of_sentencepiece(text: str) -> None:
    assert converted().encode(text) == trained().encode(text)


@given(TEXTS)
def test_a_stream_gives_the_text_back(text: str) -> None:
    stream = TextStream(converted())
    pieces = [stream.add(token) for token in converted().encode(text)]
    assert "".join([*pieces, stream.end()]) == text


@pytest.mark.parametrize("text", ["", " ", "a", "  a  b  "])
def test_spaces_survive(text: str) -> None:
    assert converted().decode(converted().encode(text)) == text


@given(TEXTS, st.lists(st.tuples(st.integers(0, 40), st.integers(1, 2)), min_size=1, max_size=4))
def test_a_control_token_in_a_stream_takes_no_space_with_it(
    text: str, controls: list[tuple[int, int]]
) -> None:
    # What begins a text loses its space, and what follows a control token begins none.
    tokens = converted().encode(text)
    for at, control in controls:
        tokens.insert(at, control)
    stream = TextStream(converted())
    pieces = [stream.add(token) for token in tokens]
    assert "".join([*pieces, stream.end()]) == converted().decode(tokens)


@given(TEXTS)
def test_the_names_of_a_texts_tokens_make_up_the_text(text: str) -> None:
    tokens = converted().encode(text)
    names = [converted().name(token) for token in tokens]
    if "\ufffd" not in "".join([text, *names]):
        # A text begins with a space, which is not written.
        assert "".join(names) == (f" {text}" if text else "")


def test_a_token_with_a_space_before_it_has_another_name_than_one_without() -> None:
    vocabulary = [trained().id_to_piece(number) for number in range(trained().get_piece_size())]
    both = [piece for piece in vocabulary if f"▁{piece}" in vocabulary]
    assert both
    for piece in both:
        alone, spaced = (converted().name(vocabulary.index(p)) for p in (piece, f"▁{piece}"))
        assert spaced == f" {alone}"


@given(TEXTS, st.integers(0, 100))
def test_what_continues_a_text_keeps_the_space_between_them(text: str, at: int) -> None:
    tokens = converted().encode(text)
    before, after = tokens[:at], tokens[at:]
    written = converted().decode(before)
    if not before or "\ufffd" in converted().decode(before[-1:]):
        return
    stream = TextStream(converted(), after=before[-1])
    pieces = [stream.add(token) for token in after]
    assert written + "".join([*pieces, stream.end()]) == text


def test_a_completion_goes_on_with_its_prompt(tmp_path: Path) -> None:
    made = tiny_directory(tmp_path / "tiny", vocab_size=converted().size)
    model = replace(load_text_model(made), tokenizer=converted())
    prompt = model.plain_prompt("Say the")
    spaces = 0
    with Generator(model) as generator:
        for seed in range(20):
            sampling = Sampling(max_tokens=1, temperature=2.0, seed=seed, logprobs=0)
            [found] = generator.generate([GenerateRequest(text="Say the", sampling=sampling)])
            assert isinstance(found, GenerateResult)
            assert "Say the" + found.text == model.tokenizer.decode([*prompt, *found.tokens])
            assert found.logprobs is not None
            assert found.text in ("", found.logprobs[0].token)
            spaces += found.text.startswith(" ")
    assert spaces


def test_the_name_of_a_special_token_in_a_message_gets_no_spaces() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.content }}]</s>{% endfor %}", {})
    sent = [Message("user", "a<s>b"), Message("user", "<s> c</s><s>")]
    tokens = template.tokens(sent, converted())
    assert converted().decode(tokens, specials=True) == "[a<s>b]</s> [<s> c</s><s>]</s>"
    assert tokens.count(converted().specials["</s>"]) == 2
