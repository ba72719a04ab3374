"""Local models: what they answer depends on the request, and on nothing that shares its batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.counts import count
from support.tiny_causal import save_tiny_model

from interlock.engines.chat import (
    BatchChatProvider,
    ChatAnswer,
    ChatRequest,
    Message,
    Sampling,
    StopReason,
)
from interlock.engines.chat_registry import make_chat_provider
from interlock.errors import (
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InterlockError,
    MemoryLimitError,
    RequestRejectedError,
)
from interlock.kernel.clock import NO_DEADLINE, Deadline

pytestmark = pytest.mark.torch

WAYS = (
    Sampling(max_tokens=24, logprobs=5),
    Sampling(max_tokens=24, temperature=0.9, logprobs=5),
    Sampling(max_tokens=24, temperature=1.3, top_p=0.9, logprobs=5),
    Sampling(max_tokens=24, temperature=1.0, top_k=7, min_p=0.02, logprobs=5),
    Sampling(max_tokens=24, temperature=0.7, top_p=0.95, repetition_penalty=1.3, logprobs=5),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def provider(path: Path | str, **options: Any) -> Any:
    given = {"model_path": str(path), "device": "cpu"} | options
    return make_chat_provider("local", given, base=Path())


def request(text: str, sampling: Sampling, *, seed: int | None = 0) -> ChatRequest:
    return ChatRequest("tiny", (Message("user", text),), replace(sampling, seed=seed))


def answers(made: BatchChatProvider, requests: list[ChatRequest]) -> list[ChatAnswer]:
    found = made.answer_batch(requests, deadline=NO_DEADLINE)
    for each in found:
        assert isinstance(each, ChatAnswer), each
    return found  # type: ignore[return-value]


def questions(many: int) -> list[str]:
    return [f"does CVE {number} exist{' the question' * (number % 7)}" for number in range(many)]


def test_greedy_text_is_that_of_transformers(directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    asked = questions(6)
    found = answers(provider(directory), [request(text, WAYS[0]) for text in asked])
    for text, answer in zip(asked, found, strict=True):
        turns = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        drawn = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
        assert answer.text == tokenizer.decode(drawn, skip_special_tokens=True)
        assert answer.usage.input == ids.shape[1]
        assert answer.usage.output == len(drawn)


@pytest.mark.parametrize("sampling", WAYS)
def test_text_does_not_depend_on_the_batch(directory: Path, sampling: Sampling) -> None:
    number_of = count(24, 200)
    asked = [
        request(text, sampling, seed=number) for number, text in enumerate(questions(number_of))
    ]
    alone = answers(provider(directory, batch_size=1), asked)
    assert len({answer.text for answer in alone}) > number_of // 2
    for size, order in ((8, asked), (5, asked[::-1]), (number_of, asked)):
        together = answers(provider(directory, batch_size=size), order)
        for one, other in zip(alone, together if order is asked else together[::-1], strict=True):
            assert one.text == other.text
            assert one.logprobs is not None
            assert other.logprobs is not None
            for left, right in zip(one.logprobs, other.logprobs, strict=True):
                assert abs(left.logprob - right.logprob) <= 1e-3


def test_a_seed_repeats_a_draw_and_a_missing_one_is_told(directory: Path) -> None:
    made = provider(directory)
    sampling = Sampling(max_tokens=24, temperature=1.0)
    first, second, other, free = answers(
        made,
        [request("why", sampling, seed=seed) for seed in (1, 1, 2, None)],
    )
    assert first.text == second.text != other.text
    again = answers(made, [request("why", sampling, seed=free.applied["seed"])])[0]
    assert again.text == free.text


def test_logprobs_are_those_of_the_raw_logits(directory: Path) -> None:
    """Not those of the distribution that temperature, cuts and penalty leave."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    sampling = Sampling(
        max_tokens=6, temperature=1.5, top_k=5, repetition_penalty=1.5, logprobs=3, logprob_tokens=2
    )
    answer = answers(provider(directory), [request("who", sampling)])[0]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "who"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    expected = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), 0)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 2
    best = expected.topk(3)
    assert [value for _, value in answer.logprobs[0].top] == pytest.approx(best.values.tolist())
    assert [token for token, _ in answer.logprobs[0].top] == tokenizer.batch_decode(
        [[each] for each in best.indices.tolist()]
    )
    assert answer.logprobs[0].logprob <= answer.logprobs[0].top[0][1]


def test_why_an_answer_ends(directory: Path) -> None:
    made = provider(directory)
    whole = answers(made, [request("question of the CVE", Sampling(max_tokens=24))])[0]
    middle = whole.text[4:7]
    cut, stopped, short = answers(
        made,
        [
            request("question of the CVE", Sampling(max_tokens=5)),
            request("question of the CVE", Sampling(max_tokens=24, stop=("zzz", middle))),
            request("a " * 90, Sampling(max_tokens=100)),
        ],
    )
    assert cut.stop is StopReason.MAX_TOKENS
    assert cut.usage.output == 5
    assert stopped.stop is StopReason.STOP_TEXT
    assert middle not in stopped.text
    assert whole.text.startswith(stopped.text)
    # The context of 128 tokens holds the prompt and the answer.
    assert short.usage.input is not None
    assert short.usage.output is not None
    assert short.usage.input + short.usage.output <= 128


def test_one_request_s_error_costs_no_other(directory: Path) -> None:
    found = provider(directory).answer_batch(
        [
            request("yes", Sampling(max_tokens=4)),
            request("no " * 200, Sampling(max_tokens=4)),
            request("maybe", Sampling(max_tokens=4)),
        ],
        deadline=NO_DEADLINE,
    )
    assert isinstance(found[0], ChatAnswer)
    assert isinstance(found[1], RequestRejectedError)
    assert "128" in found[1].message
    assert isinstance(found[2], ChatAnswer)


