"""A real model, where `make model-torch` has fetched it."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.engines.chat import ChatAnswer, ChatRequest, Message, Sampling, StopReason
from interlock.engines.huggingface import LocalOptions, LocalProvider
from interlock.engines.model_packages import weights_directory
from interlock.kernel.clock import NO_DEADLINE

pytestmark = pytest.mark.torch

PLACE = weights_directory()
fetched = pytest.mark.skipif(
    not (PLACE / "smollm2" / "config.json").exists(), reason="`make model-torch` fetches the model"
)


@fetched
def test_it_answers_the_same_alone_and_in_a_batch() -> None:
    provider = LocalProvider(LocalOptions(model_path="smollm2", device="cpu"), Path())
    questions = ("Name the capital of France.", "What is 2+2?", "Name the capital of France.")
    for temperature in (0.0, 0.8):
        requests = [
            ChatRequest(
                "smollm2",
                (Message("user", question),),
                Sampling(max_tokens=16, temperature=temperature, seed=7, logprobs=5),
            )
            for question in questions
        ]
        together = provider.answer_batch(requests, deadline=NO_DEADLINE)
        alone = [provider.answer_batch([each], deadline=NO_DEADLINE)[0] for each in requests]
        for one, other in zip(together, alone, strict=True):
            assert isinstance(one, ChatAnswer)
            assert isinstance(other, ChatAnswer)
            assert one.text == other.text
    first = provider.answer_batch(
        [ChatRequest("smollm2", (Message("user", questions[0]),))], deadline=NO_DEADLINE
    )[0]
    assert isinstance(first, ChatAnswer)
    assert "Paris" in first.text
    # The end of the turn, which the file's own configuration is known to get wrong.
    assert first.stop is StopReason.END
    # The chat template's tokens, and no second beginning.
    assert first.usage.input == 36
