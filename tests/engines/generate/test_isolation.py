"""One request that makes the model fail, hang or give no numbers costs itself only."""

from __future__ import annotations

import pytest
from support.text_models import spoiled, tiny_model

from interlock.engines.breaker import CircuitBreaker
from interlock.engines.chat import Sampling
from interlock.engines.generate import GenerateRequest, GenerateResult, Generator
from interlock.errors import DeadlineError, EngineError, EngineUnavailableError
from interlock.kernel.clock import ManualClock

SAMPLING = Sampling(max_tokens=10)


def prompts() -> list[GenerateRequest]:
    """Five requests whose prompts have no token in common with the first one's answer."""
    return [
        GenerateRequest(prompt_tokens=(30 + n, 31, 40 + n, 50 + n), sampling=SAMPLING, key=str(n))
        for n in range(5)
    ]


def clean() -> list[GenerateResult]:
    """What the sound model answers."""
    with Generator(tiny_model(), slots=5) as generator:
        found = generator.generate(prompts())
    assert all(isinstance(each, GenerateResult) for each in found)
    return [each for each in found if isinstance(each, GenerateResult)]


def victim_and_token(answers: list[GenerateResult]) -> tuple[int, int]:
    """A request, and a token that it alone writes, past its first and before its last one."""
    for index, answer in enumerate(answers):
        others = {t for other in answers if other is not answer for t in other.tokens}
        others |= {t for each in prompts() for t in each.prompt_tokens or ()}
        for token in answer.tokens[2:-2]:
            if token not in others and token not in answer.tokens[:2]:
                return index, token
    raise AssertionError("the tiny model's answers have no token of their own")


@pytest.mark.parametrize("kind", ["fail", "nan", "hang"])
def test_a_row_that_goes_wrong_while_others_write_is_the_only_one_lost(kind: str) -> None:
    answers = clean()
    victim, token = victim_and_token(answers)
    model = spoiled(kind, token)
    with Generator(model, slots=5, step_seconds=3.0 if kind == "hang" else None) as generator:
        found = generator.generate(prompts())
    for index, (one, other) in enumerate(zip(found, answers, strict=True)):
        if index == victim:
            assert isinstance(one, DeadlineError if kind == "hang" else EngineError), one
        else:
            assert isinstance(one, GenerateResult), one
            assert one.tokens == other.tokens


@pytest.mark.parametrize("kind", ["fail", "nan", "hang"])
def test_a_prompt_that_goes_wrong_is_the_only_one_lost(kind: str) -> None:
    answers = clean()
    written = {t for answer in answers for t in answer.tokens}
    token = next(t for t in range(100, 200) if t not in written)
    model = spoiled(kind, token)
    bad = GenerateRequest(prompt_tokens=(31, token, 32), sampling=SAMPLING)
    with Generator(model, slots=3, step_seconds=3.0 if kind == "hang" else None) as generator:
        first, lost, *rest = generator.generate([prompts()[0], bad, *prompts()[1:]])
    assert isinstance(lost, EngineError)
    for one, other in zip([first, *rest], answers, strict=True):
        assert isinstance(one, GenerateResult), one
        assert one.tokens == other.tokens


def test_an_engine_that_keeps_failing_is_left_alone_and_says_so() -> None:
    clock = ManualClock()
    model = spoiled("fail", 99)
    breaker = CircuitBreaker("tiny", failures=3, seconds=30, clock=clock)
    bad = GenerateRequest(prompt_tokens=(99,), sampling=SAMPLING)
    good = GenerateRequest(prompt_tokens=(31,), sampling=Sampling(max_tokens=1))
    with Generator(model, slots=1, breaker=breaker) as generator:
        for _ in range(3):
            assert isinstance(generator.generate([bad])[0], EngineError)
        [refused] = generator.generate([good])
        assert isinstance(refused, EngineUnavailableError)
        assert "3 failures" in refused.message
        clock.advance(31)
        assert isinstance(generator.generate([good])[0], GenerateResult)
        assert not breaker.open
