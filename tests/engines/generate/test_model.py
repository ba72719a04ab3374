"""A prompt that cannot fit is refused by its length: cutting 15 MB into tokens takes 2 GB."""

from __future__ import annotations

from typing import Any

import pytest
from support.text_models import tiny_model

from interlock.engines.chat import Message, Sampling
from interlock.engines.generate import GenerateRequest
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.errors import InputError

MODEL = tiny_model()
MOST = MODEL.context * MODEL.tokenizer.longest


def asked(**prompt: Any) -> GenerateRequest:
    return GenerateRequest(sampling=Sampling(max_tokens=1), **prompt)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ({"text": "a" * (MOST + 1)}, f"has {MOST + 1} characters"),
        (
            {"messages": (Message("user", "a" * MOST), Message("user", "a"))},
            f"has {MOST + 1} characters",
        ),
        (
            {"messages": (Message("user", ""),) * (MODEL.context + 1)},
            f"has {MODEL.context + 1} messages",
        ),
        ({"prompt_tokens": (5,) * MODEL.context}, f"has {MODEL.context} tokens"),
    ],
)
def test_what_cannot_fit_is_not_cut_into_tokens(
    prompt: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> Any:
        raise AssertionError("it was looked at")

    for name in ("encode", "encode_markup", "check"):
        monkeypatch.setattr(Tokenizer, name, cut)
    with pytest.raises(InputError, match=told):
        MODEL.prompt_of(asked(**prompt))


def test_what_may_fit_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest token, as often as the context has room for it."""
    vocabulary = MODEL.tokenizer._markup.get_vocab()
    longest = max(vocabulary, key=len)
    text = MODEL.tokenizer.decode([vocabulary[longest]], specials=True)
    assert len(text) <= MODEL.tokenizer.longest
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: [5] * (MODEL.context - 2))
    assert len(MODEL.prompt_of(asked(text=text * (MODEL.context - 2)))) < MODEL.context
