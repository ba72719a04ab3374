"""SmolLM2-135M-Instruct itself, where `interlock models add smollm2` has put it."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
from pathlib import Path

import pytest
from support.counts import count

from interlock.engines.chat import Message, Sampling, StopReason
from interlock.engines.generate import (
    GenerateRequest,
    GenerateResult,
    Generator,
    TextModel,
    load_text_model,
)
from interlock.engines.generate.store import stored
from interlock.errors import ConfigError

HERE = Path(__file__).read_text("utf-8")


def present() -> bool:
    """Whether the model is in the store."""
    try:
        stored("smollm2")
    except ConfigError:
        return False
    return True


pytestmark = pytest.mark.skipif(not present(), reason="`interlock models add smollm2` adds it")


@functools.cache
def model() -> TextModel:
    """The model, loaded once."""
    return load_text_model("smollm2")


def requests() -> list[GenerateRequest]:
    """Questions about this file, of different lengths and samplings."""
    return [
        GenerateRequest(
            messages=(Message("user", f"What does this code do?\n\n{HERE[:size]}"),),
            sampling=Sampling(max_tokens=12, temperature=temperature, seed=7, logprobs=1),
        )
        for size, temperature in ((100, None), (1500, None), (700, 0.7))
    ]


def essence(results: list[object]) -> list[tuple[object, ...]]:
    """Texts, tokens and logprobs."""
    for result in results:
        assert isinstance(result, GenerateResult), result
    return [(r.text, r.tokens, r.logprobs) for r in results if isinstance(r, GenerateResult)]


def answered(slots: int, workers: int) -> list[tuple[object, ...]]:
    """The answers to all questions."""
    with Generator(model(), slots=slots, workers=workers) as generator:
        return essence(list(generator.generate(requests())))


def test_it_knows_what_ends_its_turn() -> None:
    assert model().spec.end_tokens == (2,)
    assert model().spec.start_token is None
    prompt = model().chat_prompt((Message("user", "Hi"),))
    assert model().tokenizer.decode(prompt, specials=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_answers_and_ends_its_turn() -> None:
    ask = GenerateRequest(
        messages=(Message("user", "What is the capital of Italy? Answer in one word."),),
        sampling=Sampling(max_tokens=40),
    )
    with Generator(model()) as generator:
        [found] = generator.generate([ask])
    assert isinstance(found, GenerateResult), found
    assert "Rome" in found.text
    assert found.stop is StopReason.END


def test_the_fidelity_is_what_the_gate_asks() -> None:
    found = model().spec.fidelity
    assert found is not None
    assert found.kl <= 0.01
    assert found.top1 >= 0.92


def test_one_thread_several_threads_and_processes_write_the_same() -> None:
    expected = answered(1, 1)
    assert answered(3, 1) == expected
    assert answered(3, 2) == expected
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count(1, 2), mp_context=context) as pool:
        futures = [pool.submit(answered, 3, 1) for _ in range(count(1, 2))]
        assert [future.result() for future in futures] == [expected] * len(futures)
