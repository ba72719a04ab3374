"""Text models on ONNX Runtime behind the chat provider's interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.text_models import save_directory

from interlock.engines.chat import ChatAnswer, ChatRequest, Message, Sampling, StopReason
from interlock.engines.chat_registry import make_chat_provider
from interlock.engines.generate.convert.publish import convert
from interlock.engines.onnx_chat import OnnxChatProvider
from interlock.errors import ConfigError, DeadlineError, EngineUnavailableError, InputError
from interlock.kernel.clock import NO_DEADLINE, Deadline


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a bundle named `tiny` in it."""
    base = tmp_path_factory.mktemp("models")
    convert(save_directory(base / "source"), base / "tiny", name="tiny")
    return base


@pytest.fixture
def provider(directory: Path) -> Iterator[OnnxChatProvider]:
    """The provider as a configuration names it."""
    made = make_chat_provider("onnx", {"model": "./tiny", "slots": 3}, base=directory)
    assert isinstance(made, OnnxChatProvider)
    yield made
    made.close()


def asked(text: str, **sampling: Any) -> ChatRequest:
    """A question."""
    settings = Sampling(max_tokens=10, **sampling)
    return ChatRequest("tiny", (Message("user", text),), settings, key=text)


def test_answers_are_those_of_each_request_alone(provider: OnnxChatProvider) -> None:
    requests = [asked(f"number {n}", logprobs=1) for n in range(5)]
    together = provider.answer_batch(requests, deadline=NO_DEADLINE)
    alone = [provider.answer_batch([each], deadline=NO_DEADLINE)[0] for each in requests]
    assert together == alone
    for answer in together:
        assert isinstance(answer, ChatAnswer)
        assert answer.model_version.startswith("sha256:")
        assert answer.logprobs
        assert answer.applied["temperature"] == 0.0
        assert answer.stop in (StopReason.MAX_TOKENS, StopReason.END)


def test_it_says_what_it_can_do(provider: OnnxChatProvider) -> None:
    found = provider.capabilities("tiny")
    assert {"temperature", "seed", "min_p", "logprobs"} <= found.sampling
    assert (found.batches, found.paid, found.logprobs) == (True, False, 100)


def test_a_draw_tells_its_seed(provider: OnnxChatProvider) -> None:
    [first] = provider.answer_batch([asked("x", temperature=1)], deadline=NO_DEADLINE)
    assert isinstance(first, ChatAnswer)
    again = asked("x", temperature=1, seed=first.applied["seed"])
    [second] = provider.answer_batch([again], deadline=NO_DEADLINE)
    assert isinstance(second, ChatAnswer)
    assert second.text == first.text


def test_a_prompt_that_is_too_long_costs_no_other(provider: OnnxChatProvider) -> None:
    first, second = provider.answer_batch([asked("x" * 2000), asked("y")], deadline=NO_DEADLINE)
    assert isinstance(first, InputError)
    assert isinstance(second, ChatAnswer)


def test_the_deadline_is_kept(provider: OnnxChatProvider) -> None:
    found = provider.answer_batch([asked("x"), asked("y")], deadline=Deadline.after(0))
    assert all(isinstance(each, DeadlineError) for each in found)


def test_a_model_without_a_template_is_declined(directory: Path, tmp_path: Path) -> None:
    source = save_directory(tmp_path / "source")
    (source / "tokenizer_config.json").unlink()
    convert(source, tmp_path / "plain")
    made = make_chat_provider("onnx", {"model": "./plain"}, base=tmp_path)
    assert isinstance(made, OnnxChatProvider)
    with pytest.raises(EngineUnavailableError, match="chat template"):
        made.capabilities("")
    made.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [({}, "model"), ({"model": "x", "slots": 0}, "slots"), ({"model": "x", "slot": 1}, "slot")],
)
def test_a_wrong_option_is_named(options: dict[str, object], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        make_chat_provider("onnx", options, base=tmp_path)
