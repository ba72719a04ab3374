"""Continuous batching: whatever runs beside it, a request gets the answer that it gets alone."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count
from support.text_models import CONFIGS, tiny_model

from interlock.engines.chat import Message, Sampling, StopReason
from interlock.engines.generate import (
    GenerateRequest,
    GenerateResult,
    Generator,
    cache_needed,
    decoder,
)
from interlock.engines.generate.spec import Weights
from interlock.errors import (
    CancelledRequestError,
    ConfigError,
    DeadlineError,
    EngineUnavailableError,
    InputError,
    InterlockError,
    MemoryLimitError,
)
from interlock.kernel.clock import Deadline, ManualClock

TEXT = "In the beginning there was a tree, and in the tree sat the bird that sang. " * 8
TOKENS = tiny_model().tokenizer.encode(TEXT)


def request(length: int = 20, *, start: int = 0, **sampling: Any) -> GenerateRequest:
    """A request with a prompt cut out of a text."""
    prompt = tuple(TOKENS[start : start + length])
    fields = {"max_tokens": 12, "logprobs": 2, **sampling}
    return GenerateRequest(prompt_tokens=prompt, sampling=Sampling(**fields))


def answered(found: GenerateResult | InterlockError) -> GenerateResult:
    """The result; fails with the error where there is none."""
    assert isinstance(found, GenerateResult), found
    return found


def essence(found: GenerateResult | InterlockError) -> tuple[object, ...]:
    """What must not depend on anything but the request."""
    result = answered(found)
    return result.text, result.tokens, result.stop, result.logprobs, result.mean_logprob


REQUESTS = st.builds(
    request,
    st.integers(1, 300),
    start=st.integers(0, 100),
    max_tokens=st.integers(1, 20),
    temperature=st.sampled_from([None, 0.8]),
    seed=st.integers(0, 5),
)


@settings(max_examples=count(15, 200), deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 3))
@pytest.mark.parametrize("kind", ["int8", "fp32"])
@pytest.mark.parametrize("family", CONFIGS)
def test_answers_do_not_depend_on_what_runs_beside_them(
    family: str, kind: Weights, requests: list[GenerateRequest], slots: int, workers: int
) -> None:
    model = tiny_model(kind, family=family)
    with Generator(model, slots=1) as generator:
        alone = [essence(generator.generate([each])[0]) for each in requests]
    with Generator(model, slots=slots, workers=workers) as generator:
        together = [essence(each) for each in generator.generate(requests)]
    assert together == alone


def test_a_shared_prefix_is_computed_once_and_changes_nothing() -> None:
    model = tiny_model()
    prefixed = [
        GenerateRequest(
            prompt_tokens=(*TOKENS[:40], *TOKENS[60 : 60 + n]),
            sampling=Sampling(max_tokens=8, logprobs=1),
            prefix=40,
        )
        for n in (5, 17, 300)
    ]
    with Generator(model, slots=1) as generator:
        first, *rest = [answered(found) for found in generator.generate(prefixed)]
        assert first.usage.cached == 0
        assert [found.usage.cached for found in rest] == [40, 40]
        again = answered(generator.generate([prefixed[0]])[0])
    assert (again.usage.cached, essence(again)) == (40, essence(first))
    for each, found in zip(prefixed, [first, *rest], strict=True):
        with Generator(model, slots=1) as generator:
            assert essence(generator.generate([each])[0]) == essence(found)


def test_pieces_come_as_they_are_written_and_make_up_the_text() -> None:
    seen: list[str] = []
    with Generator(tiny_model()) as generator:
        handle = generator.submit(request(max_tokens=30), on_text=seen.append)
        pieces = list(handle)
        assert handle.done
        assert "".join(pieces) == handle.result().text == "".join(seen)
    assert len(pieces) > 1


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it() -> None:
    with Generator(tiny_model()) as generator:
        whole = answered(generator.generate([request(max_tokens=30)])[0]).text
        at = next(i for i in range(4, len(whole)) if whole[i : i + 2].isprintable())
        stop = whole[at : at + 2]
        cut = answered(generator.generate([request(max_tokens=30, stop=(stop,))])[0])
    assert cut.stop is StopReason.STOP_TEXT
    assert cut.text == whole[: whole.index(stop)]


def test_logprobs_are_those_asked_for() -> None:
    with Generator(tiny_model()) as generator:
        found = answered(generator.generate([request(logprobs=3, logprob_tokens=4)])[0])
        none = answered(generator.generate([request(logprobs=None)])[0])
    assert none.logprobs is None
    assert found.logprobs is not None
    assert len(found.logprobs) == 4
    for each in found.logprobs:
        assert len(each.top) == 3
        assert each.top[0] == (each.token, each.logprob)
        assert each.top[0][1] >= each.top[1][1] >= each.top[2][1]
    assert found.mean_logprob is not None
    assert found.mean_logprob < 0


def test_usage_counts_prompt_and_answer() -> None:
    with Generator(tiny_model()) as generator:
        found = answered(generator.generate([request(33, max_tokens=5)])[0])
    assert (found.usage.input, found.usage.output, len(found.tokens)) == (33, 5, 5)
    assert found.stop is StopReason.MAX_TOKENS


def test_messages_go_through_the_models_template() -> None:
    model = tiny_model()
    messages = (Message("user", "the end"),)
    by_hand = GenerateRequest(prompt_tokens=tuple(model.chat_prompt(messages)))
    with Generator(model) as generator:
        one, other = generator.generate([GenerateRequest(messages=messages), by_hand])
    assert essence(one) == essence(other)


def test_a_seed_that_was_not_given_is_told_and_repeats_the_answer() -> None:
    with Generator(tiny_model()) as generator:
        drawn = answered(generator.generate([request(temperature=1.0)])[0])
        again = answered(generator.generate([request(temperature=1.0, seed=drawn.seed)])[0])
    assert drawn.seed is not None
    assert drawn.seed < 1 << 53  # as far as every reader of JSON knows whole numbers
    assert again.tokens == drawn.tokens


def test_the_context_ends_an_answer() -> None:
    model = tiny_model()
    long = GenerateRequest(
        prompt_tokens=tuple((TOKENS * 3)[: model.context - 4]), sampling=Sampling(max_tokens=50)
    )
    with Generator(model) as generator:
        found = answered(generator.generate([long])[0])
    assert (found.stop, len(found.tokens)) == (StopReason.MAX_TOKENS, 4)


def test_a_prompt_longer_than_the_context_costs_no_other() -> None:
    model = tiny_model()
    long = GenerateRequest(prompt_tokens=tuple((TOKENS * 3)[: model.context]))
    with Generator(model) as generator:
        first, second = generator.generate([long, request()])
    assert isinstance(first, InputError)
    assert f"{model.context}" in first.message
    assert answered(second).tokens


@pytest.mark.parametrize(
    ("prompt", "prefix", "named"),
    [((1, 2, 10_000), 0, "10000"), ((1, 2, -1), 0, "-1"), ((1, 2), 2, "prefix is 2")],
)
def test_what_cannot_be_meant_is_refused_before_work_starts(
    prompt: tuple[int, ...], prefix: int, named: str
) -> None:
    with Generator(tiny_model()) as generator, pytest.raises(InputError, match=named):
        generator.submit(GenerateRequest(prompt_tokens=prompt, prefix=prefix))


def test_a_request_takes_a_prompt_or_messages() -> None:
    with pytest.raises(InputError, match="one of"):
        GenerateRequest()
    with pytest.raises(InputError, match="empty"):
        GenerateRequest(prompt_tokens=())
    with pytest.raises(InputError, match="key"):
        GenerateRequest(text="the", key="\ud800")


def test_a_cancelled_request_ends_and_the_others_go_on() -> None:
    started = threading.Event()
    proceed = threading.Event()

    def hold(piece: str) -> None:
        # A fast machine would write the text to its end before this one is cancelled.
        started.set()
        proceed.wait()

    with Generator(tiny_model(), slots=2) as generator:
        handle = generator.submit(request(max_tokens=400), on_text=hold)
        other = generator.submit(request(max_tokens=40))
        started.wait()
        handle.cancel()
        proceed.set()
        with pytest.raises(CancelledRequestError):
            handle.result()
        alone = answered(generator.generate([request(max_tokens=40)])[0])
        assert essence(other.result()) == essence(alone)


def test_a_reader_that_fails_costs_its_own_request_only() -> None:
    def fail(piece: str) -> None:
        raise ValueError(piece)

    with Generator(tiny_model(), slots=2) as generator:
        handle = generator.submit(request(), on_text=fail)
        with pytest.raises(CancelledRequestError, match="ValueError"):
            handle.result()
        assert answered(generator.generate([request()])[0]).tokens
        assert not generator.breaker.open


def test_a_deadline_ends_a_request_wherever_it_is() -> None:
    clock = ManualClock()
    started = threading.Event()
    proceed = threading.Event()

    def hold(piece: str) -> None:
        started.set()
        proceed.wait()

    with Generator(tiny_model(), slots=1) as generator:
        due = Deadline.after(10, clock)
        fields: dict[str, Any] = {"prompt_tokens": tuple(TOKENS[:20]), "deadline": due}
        long = GenerateRequest(sampling=Sampling(max_tokens=400), **fields)
        running = generator.submit(long, on_text=hold)
        waiting = generator.submit(GenerateRequest(**fields))
        started.wait()
        clock.advance(11)
        proceed.set()
        for handle in (running, waiting):
            with pytest.raises(DeadlineError):
                handle.result()
        assert not generator.breaker.open


@pytest.mark.parametrize("limit", [None, 64 << 20])
def test_rows_that_nobody_asked_for_cost_no_request_its_memory(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may have less memory than the limit: the system counts all that is mapped."""
    model = tiny_model()
    room = 3 * 128 * model.spec.token_bytes
    real = decoder._empty

    def scarce(shape: tuple[int, ...]) -> Any:
        whole = len(shape) == 3
        if math.prod(shape) * 4 * (1 if whole else 2 * model.spec.layers) > room:
            raise MemoryError
        return real(shape)

    with Generator(model, slots=8) as generator:
        expected = [essence(found) for found in generator.generate([request()] * 6)]
    monkeypatch.setattr(decoder, "_empty", scarce)
    with Generator(model, slots=8, memory_limit=limit) as generator:
        assert [essence(found) for found in generator.generate([request()] * 6)] == expected
        # Alone it fits, and shares with nobody.
        assert essence(generator.submit(request(max_tokens=300)).outcome())[1]


