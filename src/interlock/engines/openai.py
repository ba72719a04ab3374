"""OpenAI's chat completions, and any server that speaks them, through the `openai` SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from interlock.engines.chat import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    StopReason,
    TokenLogprob,
    Usage,
)
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
from interlock.engines.chat_sampling import NAMES, Unsupported, choose
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError, MalformedAnswerError, RequestRejectedError

MOST_LOGPROBS = 20
# As of 2026-11: models that reason take neither sampling parameters nor logprobs; from 5.1 on they
# do where reasoning_effort is "none". Chat variants of them take all.
REASONING = re.compile(r"(o\d|gpt-[5-9])(?!.*-chat)")
SWITCHABLE = re.compile(r"gpt-(5\.[1-9]|[6-9])")
EXTENSIONS = ("top_k", "min_p", "repetition_penalty")
STOPS = {
    "stop": StopReason.END,
    "length": StopReason.MAX_TOKENS,
    "content_filter": StopReason.CONTENT_FILTER,
}
# Their field -> our name of what it sets.
FIELDS = {name: name for name in NAMES} | {"top_logprobs": "logprobs"}
QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}


class OpenAIOptions(HttpOptions, frozen=True, kw_only=True):
    """Options of models of the type `openai`.

    max_tokens_field  how the limit of tokens is called; None for `max_tokens` at another base_url
                      and `max_completion_tokens` at OpenAI's own and for models that reason
    extensions        send top_k, min_p and repetition_penalty, which vLLM, llama.cpp and others
                      take and OpenAI does not
    logprobs          whether the model gives logprobs; None for what is known of its name
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    extensions: bool = False
    logprobs: bool | None = None


def openai(options: Mapping[str, Any], *, base: Path) -> OpenAIProvider:
    """The factory behind the model type `openai`."""
    checked = read_options(OpenAIOptions, options, "openai")
    require("openai", "openai", "model type 'openai'")
    return OpenAIProvider(checked)


class OpenAIProvider:
    """A `ChatProvider`. One pool of connections; each request is sent once."""

    def __init__(self, options: OpenAIOptions) -> None:
        """Raise ConfigError for a key or URL that cannot be used. Connects to nothing."""
        self._base_url = checked_url("openai", options.base_url)
        key = options.api_key
        # Servers on this machine often take any key, or none.
        if self._base_url is not None and not key:
            key = "none"
        own = self._base_url is None
        self._key = checked_key("openai", key, "OPENAI_API_KEY", own=own)
        checked_extra("openai", options.extra_body)
        self._options = options
        self._learned = Unsupported()
        self._client = SdkClient(self._make, "openai")

    async def capabilities(self, model: str) -> Capabilities:
        """As `ChatProvider.capabilities`; asks for the model's entry, which is free.

        A server without a list of models is taken at its word.
        """
        import httpx2

        client = self._client.get()
        await model_entry(
            lambda: client.get(f"/models/{model}", cast_to=httpx2.Response),
            lambda error: self._failed(error, model),
            provider="openai",
            unknown=lambda error: getattr(error, "code", None) == "model_not_found",
            optional=self._base_url is not None,
        )
        unsupported = self._unsupported(model)
        return Capabilities(
            sampling=frozenset(NAMES) - unsupported.keys(),
            logprobs=None if "logprobs" in unsupported else MOST_LOGPROBS,
        )

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        """As `ChatProvider.answer`."""
        import httpx2

        applied, left_out = choose(
            request.sampling,
            self._unsupported(request.model),
            provider="openai",
            refuse=self._options.unsupported == "refuse",
        )
        body = self._body(request, applied, left_out)
        client = self._client.get()
        options = {}
        key = request.key
        # A header carries nothing else, and no space at its ends.
        if key.isascii() and key.isprintable() and key == key.strip() and 0 < len(key) <= 512:
            options["headers"] = {"X-Client-Request-Id": key}
        response = await sent(
            lambda: client.post(
                "/chat/completions", cast_to=httpx2.Response, body=body, options=options
            ),
            lambda error: self._failed(error, request.model),
            provider="openai",
            deadline=deadline,
        )
        if isinstance(response, ChatAnswer):
            return replace(response, applied=applied, not_applied=left_out)
        return _answer(response, request, applied, left_out)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _make(self, http: Any) -> Any:
        import openai as sdk

        return sdk.AsyncOpenAI(
            api_key=self._key.text,
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=http,
        )

    def _unsupported(self, model: str) -> dict[str, str]:
        options = self._options
        found: dict[str, str] = {}
        if not options.extensions:
            found = dict.fromkeys(EXTENSIONS, "no field of OpenAI's; see the option extensions")
        effort = options.extra_body.get("reasoning_effort")
        reasons = REASONING.match(model) and not (effort == "none" and SWITCHABLE.match(model))
        if reasons:
            why = "not taken by models that reason (as of 2026-11)"
            found |= dict.fromkeys(("temperature", "top_p", "stop", "logprobs"), why)
        if options.logprobs is True:
            found.pop("logprobs", None)
        elif options.logprobs is False:
            found["logprobs"] = "turned off by the option logprobs"
        found.update(self._learned.of(model))
        return found

    def _body(
        self, request: ChatRequest, applied: dict[str, Any], left_out: dict[str, str]
    ) -> dict[str, Any]:
        limit = self._options.max_tokens_field
        if limit is None:
            official = self._base_url is None or REASONING.match(request.model)
            limit = "max_completion_tokens" if official else "max_tokens"
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        }
        for name, value in applied.items():
            if name == "max_tokens":
                body[limit] = value
            elif name == "stop":
                body["stop"] = list(value)
            elif name == "logprobs":
                body["logprobs"] = True
                body["top_logprobs"] = min(value, MOST_LOGPROBS)
                if value > MOST_LOGPROBS:
                    left_out["logprobs"] = f"{value} were asked for; {MOST_LOGPROBS} at most"
                    applied["logprobs"] = MOST_LOGPROBS
            else:
                body[name] = value
        return body | self._options.extra_body

    def _failed(self, error: Exception, model: str) -> EngineError | ChatAnswer:
        import openai as sdk

        if not isinstance(error, sdk.APIStatusError):
            return connection_fault("openai", error)
        code, kind, parameter = error.code, error.type, error.param
        if code == "content_filter":
            return ChatAnswer(
                text="",
                stop=StopReason.CONTENT_FILTER,
                model_version=model,
                request_id=error.request_id,
                raw_stop="content_filter",
            )
        if code in ("unsupported_parameter", "unsupported_value") and parameter in FIELDS:
            name = FIELDS[parameter]
            self._learned.learn(model, name, f"the service refused it ({code})")
            return RequestRejectedError(
                f"openai: {model} does not take {name} ({code})",
                hint=f"leave {name} out of the configuration",
            )
        return status_fault(
            "openai",
            error.status_code,
            kind,
            code,
            parameter,
            wait=asked_wait(error.response.headers),
            quota=bool({code, kind} & QUOTA),
            key=code == "invalid_api_key",
        )


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Piece(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct):
    # Pieces come from compatible services, with thinking beside the text.
    content: str | list[_Piece] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: msgspec.Raw = NONE


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: msgspec.Raw = NONE
    system_fingerprint: str | None = None


