"""Responses that are not quite what a service documents: the text is kept, counts are not made up.

Each is given byte for byte to the vendors' real SDKs.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.canned import canned
from support.chat import KEY, VENDORS, Vendor

from interlock.engines.chat import ChatAnswer, ChatProvider, StopReason, Usage
from interlock.engines.chat_registry import make_chat_provider
from interlock.errors import (
    ConfigError,
    InterlockError,
    MalformedAnswerError,
    RateLimitError,
)
from interlock.kernel.clock import Deadline

CLAUDE, GEMINI, OPENAI = VENDORS
USAGE = {"claude": "usage", "gemini": "usageMetadata", "openai": "usage"}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def provider(vendor: Vendor, url: str) -> Any:
    return make_chat_provider(vendor.name, {"api_key": KEY, "base_url": url}, base=Path())


def outcome(made: ChatProvider, vendor: Vendor, **sampling: Any) -> Any:
    """The answer, or the error; anything else fails the test."""

    async def ask() -> Any:
        try:
            return await made.answer(vendor.request(**sampling), deadline=Deadline.after(60))
        except InterlockError as error:
            return error
        finally:
            await made.close()

    return asyncio.run(ask())


def told(vendor: Vendor, response: Any, **sampling: Any) -> Any:
    """What becomes of a response: bytes as they are, all else as JSON."""
    pytest.importorskip(vendor.package)
    data = response if isinstance(response, bytes) else json.dumps(response).encode()
    with canned(data) as url:
        return outcome(provider(vendor, url), vendor, **sampling)


def said(vendor: Vendor, usage: Any, **more: Any) -> dict[str, Any]:
    """A response in the vendor's form that says hello."""
    value: dict[str, Any]
    if vendor is CLAUDE:
        text = [{"type": "text", "text": "hello"}]
        value = {"id": "m", "type": "message", "role": "assistant", "model": vendor.model}
        value |= {"content": text, "stop_reason": "end_turn"}
    elif vendor is GEMINI:
        content = {"parts": [{"text": "hello"}], "role": "model"}
        value = {"candidates": [{"content": content, "finishReason": "STOP"} | more]}
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}}
        value = {"choices": [choice | {"finish_reason": "stop"} | more]}
    return value if usage is None else value | {USAGE[vendor.name]: usage}


COUNTS = {
    "claude": ("input_tokens", "output_tokens"),
    "gemini": ("promptTokenCount", "candidatesTokenCount"),
    "openai": ("prompt_tokens", "completion_tokens"),
}


@pytest.mark.parametrize("counts", [None, "none", [7], ("5", "2"), (5.5, 2), (-1, -1), (5, 10**30)])
@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_an_answer_is_kept_though_its_usage_cannot_be_read(vendor: Vendor, counts: Any) -> None:
    """It was paid for; what it cost is not known."""
    usage = counts
    if isinstance(counts, tuple):
        usage = dict(zip(COUNTS[vendor.name], counts, strict=True))
    found = told(vendor, said(vendor, usage))
    assert isinstance(found, ChatAnswer), found
    assert found.text == "hello"
    assert found.usage == Usage()


@pytest.mark.parametrize("vendor", [GEMINI, OPENAI], ids=lambda vendor: vendor.name)
def test_an_answer_is_kept_though_its_logprobs_cannot_be_read(vendor: Vendor) -> None:
    token = {"token": "hello", "logprob": None, "logProbability": "low"}
    field = "logprobsResult" if vendor is GEMINI else "logprobs"
    logprobs = {"chosenCandidates": [token], "content": [token]}
    found = told(vendor, said(vendor, None, **{field: logprobs}), logprobs=2)
    assert isinstance(found, ChatAnswer), found
    assert found.text == "hello"
    assert found.logprobs is None
    assert "logprobs" not in found.applied
    assert "logprobs" in found.not_applied


@pytest.mark.parametrize("vendor", [CLAUDE, OPENAI], ids=lambda vendor: vendor.name)
def test_bytes_that_are_no_utf_8_are_a_malformed_answer(vendor: Vendor) -> None:
    """Gemini's SDK decodes them itself, with marks in their place."""
    usage = dict.fromkeys(COUNTS[vendor.name], 1)
    data = json.dumps(said(vendor, usage)).encode().replace(b"hello", b"hel\xfflo")
    assert type(told(vendor, data)) is MalformedAnswerError


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_what_an_answer_without_text_took_is_told(vendor: Vendor) -> None:
    response = said(vendor, dict(zip(COUNTS[vendor.name], (5, 2), strict=True)))
    empty = json.loads(json.dumps(response).replace("hello", ""))
    found = told(vendor, empty)
    assert type(found) is MalformedAnswerError
    assert found.usage == Usage(input=5, output=2)


def test_an_answer_in_pieces_is_the_text_among_them() -> None:
    """So Mistral's models that reason write, on OpenAI's wire."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    pieces = [thought, {"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    message = {"role": "assistant", "content": pieces}
    found = told(OPENAI, said(OPENAI, None, message=message))
    assert isinstance(found, ChatAnswer), found
    assert found.text == "hello"
    message = {"role": "assistant", "content": [thought]}
    assert type(told(OPENAI, said(OPENAI, None, message=message))) is MalformedAnswerError


def test_what_gemini_leaves_out_of_the_usage_of_a_blocked_prompt_is_none() -> None:
    """Zeros are not on its wire: nothing was written, so the output is no unknown."""
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}}
    counted = {"promptTokenCount": 5, "totalTokenCount": 5}
    found = told(GEMINI, blocked | {"usageMetadata": counted})
    assert found.stop is StopReason.CONTENT_FILTER
    assert found.usage == Usage(input=5, output=0)
    held_back = {"candidates": [{"finishReason": "SAFETY"}], "usageMetadata": counted}
    assert told(GEMINI, held_back).usage == Usage(input=5, output=0)
    more = counted | {"totalTokenCount": 9}
    assert told(GEMINI, blocked | {"usageMetadata": more}).usage == Usage(input=5)
    assert told(GEMINI, blocked | {"usageMetadata": {"promptTokenCount": 5}}).usage == Usage(5)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("9", 9.0),
        ("0.5", 0.5),
        ("-3", None),
        ("inf", None),
        ("soon", None),
        ("Wed, 21 Oct 1999 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026 07:28:00 +9999", None),
    ],
)
@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_any_retry_after_is_a_wait_or_none(vendor: Vendor, header: str, wait: Any) -> None:
    pytest.importorskip(vendor.package)
    with canned(b"{}", 429, {"retry-after": header}) as url:
        found = outcome(provider(vendor, url), vendor)
    assert type(found) is RateLimitError
    assert found.wait_seconds == wait


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
@pytest.mark.parametrize("url", ["gateway.test/v1?key=canary", "http://u:canary@host:port/v1"])
def test_a_base_url_that_cannot_be_used_is_refused_and_not_quoted(vendor: Vendor, url: str) -> None:
    """It may hold a key, where a configuration writes it as ${NAME}."""
    pytest.importorskip(vendor.package)
    with pytest.raises(ConfigError, match="base_url") as refused:
        provider(vendor, url)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("vendor", [CLAUDE, OPENAI], ids=lambda vendor: vendor.name)
def test_a_host_that_only_the_sdk_refuses_is_the_configuration_s_fault(vendor: Vendor) -> None:
    pytest.importorskip(vendor.package)
    found = outcome(provider(vendor, "http://\u2603.test"), vendor)
    assert type(found) is ConfigError
    assert "\u2603" not in str(found)