def test_a_request_that_does_not_fit_the_memory_alone_is_refused() -> None:
    model = tiny_model()
    limit = 512 * model.spec.token_bytes
    with Generator(model, slots=2, memory_limit=limit) as generator:
        with pytest.raises(MemoryLimitError, match="memory limit"):
            generator.submit(request(300, max_tokens=200))
        assert answered(generator.generate([request()])[0]).tokens


@pytest.mark.parametrize(("slots", "workers"), [(1, 1), (5, 2), (7, 3), (2, 9)])
def test_the_least_limit_takes_the_longest_request(slots: int, workers: int) -> None:
    model = tiny_model()
    least = cache_needed(model, slots=slots, workers=workers)
    longest = request(model.context - 2, max_tokens=2)
    with Generator(model, slots=slots, workers=workers, memory_limit=least) as generator:
        assert answered(generator.generate([longest])[0]).tokens
    with (
        Generator(model, slots=slots, workers=workers, memory_limit=least - 4) as generator,
        pytest.raises(MemoryLimitError),
    ):
        generator.submit(longest)


def test_what_does_not_fit_beside_the_others_waits() -> None:
    model = tiny_model()
    requests = [request(100 + n, max_tokens=10) for n in range(6)]
    with Generator(model, slots=6) as generator:
        free = [essence(each) for each in generator.generate(requests)]
    # Room for two rows of 128 tokens beside the prefixes' share.
    limit = 2 * 128 * model.spec.token_bytes * 4 // 3 + 4
    most = 0

    with Generator(model, slots=6, memory_limit=limit) as generator:

        def watch(piece: str) -> None:
            nonlocal most
            most = max(most, generator.cache_bytes)

        handles = [generator.submit(each, on_text=watch) for each in requests]
        bounded = [essence(handle.outcome()) for handle in handles]
    assert bounded == free
    assert 0 < most <= limit


def test_closing_cancels_what_runs_and_what_waits() -> None:
    started = threading.Event()

    def slowly(piece: str) -> None:
        # Else it may have ended before this thread closes what it runs in.
        started.set()
        time.sleep(0.05)

    generator = Generator(tiny_model(), slots=1)
    handles = [
        generator.submit(request(max_tokens=490), on_text=slowly),
        generator.submit(request()),
    ]
    started.wait()
    generator.close()
    for handle in handles:
        with pytest.raises(CancelledRequestError):
            handle.result()
    with pytest.raises(EngineUnavailableError, match="closed"):
        generator.submit(request())


@pytest.mark.parametrize(
    "wrong", [{"slots": 0}, {"workers": 0}, {"memory_limit": 0}, {"step_seconds": 0.0}]
)
def test_a_setting_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Generator(tiny_model(), **wrong)