def _answer(
    response: Any, request: ChatRequest, applied: dict[str, Any], left_out: dict[str, str]
) -> ChatAnswer:
    headers = response.headers
    found = decoded(response.content, _Completion, "openai", headers.get("content-type", ""))
    if not found.choices:
        raise MalformedAnswerError("openai: the answer holds no choice")
    choice = found.choices[0]
    stop = STOPS.get(choice.finish_reason or "", StopReason.OTHER)
    text = choice.message.content or ""
    if isinstance(text, list):
        text = "".join(piece.text for piece in text if piece.type == "text")
    if choice.message.refusal:
        stop, text = StopReason.REFUSAL, choice.message.refusal
    usage = _usage(decoded_part(found.usage, _Usage))
    if not text and stop in (StopReason.END, StopReason.OTHER):
        raise MalformedAnswerError("openai: the answer is empty", usage=usage)
    logprobs = None
    drawn = decoded_part(choice.logprobs, _Logprobs)
    if drawn is not None and drawn.content is not None:
        logprobs = tuple(
            TokenLogprob(
                token.token,
                token.logprob,
                tuple((each.token, each.logprob) for each in token.top_logprobs),
            )
            for token in drawn.content[: request.sampling.logprob_tokens]
        )
    elif "logprobs" in applied:
        del applied["logprobs"]
        left_out["logprobs"] = "the service gave none"
    version = found.model or request.model
    if found.system_fingerprint:
        version += f" ({found.system_fingerprint})"
    return ChatAnswer(
        text=text,
        stop=stop,
        model_version=version,
        usage=usage,
        applied=applied,
        not_applied=left_out,
        logprobs=logprobs,
        request_id=headers.get("x-request-id"),
        raw_stop=choice.finish_reason,
    )


def _usage(found: _Usage | None) -> Usage:
    if found is None:
        return Usage()
    prompt, completion = found.prompt_tokens_details, found.completion_tokens_details
    return Usage(
        input=found.prompt_tokens,
        output=found.completion_tokens,
        cached=prompt.cached_tokens if prompt else None,
        reasoning=completion.reasoning_tokens if completion else None,
    )
