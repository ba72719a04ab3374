"""Every fault of a service, through the vendors' real SDKs: one answer or one typed error.

And one request, whatever the SDKs would rather do; and no key and no prompt in what is said of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from support.chat import KEY, PROMPT, VENDORS, Vendor
from support.fake_llm import FAULTS, FakeLLM, Fault, Plan

from interlock.engines.chat import ChatAnswer, ChatProvider, StopReason
from interlock.errors import (
    AuthenticationError,
    ConnectionLostError,
    DeadlineError,
    InterlockError,
    MalformedAnswerError,
    QuotaError,
    RateLimitError,
    RequestRejectedError,
    ServiceError,
)
from interlock.kernel.clock import Deadline

# What a fault ends as; where vendors differ, by vendor.
ENDS: dict[str, Any] = {
    "ok": StopReason.END,
    "rate_limit": RateLimitError,
    "quota": QuotaError,
    "server_error": ServiceError,
    "unavailable": ServiceError,
    "overloaded": ServiceError,
    "hang": DeadlineError,
    "reset_before": ConnectionLostError,
    "reset_after": ConnectionLostError,
    "truncated": MalformedAnswerError,
    "slow_drip": DeadlineError,
    "broken_json": MalformedAnswerError,
    "html": MalformedAnswerError,
    "empty": MalformedAnswerError,
    "empty_body": MalformedAnswerError,
    # Gemini has no word for a model that declines: its filter does.
    "refusal": {
        "claude": StopReason.REFUSAL,
        "gemini": StopReason.CONTENT_FILTER,
        "openai": StopReason.REFUSAL,
    },
    "max_tokens": StopReason.MAX_TOKENS,
    "content_filter": StopReason.CONTENT_FILTER,
    "prompt_blocked": {
        "claude": StopReason.REFUSAL,
        "gemini": StopReason.CONTENT_FILTER,
        "openai": StopReason.CONTENT_FILTER,
    },
    "bad_request": RequestRejectedError,
    "unauthorized": AuthenticationError,
    "forbidden": AuthenticationError,
    "not_found": RequestRejectedError,
    "too_large": RequestRejectedError,
}
RETRYABLE = {
    "rate_limit",
    "server_error",
    "unavailable",
    "overloaded",
    "reset_before",
    "reset_after",
}
# These two end by the deadline, which is long against what a warm connection needs to send.
BY_DEADLINE = {"hang", "slow_drip"}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as running:
        yield running


def outcome(provider: ChatProvider, vendor: Vendor, seconds: float = 60.0) -> Any:
    """The answer, or the error; anything else fails the test."""

    async def ask() -> Any:
        try:
            return await provider.answer(vendor.request(), deadline=Deadline.after(seconds))
        except InterlockError as error:
            return error
        finally:
            await provider.close()

    return asyncio.run(ask())


def test_every_fault_of_the_server_has_an_end() -> None:
    assert ENDS.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_fault_ends_as_one_answer_or_one_typed_error(
    vendor: Vendor, fault: str, server: FakeLLM
) -> None:
    pytest.importorskip(vendor.package)
    expected = ENDS[fault]
    if isinstance(expected, dict):
        expected = expected[vendor.name]
    provider = vendor.provider(server)
    if fault in BY_DEADLINE:
        server.plan(Plan())
        assert isinstance(outcome(provider, vendor), ChatAnswer)
    server.plan(Plan(script=(fault,)))

    found = outcome(provider, vendor, seconds=2.0 if fault in BY_DEADLINE else 60.0)

    if isinstance(expected, StopReason):
        assert isinstance(found, ChatAnswer), found
        assert found.stop is expected
        assert found.model_version.startswith(vendor.model)
    else:
        assert type(found) is expected, found
        assert found.retryable == (fault in RETRYABLE)
    counts = server.counts()
    assert counts.requests == 1, "the SDK sent it again"
    assert dict(counts.kinds) == {fault: 1}


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_nothing_that_is_said_of_a_fault_holds_the_key_or_the_prompt(
    vendor: Vendor, server: FakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    """The server quotes both in its errors, and every logger is open."""
    pytest.importorskip(vendor.package)
    caplog.set_level(logging.DEBUG)
    said = []
    for fault in FAULTS.keys() - BY_DEADLINE:
        server.plan(Plan(script=(fault,)))
        provider = vendor.provider(server)
        said.append(repr(provider))
        found = outcome(provider, vendor)
        if isinstance(found, InterlockError):
            said += [repr(found), found.hint, str(found.to_dict())]
            said += traceback.format_exception(found)
            assert found.__cause__ is None
            assert found.__context__ is None, "the SDK's error, which quotes the service, stays"
    said += [f"{r.getMessage()} {r.args!r} {r.exc_info!r} {r.exc_text!r}" for r in caplog.records]
    told = "\n".join(said)
    assert KEY not in told
    assert PROMPT not in told
    assert "CVE" not in told


def test_the_canary_would_be_found(server: FakeLLM) -> None:
    """The SDK's own error does quote the prompt."""
    sdk = pytest.importorskip("openai")
    server.plan(Plan(script=("bad_request",)))

    async def ask() -> str:
        async with sdk.AsyncOpenAI(api_key=KEY, base_url=server.openai, max_retries=0) as client:
            with pytest.raises(sdk.BadRequestError) as found:
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": PROMPT}]
                )
            return str(found.value)

    told = asyncio.run(ask())
    assert KEY in told
    assert PROMPT in told


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
@pytest.mark.parametrize(
    ("form", "least", "most"), [("seconds", 7, 7), ("ms", 7, 7), ("date", 6, 7), ("info", 7, 7)]
)
def test_the_wait_that_a_service_asks_for_is_told(
    vendor: Vendor, form: str, least: float, most: float, server: FakeLLM
) -> None:
    pytest.importorskip(vendor.package)
    if form == "info" and vendor.name != "gemini":
        form = "seconds"
    for fault in ("rate_limit", "unavailable"):
        server.plan(Plan(script=(Fault(fault, retry_after=7, retry_form=form),)))
        found = outcome(vendor.provider(server), vendor)
        assert least <= found.wait_seconds <= most


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_request_that_reached_nobody_says_so(vendor: Vendor, server: FakeLLM) -> None:
    """Nothing that was not sent can be billed twice."""
    pytest.importorskip(vendor.package)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        found = outcome(vendor.provider(server, base_url=f"http://127.0.0.1:{port}"), vendor)
    assert isinstance(found, ConnectionLostError)
    assert not found.sent


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_deadline_that_has_passed_sends_nothing(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    assert isinstance(outcome(vendor.provider(server), vendor, seconds=0.0), DeadlineError)
    assert server.counts().requests == 0


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_hundred_at_once_are_sent_once_each(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    shares = {"server_error": 0.1, "rate_limit": 0.1, "reset_after": 0.1, "broken_json": 0.1}
    server.plan(Plan(rates=shares, seed=7))
    provider = vendor.provider(server)

    async def ask() -> list[Any]:
        deadline = Deadline.after(120)
        asked = [
            provider.answer(vendor.request(f"question {number}"), deadline=deadline)
            for number in range(100)
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        await provider.close()
        return found

    found = asyncio.run(ask())
    counts = server.counts()
    assert (counts.requests, counts.distinct, counts.repeated) == (100, 100, 0)
    answers = [each for each in found if isinstance(each, ChatAnswer)]
    assert len(answers) == counts.kinds["ok"]
    assert all(isinstance(each, ChatAnswer | InterlockError) for each in found)
    kinds = [type(each) for each in found]
    assert kinds.count(ServiceError) == counts.kinds["server_error"]
    assert kinds.count(RateLimitError) == counts.kinds["rate_limit"]
    assert kinds.count(ConnectionLostError) == counts.kinds["reset_after"]
    assert kinds.count(MalformedAnswerError) == counts.kinds["broken_json"]


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_a_closed_provider_serves_another_event_loop(vendor: Vendor, server: FakeLLM) -> None:
    pytest.importorskip(vendor.package)
    server.plan(Plan())
    provider = vendor.provider(server)
    for _ in range(2):
        assert outcome(provider, vendor).stop is StopReason.END
