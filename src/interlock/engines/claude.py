"""Anthropic's messages through the `anthropic` SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from interlock.engines.chat import Capabilities, ChatAnswer, ChatRequest, StopReason, Usage
from interlock.engines.chat_http import (
    NONE,
    Count,
    HttpOptions,
    SdkClient,
    asked_wait,
    checked_extra,
    checked_key,
    checked_url,
    connection_fault,
    decoded,
    decoded_part,
    model_entry,
    require,
    sent,
    status_fault,
)
from interlock.engines.chat_registry import read_options
from interlock.engines.chat_sampling import NAMES, Unsupported, choose, split_system
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    EngineError,
    EngineUnavailableError,
    InputError,
    MalformedAnswerError,
    RequestRejectedError,
)

# As of 2026-11: models up to the 4.6 generation take temperature, top_p and top_k; of these, those
# from 4.1 on take temperature or top_p, not both; later ones take none of them. The entry that the
# service gives of a model does not say so.
SAMPLES = re.compile(r"claude-(2|instant|3|(opus|sonnet|haiku)-4(-[0-6])?(-\d{8}|-latest|$))")
EITHER = re.compile(r"claude-(opus-4-[1-6]|(sonnet|haiku)-4-[5-6])")
NEVER = {
    "min_p": "no field of the API",
    "repetition_penalty": "no field of the API",
    "seed": "no field of the API",
    "logprobs": "the API gives none",
}
REFUSED = re.compile(r"`?\b(temperature|top_p|top_k|stop_sequences)\b`?")
# How messages begin that no code tells apart; further on they may quote the request.
FILTERED = "Output blocked by content filtering policy"
UNPAID = "Your credit balance is too low"
SPENT = re.compile(r".*spend_limit_reached|.*billing_unavailable|organization_on_hold")
STOPS = {
    "end_turn": StopReason.END,
    "stop_sequence": StopReason.STOP_TEXT,
    "max_tokens": StopReason.MAX_TOKENS,
    "model_context_window_exceeded": StopReason.MAX_TOKENS,
    "refusal": StopReason.REFUSAL,
}


class ClaudeOptions(HttpOptions, frozen=True, kw_only=True):
    """Options of models of the type `claude`."""


def claude(options: Mapping[str, Any], *, base: Path) -> ClaudeProvider:
    """The factory behind the model type `claude`."""
    checked = read_options(ClaudeOptions, options, "claude")
    require("anthropic", "claude", "model type 'claude'")
    return ClaudeProvider(checked)


class ClaudeProvider:
    """A `ChatProvider`. One pool of connections; each request is sent once."""

    def __init__(self, options: ClaudeOptions) -> None:
        """Raise ConfigError for a key or URL that cannot be used. Connects to nothing."""
        self._base_url = checked_url("claude", options.base_url)
        own = self._base_url is None
        self._key = checked_key("claude", options.api_key, "ANTHROPIC_API_KEY", own=own)
        checked_extra("claude", options.extra_body)
        self._options = options
        self._learned = Unsupported()
        self._client = SdkClient(self._make, "anthropic")

    async def capabilities(self, model: str) -> Capabilities:
        """As `ChatProvider.capabilities`; asks for the model's entry, which is free.

        At another base_url, a server without a list of models is taken at its word.
        """
        import httpx2

        client = self._client.get()
        response = await model_entry(
            lambda: client.get(f"/v1/models/{model}", cast_to=httpx2.Response),
            lambda error: self._failed(error, model),
            provider="claude",
            unknown=lambda error: getattr(error, "type", None) == "not_found_error",
            optional=self._base_url is not None,
        )
        if response is not None:
            entry = decoded(response.content, _Model, "claude")
            if entry.lifecycle == "retired":
                raise EngineUnavailableError(f"claude: the model {model} is retired")
        return Capabilities(
            sampling=frozenset(NAMES) - self._unsupported(model).keys(),
            most_temperature=1.0,
            not_with={"top_p": "temperature"} if EITHER.match(model) else {},
        )

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        """As `ChatProvider.answer`."""
        import httpx2

        refuse = self._options.unsupported == "refuse"
        unsupported = self._unsupported(request.model)
        sampling = request.sampling
        if (
            EITHER.match(request.model)
            and sampling.temperature is not None
            and sampling.top_p is not None
        ):
            unsupported.setdefault("top_p", "the model takes temperature or top_p, not both")
        applied, left_out = choose(sampling, unsupported, provider="claude", refuse=refuse)
        if (sampling.temperature or 0) > 1 and "temperature" in applied:
            raise InputError(
                f"claude: temperature is {sampling.temperature}; the service takes 0 … 1"
            )
        body = self._body(request, applied)
        client = self._client.get()
        response = await sent(
            lambda: client.post("/v1/messages", cast_to=httpx2.Response, body=body),
            lambda error: self._failed(error, request.model),
            provider="claude",
            deadline=deadline,
        )
        if isinstance(response, ChatAnswer):
            return replace(response, applied=applied, not_applied=left_out)
        return _answer(response, request, applied, left_out)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _make(self, http: Any) -> Any:
        import anthropic

        return anthropic.AsyncAnthropic(
            api_key=self._key.text,
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=http,
        )

    def _unsupported(self, model: str) -> dict[str, str]:
        found = dict(NEVER)
        if model.startswith("claude-") and not SAMPLES.match(model):
            why = "not taken by models after the 4.6 generation (as of 2026-11)"
            found |= dict.fromkeys(("temperature", "top_p", "top_k"), why)
        found.update(self._learned.of(model))
        return found

    def _body(self, request: ChatRequest, applied: Mapping[str, Any]) -> dict[str, Any]:
        system, messages = split_system(request.messages, "claude")
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
        }
        if system is not None:
            body["system"] = system
        for name, value in applied.items():
            if name == "stop":
                body["stop_sequences"] = list(value)
            else:
                body[name] = value
        return body | self._options.extra_body

    def _failed(self, error: Exception, model: str) -> EngineError | ChatAnswer:
        import anthropic

        if not isinstance(error, anthropic.APIStatusError):
            return connection_fault("claude", error)
        told = error.api_message or ""
        if error.status_code == 400 and told.startswith(FILTERED):
            return ChatAnswer(
                text="",
                stop=StopReason.CONTENT_FILTER,
                model_version=model,
                request_id=error.request_id,
                raw_stop="content_filter",
            )
        if error.status_code == 400 and ("deprecated" in told or "not supported" in told):
            refused = REFUSED.match(told)
            if refused is not None:
                name = "stop" if refused[1] == "stop_sequences" else refused[1]
                self._learned.learn(model, name, "the service refused it")
                return RequestRejectedError(
                    f"claude: {model} does not take {name}",
                    hint=f"leave {name} out of the configuration",
                )
        return status_fault(
            "claude",
            error.status_code,
            error.type,
            error.error_code,
            wait=_wait(error.response.headers),
            quota=error.type == "billing_error"
            or told.startswith(UNPAID)
            or bool(SPENT.fullmatch(error.error_code or "")),
        )


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers ask to wait; those of the limits where Retry-After is missing."""
    wait = asked_wait(headers)
    if wait is not None:
        return wait
    resets = [
        headers.get(f"anthropic-ratelimit-{name}-reset")
        for name in ("requests", "tokens", "input-tokens", "output-tokens")
        if headers.get(f"anthropic-ratelimit-{name}-remaining") == "0"
    ]
    try:
        moments = [datetime.fromisoformat(reset) for reset in resets if reset is not None]
        waits = [(each - datetime.now(UTC)).total_seconds() for each in moments]
    except (TypeError, ValueError):
        return None
    return max(0.0, *waits) if waits else None


