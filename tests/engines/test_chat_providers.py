"""What goes out to a service, what comes back of it, and what is said of the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.chat import KEY, VENDORS, Vendor
from support.fake_llm import FakeLLM, Plan

from interlock.engines.chat import (
    Capabilities,
    ChatAnswer,
    ChatProvider,
    ChatRequest,
    Message,
    Sampling,
    StopReason,
)
from interlock.errors import (
    AuthenticationError,
    EngineUnavailableError,
    InputError,
    InterlockError,
    RequestRejectedError,
)
from interlock.kernel.clock import Deadline

CLAUDE, GEMINI, OPENAI = VENDORS


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as running:
        yield running


def ask(provider: ChatProvider, *requests: ChatRequest) -> list[Any]:
    """Answers or errors, one request after the other."""

    async def run() -> list[Any]:
        found: list[Any] = []
        for request in requests:
            try:
                found.append(await provider.answer(request, deadline=Deadline.after(60)))
            except InterlockError as error:
                found.append(error)
        await provider.close()
        return found

    return asyncio.run(run())


def capabilities(provider: ChatProvider, model: str) -> Capabilities:
    async def run() -> Capabilities:
        try:
            return await provider.capabilities(model)
        finally:
            await provider.close()

    return asyncio.run(run())


def body(server: FakeLLM) -> Any:
    """The last request's."""
    return json.loads(server.log()[-1]["body"])


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_an_answer_tells_all_that_the_service_told(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan(answer="CVE-2021-44228 exists."))
    found = ask(vendor.provider(server), vendor.request(temperature=0.5, top_k=4, seed=11))[0]
    assert found.text == "CVE-2021-44228 exists."
    assert found.stop is StopReason.END
    assert found.usage.input > 0
    assert found.usage.output == 6
    assert found.request_id
    assert found.applied["temperature"] == 0.5
    assert found.applied["max_tokens"] == 64
    asked = {"temperature", "max_tokens", "top_k", "seed"}
    assert found.applied.keys() | found.not_applied.keys() == asked
    assert not found.applied.keys() & found.not_applied.keys()


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_what_is_not_taken_is_left_out_and_said_or_refused(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    request = vendor.request(min_p=0.1)
    found = ask(vendor.provider(server), request)[0]
    assert "min_p" in found.not_applied
    assert "min_p" not in server.log()[-1]["body"]
    refused = ask(vendor.provider(server, unsupported="refuse"), request)[0]
    assert isinstance(refused, RequestRejectedError)
    assert "min_p" in refused.message
    assert server.counts().requests == 1


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_fields_of_extra_body_are_sent(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    ask(vendor.provider(server, extra_body={"metadata": {"user": "u1"}}), vendor.request())
    assert body(server)["metadata"] == {"user": "u1"}


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_model_is_looked_at_without_a_request_for_an_answer(
    vendor: Vendor, server: FakeLLM
) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    found = capabilities(vendor.provider(server), vendor.model)
    assert {"max_tokens", "temperature", "stop"} <= found.sampling
    assert found.paid
    assert not found.batches
    with pytest.raises(RequestRejectedError, match="404"):
        capabilities(vendor.provider(server), "missing-model")
    assert server.counts().requests == 0


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_conversation_keeps_its_roles(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    turns = (
        Message("system", "be brief"),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
    )
    ask(vendor.provider(server), ChatRequest(vendor.model, turns))
    sent = body(server)
    if vendor is GEMINI:
        assert sent["systemInstruction"]["parts"] == [{"text": "be brief"}]
        assert [c["role"] for c in sent["contents"]] == ["user", "model", "user"]
    elif vendor is CLAUDE:
        assert sent["system"] == "be brief"
        assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "user"]
    else:
        assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("vendor", [CLAUDE, GEMINI], ids=lambda vendor: vendor.name)
def test_a_system_message_has_its_place(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    late = ChatRequest(vendor.model, (Message("user", "one"), Message("system", "late")))
    none = ChatRequest(vendor.model, (Message("system", "alone"),))
    found = ask(vendor.provider(server), late, none)
    assert [type(each) for each in found] == [InputError, InputError]


@pytest.mark.parametrize("vendor", [GEMINI, OPENAI], ids=lambda vendor: vendor.name)
def test_logprobs_come_with_their_alternatives(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    plain, some, most = ask(
        vendor.provider(server),
        vendor.request(),
        vendor.request(logprobs=3, logprob_tokens=2),
        vendor.request(logprobs=99, logprob_tokens=None),
    )
    assert plain.logprobs is None
    assert len(some.logprobs) == 2
    assert "".join(each.token for each in some.logprobs) == some.text[:8]
    for each in some.logprobs:
        values = [value for _, value in each.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert each.logprob == values[0] < 0
    assert len(most.logprobs) > 2
    assert most.applied["logprobs"] == 20
    assert "99 were asked for" in most.not_applied["logprobs"]


def test_later_claude_models_take_no_temperature(server: FakeLLM) -> None:
    """The service would refuse it; so it is not sent, and the record says so."""
    pytest.importorskip(CLAUDE.package)
    server.plan(Plan())
    provider = CLAUDE.provider(server)
    for model in ("claude-opus-4-7", "claude-opus-5-5", "claude-sonnet-5", "claude-fable-5"):
        assert not {"temperature", "top_p", "top_k"} & capabilities(provider, model).sampling
        request = ChatRequest(model, (Message("user", "hi"),), Sampling(temperature=0.0))
        found = ask(provider, request)[0]
        assert isinstance(found, ChatAnswer)
        assert "temperature" in found.not_applied
    for model in ("claude-3-5-sonnet-20241022", "claude-opus-4-6", "claude-haiku-4-5-20251001"):
        assert "temperature" in capabilities(provider, model).sampling
    assert dict(server.counts().kinds) == {"ok": 4}


def test_claude_takes_temperature_or_top_p(server: FakeLLM) -> None:
    pytest.importorskip(CLAUDE.package)
    server.plan(Plan())
    sampling = Sampling(temperature=0.2, top_p=0.9)
    both, only = ask(
        CLAUDE.provider(server),
        ChatRequest("claude-sonnet-4-5-20250929", (Message("user", "hi"),), sampling),
        ChatRequest("claude-sonnet-4-5-20250929", (Message("user", "hi"),), Sampling(top_p=0.9)),
    )
    assert both.applied["temperature"] == 0.2
    assert "not both" in both.not_applied["top_p"]
    assert only.applied["top_p"] == 0.9
    seen = capabilities(CLAUDE.provider(server), "claude-sonnet-4-5-20250929")
    assert seen.not_with == {"top_p": "temperature"}
    assert seen.most_temperature == 1.0
    hot = CLAUDE.request(temperature=1.5)
    assert isinstance(ask(CLAUDE.provider(server), hot)[0], InputError)
    assert dict(server.counts().kinds) == {"ok": 2}


def test_a_refusal_of_a_parameter_is_learned(server: FakeLLM) -> None:
    """A model under a name of its own: the first refusal is told, the rest go without."""
    pytest.importorskip(CLAUDE.package)
    server.plan(Plan())
    provider = CLAUDE.provider(server)
    assert "temperature" in capabilities(provider, "picky-proxy").sampling
    request = ChatRequest("picky-proxy", (Message("user", "hi"),), Sampling(temperature=0.0))
    first, second = ask(provider, request, request)
    assert isinstance(first, RequestRejectedError)
    assert "does not take temperature" in first.message
    assert "temperature" in second.not_applied
    assert "temperature" not in capabilities(provider, "picky-proxy").sampling
    assert dict(server.counts().kinds) == {"rejected": 1, "ok": 1}


def test_a_retired_model_cannot_be_used(server: FakeLLM) -> None:
    pytest.importorskip(CLAUDE.package)
    with pytest.raises(EngineUnavailableError, match="retired"):
        capabilities(CLAUDE.provider(server), "retired-model")


def test_a_gemini_model_that_does_not_write_cannot_be_used(server: FakeLLM) -> None:
    pytest.importorskip(GEMINI.package)
    with pytest.raises(EngineUnavailableError, match="does not generate"):
        capabilities(GEMINI.provider(server), "embed-001")


def test_gemini_sends_one_request_and_counts_thoughts(server: FakeLLM) -> None:
    """No continuation, no function calls; thoughts are billed as output."""
    pytest.importorskip(GEMINI.package)
    server.plan(Plan(answer="four", script=("ok",)))
    request = ChatRequest("gemini-2.5-pro", (Message("user", "2+2?"),), Sampling(seed=1 << 40))
    found = ask(GEMINI.provider(server), request)[0]
    assert found.usage.reasoning == 12
    assert found.usage.output == 13
    assert found.model_version == "gemini-2.5-pro-001"
    assert found.applied["seed"] == body(server)["generationConfig"]["seed"] == 0


def test_gemini_learns_where_logprobs_are_not_given(server: FakeLLM) -> None:
    pytest.importorskip(GEMINI.package)
    server.plan(Plan())
    model = "gemini-2.5-pro"
    request = ChatRequest(model, (Message("user", "hi"),), Sampling(logprobs=5))
    assert capabilities(GEMINI.provider(server), model).logprobs is None
    assert "logprobs" in ask(GEMINI.provider(server), request)[0].not_applied
    forced = GEMINI.provider(server, logprobs=True)
    assert capabilities(forced, model).logprobs == 20
    first, second = ask(forced, request, request)
    assert isinstance(first, RequestRejectedError)
    assert "logprobs" in second.not_applied


@pytest.mark.parametrize("model", ["o4-mini", "gpt-5", "gpt-5.2-pro"])
def test_models_that_reason_are_asked_their_way(server: FakeLLM, model: str) -> None:
    pytest.importorskip(OPENAI.package)
    server.plan(Plan())
    asked = Sampling(max_tokens=50, temperature=0.0, top_p=0.5, logprobs=2, seed=3)
    found = ask(OPENAI.provider(server), ChatRequest(model, (Message("user", "hi"),), asked))[0]
    assert isinstance(found, ChatAnswer)
    assert body(server)["max_completion_tokens"] == 50
    assert found.applied.keys() == {"max_tokens", "seed"}
    assert found.not_applied.keys() == {"temperature", "top_p", "logprobs"}
    assert found.usage.reasoning == 16


def test_a_switched_off_reasoning_takes_sampling_again(server: FakeLLM) -> None:
    pytest.importorskip(OPENAI.package)
    found = capabilities(
        OPENAI.provider(server, extra_body={"reasoning_effort": "none"}), "gpt-5.2"
    )
    assert "temperature" in found.sampling
    assert "temperature" not in capabilities(OPENAI.provider(server), "gpt-5.2").sampling


def test_openai_learns_from_a_refusal(server: FakeLLM) -> None:
    pytest.importorskip(OPENAI.package)
    server.plan(Plan())
    provider = OPENAI.provider(server, max_tokens_field="max_tokens")
    request = ChatRequest("o4-mini", (Message("user", "hi"),), Sampling(max_tokens=5))
    first, second = ask(provider, request, request)
    assert isinstance(first, RequestRejectedError)
    assert "does not take max_tokens" in first.message
    assert second.not_applied == {"max_tokens": "the service refused it (unsupported_parameter)"}


def test_compatible_servers_take_more(server: FakeLLM) -> None:
    """And no key, and another name of the limit."""
    pytest.importorskip(OPENAI.package)
    server.plan(Plan())
    found = ask(
        OPENAI.provider(server, extensions=True, api_key=None),
        OPENAI.request(top_k=5, min_p=0.1, repetition_penalty=1.1, stop=("x",)),
    )[0]
    assert found.not_applied == {}
    sent = body(server)
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (5, 0.1, 1.1)
    assert (sent["stop"], sent["max_tokens"]) == (["x"], 64)
    assert "max_completion_tokens" not in sent


def test_the_request_s_name_and_key_go_into_headers(server: FakeLLM) -> None:
    pytest.importorskip(OPENAI.package)
    server.plan(Plan())
    request = ChatRequest(OPENAI.model, (Message("user", "hi"),), key="run-7/prompt_0001")
    ask(OPENAI.provider(server), request)
    headers = server.log()[-1]["headers"]
    assert headers["x-client-request-id"] == "run-7/prompt_0001"
    assert headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [" m|p1|0", "m|p1|0 ", "modèle|p1|0", "m" * 600, "a\nb"])
def test_a_name_that_no_header_can_carry_is_left_out(server: FakeLLM, key: str) -> None:
    pytest.importorskip(OPENAI.package)
    server.plan(Plan())
    found = ask(OPENAI.provider(server), replace(OPENAI.request(), key=key))[0]
    assert isinstance(found, ChatAnswer), found


def test_a_wrong_key_is_found_by_looking(server: FakeLLM) -> None:
    """The other side says so to the list of models as well."""
    pytest.importorskip(OPENAI.package)
    with pytest.raises(AuthenticationError):
        capabilities(OPENAI.provider(server), "unauthorized")


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "9"}, 9, 9),
        ({"anthropic-ratelimit-tokens-remaining": "0"}, None, None),
        ({"anthropic-ratelimit-tokens-remaining": "5"}, None, None),
        ({"anthropic-ratelimit-requests-remaining": "0"}, None, None),
    ],
)
def test_claude_s_limits_tell_a_wait_where_no_header_asks_for_one(
    headers: dict[str, str], least: float | None, most: float | None
) -> None:
    from interlock.engines.claude import _wait

    found = _wait(headers)
    assert found == least == most if least is None else least <= (found or 0) <= (most or 0)
    reset = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    told = {f"{name.removesuffix('-remaining')}-reset": reset for name in headers}
    if least is None:
        found = _wait({**headers, **told})
        empty = "0" in headers.values()
        assert (found is not None and 3000 < found <= 3600) if empty else found is None