def test_the_deadline_ends_what_is_not_done(directory: Path) -> None:
    found = provider(directory).answer_batch(
        [request("why", Sampling(max_tokens=4))], deadline=Deadline.after(0.0)
    )
    assert [type(each) for each in found] == [DeadlineError]


def test_the_end_of_a_turn_ends_the_answer_whatever_the_configuration_says(tmp_path: Path) -> None:
    """Files converted from GGUF at times name <|endoftext|>, which a chat never writes."""
    from transformers import AutoTokenizer

    wrong = save_tiny_model(tmp_path / "wrong", eos="<|endoftext|>")
    asked = [request(text, Sampling(max_tokens=100)) for text in questions(12)]
    found = answers(provider(wrong), asked)
    tokenizer = AutoTokenizer.from_pretrained(wrong)
    ended = [answer for answer in found if answer.stop is StopReason.END]
    assert ended
    assert all("<|im_end|>" not in answer.text for answer in found)
    assert tokenizer.eos_token == "<|endoftext|>"


def test_no_beginning_is_added_to_what_the_template_wrote(tmp_path: Path) -> None:
    plain = save_tiny_model(tmp_path / "plain")
    adding = save_tiny_model(tmp_path / "adding", bos_added=True)
    one, other = (
        answers(provider(path), [request("who", Sampling(max_tokens=8))])[0]
        for path in (plain, adding)
    )
    assert one.usage.input == other.usage.input
    assert one.text == other.text


def test_a_model_without_a_template_is_declined_unless_told_otherwise(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "bare", template=None)
    with pytest.raises(EngineUnavailableError, match="no chat template") as declined:
        provider(path).capabilities("tiny")
    assert "plain" in declined.value.hint
    assert answers(provider(path, template="plain"), [request("who", Sampling(max_tokens=4))])


def test_a_template_that_refuses_costs_one_request(tmp_path: Path) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}hi"
    path = save_tiny_model(tmp_path / "strict", template=template)
    system = ChatRequest("tiny", (Message("system", "secret"), Message("user", "hi")))
    found = provider(path).answer_batch(
        [system, request("hi", Sampling(max_tokens=2))], deadline=NO_DEADLINE
    )
    assert isinstance(found[0], RequestRejectedError)
    assert "secret" not in repr(found[0])
    assert not isinstance(found[1], RequestRejectedError)


def test_logits_that_are_no_numbers_are_an_error(directory: Path) -> None:
    import torch

    made = provider(directory)
    made.capabilities("tiny")
    with torch.no_grad():
        made._loaded.model.lm_head.weight.fill_(float("nan"))
    found = made.answer_batch([request("why", Sampling(max_tokens=4))], deadline=NO_DEADLINE)
    assert type(found[0]) is EngineError
    assert "finite" in found[0].message


def test_a_batch_that_does_not_fit_is_halved(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    made = provider(directory)
    made.capabilities("tiny")
    run = made._decoder.run
    sizes: list[int] = []

    def small(rows: list[Any], deadline: Deadline) -> None:
        sizes.append(len(rows))
        if len(rows) > 1:
            run(rows[:1], deadline)
        if len(rows) > 2 or any(len(row.prompt) > 60 for row in rows):
            raise torch.OutOfMemoryError
        run(rows, deadline)

    asked = [request(text, Sampling(max_tokens=8)) for text in [*questions(5), "no " * 60]]
    usual = answers(made, asked[:5])
    monkeypatch.setattr(made._decoder, "run", small)
    found: list[ChatAnswer | InterlockError] = made.answer_batch(asked, deadline=NO_DEADLINE)
    assert max(sizes) == 6
    assert [each.text for each in found[:5] if isinstance(each, ChatAnswer)] == [
        each.text for each in usual
    ]
    assert isinstance(found[5], MemoryLimitError)


def test_what_is_wrong_with_a_model_is_said_before_it_runs(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty = tmp_path / "empty"
    empty.mkdir()
    pickled = save_tiny_model(tmp_path / "pickled", safe=False)
    bare = save_tiny_model(tmp_path / "no tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    cut = save_tiny_model(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for path, message in (
        (tmp_path / "nowhere", "Model not found"),
        ("org/no-such-model", "Model not found: org/no-such-model"),
        (empty, "no config.json"),
        (pickled, "safetensors"),
        (bare, "no tokenizer"),
        (cut, "cannot be loaded"),
    ):
        with pytest.raises(EngineUnavailableError, match=message) as found:
            provider(path).capabilities("tiny")
        assert found.value.hint
    made = provider(pickled, allow_pickle=True)
    assert answers(made, [request("who", Sampling(max_tokens=2))])


def test_a_gpu_that_is_not_there_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineUnavailableError, match="device is cuda, but torch sees no CUDA"):
        provider(directory, device="cuda").capabilities("tiny")


def test_models_spread_over_gpus() -> None:
    from interlock.engines.huggingface_load import freest

    assert freest([10, 30, 20]) == 1
    assert freest([10, 10]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"device": "cuda:x"}, "cuda:N"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"modelpath": "x"}, "unknown option 'modelpath'"),
        ({"dtype": "int8"}, "option 'dtype'"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_chat_provider("local", {"model_path": "x"} | options, base=Path())


def test_the_version_tells_models_of_one_name_apart(directory: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / directory.name, context=64)
    versions = {
        answers(provider(path), [request("who", Sampling(max_tokens=2))])[0].model_version
        for path in (directory, other)
    }
    assert len(versions) == 2
    assert all(version.startswith(f"{directory.name}@fp:") for version in versions)