class _Model(msgspec.Struct):
    id: str
    lifecycle: str = "active"


class _Block(msgspec.Struct):
    type: str
    text: str = ""


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count
    output_tokens: Count
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(msgspec.Struct):
    content: list[_Block]
    model: str
    usage: msgspec.Raw = NONE
    stop_reason: str | None = None


def _answer(
    response: Any, request: ChatRequest, applied: dict[str, Any], left_out: dict[str, str]
) -> ChatAnswer:
    headers = response.headers
    found = decoded(response.content, _Message, "claude", headers.get("content-type", ""))
    # Thinking and its signatures are no part of the answer.
    text = "".join(block.text for block in found.content if block.type == "text")
    stop = STOPS.get(found.stop_reason or "", StopReason.OTHER)
    usage = _usage(decoded_part(found.usage, _Usage))
    if not text and stop in (StopReason.END, StopReason.OTHER):
        raise MalformedAnswerError("claude: the answer is empty", usage=usage)
    return ChatAnswer(
        text=text,
        stop=stop,
        model_version=found.model,
        usage=usage,
        applied=applied,
        not_applied=left_out,
        request_id=headers.get("request-id"),
        raw_stop=found.stop_reason,
    )


def _usage(found: _Usage | None) -> Usage:
    if found is None:
        return Usage()
    cached = found.cache_read_input_tokens
    details = found.output_tokens_details
    return Usage(
        # The service counts what it reads from and writes to its cache apart from the rest.
        input=found.input_tokens + (cached or 0) + (found.cache_creation_input_tokens or 0),
        output=found.output_tokens,
        cached=cached,
        reasoning=details.thinking_tokens if details else None,
    )
