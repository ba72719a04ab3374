"""Gemini's generateContent through the `google-genai` SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from interlock.engines.chat_sampling import NAMES, Unsupported, choose, split_system
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    EngineError,
    EngineUnavailableError,
    MalformedAnswerError,
    RequestRejectedError,
)

MOST_LOGPROBS = 20
# As of 2026-11: the models whose logprobs the Gemini API gives. Others answer with a 400.
LOGPROBS = re.compile(r"gemini-(1\.5|2\.0)-(flash|pro)")
NEVER = {"min_p": "no field of the API", "repetition_penalty": "no field of the API"}
# The service takes seeds of 31 bits.
SEEDS = 1 << 31
FIELDS = {"max_tokens": "max_output_tokens", "stop": "stop_sequences"}
STOPS = {
    "STOP": StopReason.END,
    "MAX_TOKENS": StopReason.MAX_TOKENS,
    "CONTINUATION": StopReason.MAX_TOKENS,
} | dict.fromkeys(
    (
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "ESCALATION",
        "MODEL_ARMOR",
    ),
    StopReason.CONTENT_FILTER,
)


class GeminiOptions(HttpOptions, frozen=True, kw_only=True):
    """Options of models of the type `gemini`.

    logprobs  whether the model gives logprobs; None for what is known of its name
    """

    logprobs: bool | None = None


def gemini(options: Mapping[str, Any], *, base: Path) -> GeminiProvider:
    """The factory behind the model type `gemini`."""
    checked = read_options(GeminiOptions, options, "gemini")
    require("google.genai", "gemini", "model type 'gemini'")
    return GeminiProvider(checked)


class GeminiProvider:
    """A `ChatProvider`. One pool of connections; each request is sent once."""

    def __init__(self, options: GeminiOptions) -> None:
        """Raise ConfigError for a key or URL that cannot be used. Connects to nothing."""
        self._base_url = checked_url("gemini", options.base_url)
        own = self._base_url is None
        self._key = checked_key("gemini", options.api_key, "GOOGLE_API_KEY", own=own)
        checked_extra("gemini", options.extra_body)
        self._options = options
        self._learned = Unsupported()
        self._client = SdkClient(self._make, "google_genai", "google.auth")

    async def capabilities(self, model: str) -> Capabilities:
        """As `ChatProvider.capabilities`; asks for the model's entry, which is free.

        At another base_url, a server without a list of models is taken at its word.
        """
        client = self._client.get()
        entry = await model_entry(
            lambda: client.models.get(model=model),
            lambda error: self._failed(error, model),
            provider="gemini",
            unknown=lambda error: getattr(error, "status", None) == "NOT_FOUND",
            optional=self._base_url is not None,
        )
        if entry is not None:
            actions = entry.supported_actions
            if actions and "generateContent" not in actions:
                raise EngineUnavailableError(f"gemini: the model {model} does not generate text")
        unsupported = self._unsupported(model)
        return Capabilities(
            sampling=frozenset(NAMES) - unsupported.keys(),
            logprobs=None if "logprobs" in unsupported else MOST_LOGPROBS,
        )

    async def answer(self, request: ChatRequest, *, deadline: Deadline) -> ChatAnswer:
        """As `ChatProvider.answer`."""
        applied, left_out = choose(
            request.sampling,
            self._unsupported(request.model),
            provider="gemini",
            refuse=self._options.unsupported == "refuse",
        )
        client = self._client.get()
        contents, config = self._body(request, applied, left_out)
        response = await sent(
            lambda: client.models.generate_content(
                model=request.model, contents=contents, config=config
            ),
            lambda error: self._failed(error, request.model),
            provider="gemini",
            deadline=deadline,
        )
        return _answer(response.sdk_http_response, request, applied, left_out)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _make(self, http: Any) -> Any:
        from google import genai
        from google.genai import types

        # With a client of our own the SDK keeps from aiohttp, which it would use with a retry.
        options = types.HttpOptions(
            base_url=self._base_url,
            httpx_async_client=http,
            extra_body=self._options.extra_body or None,
        )
        return genai.Client(vertexai=False, api_key=self._key.text, http_options=options).aio

    def _unsupported(self, model: str) -> dict[str, str]:
        found = dict(NEVER)
        given = self._options.logprobs
        if given is False:
            found["logprobs"] = "turned off by the option logprobs"
        elif given is None and not LOGPROBS.match(model.removeprefix("models/")):
            found["logprobs"] = "not known to be given by this model (as of 2026-11)"
        found.update(self._learned.of(model))
        return found

    def _body(
        self, request: ChatRequest, applied: dict[str, Any], left_out: dict[str, str]
    ) -> tuple[list[Any], Any]:
        from google.genai import types

        system, messages = split_system(request.messages, "gemini")
        contents = [
            types.Content(
                role="model" if m.role == "assistant" else "user",
                parts=[types.Part(text=m.content)],
            )
            for m in messages
        ]
        fields: dict[str, Any] = {
            # Both would send further requests by themselves.
            "automatic_continuation": False,
            "automatic_function_calling": {"disable": True},
            "should_return_http_response": True,
        }
        if system is not None:
            fields["system_instruction"] = system
        for name, value in list(applied.items()):
            if name == "logprobs":
                applied[name] = min(value, MOST_LOGPROBS)
                if value > MOST_LOGPROBS:
                    left_out[name] = f"{value} were asked for; {MOST_LOGPROBS} at most"
                fields["response_logprobs"] = True
            elif name == "seed":
                applied[name] = value % SEEDS
            fields[FIELDS.get(name, name)] = list(value) if name == "stop" else applied[name]
        return contents, types.GenerateContentConfig(**fields)

    def _failed(self, error: Exception, model: str) -> EngineError:
        from google.genai import errors

        if not isinstance(error, errors.APIError):
            return connection_fault("gemini", error)
        reasons, quotas, wait = _details(error.details)
        told = error.message if isinstance(error.message, str) else ""
        if error.code == 400 and told.startswith("Logprobs is not enabled"):
            self._learned.learn(model, "logprobs", "the service refused them")
            return RequestRejectedError(
                f"gemini: {model} gives no logprobs", hint="ask for no logprobs of this model"
            )
        if wait is None:
            wait = asked_wait(getattr(error.response, "headers", {}))
        return status_fault(
            "gemini",
            error.code,
            error.status,
            *reasons,
            wait=wait,
            quota=error.code == 429 and any("PerDay" in quota for quota in quotas),
            key="API_KEY_INVALID" in reasons,
        )


def _details(body: object) -> tuple[list[str], list[str], float | None]:
    """Reasons, names of the quotas and the wait that an error's body tells."""
    reasons: list[str] = []
    quotas: list[str] = []
    wait = None
    try:
        found = msgspec.convert(body, _Refusal, strict=False)
    except msgspec.ValidationError:
        return reasons, quotas, wait
    for detail in found.error.details:
        if detail.reason:
            reasons.append(detail.reason)
        quotas += [violation.quotaId for violation in detail.violations]
        seconds = re.fullmatch(r"(\d+(?:\.\d+)?)s", detail.retryDelay)
        if seconds is not None:
            wait = float(seconds[1])
    return reasons, quotas, wait


# Names as the service spells them.
class _Violation(msgspec.Struct):
    quotaId: str = ""


class _Detail(msgspec.Struct):
    reason: str = ""
    retryDelay: str = ""
    violations: list[_Violation] = []


class _Error(msgspec.Struct):
    details: list[_Detail] = []


class _Refusal(msgspec.Struct):
    error: _Error


class _Part(msgspec.Struct):
    text: str = ""
    thought: bool = False


class _Content(msgspec.Struct):
    parts: list[_Part] = []


class _Token(msgspec.Struct):
    token: str = ""
    logProbability: float = 0.0


class _Top(msgspec.Struct):
    candidates: list[_Token] = []


class _Logprobs(msgspec.Struct):
    chosenCandidates: list[_Token] = []
    topCandidates: list[_Top] = []


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    finishReason: str | None = None
    logprobsResult: msgspec.Raw = NONE


class _Feedback(msgspec.Struct):
    blockReason: str | None = None


class _Usage(msgspec.Struct):
    promptTokenCount: Count | None = None
    candidatesTokenCount: Count | None = None
    thoughtsTokenCount: Count | None = None
    cachedContentTokenCount: Count | None = None
    totalTokenCount: Count | None = None


class _Response(msgspec.Struct):
    candidates: list[_Candidate] = []
    promptFeedback: _Feedback | None = None
    usageMetadata: msgspec.Raw = NONE
    modelVersion: str | None = None
    responseId: str | None = None


def _answer(
    response: Any, request: ChatRequest, applied: dict[str, Any], left_out: dict[str, str]
) -> ChatAnswer:
    found = decoded(
        response.body, _Response, "gemini", (response.headers or {}).get("content-type", "")
    )
    blocked = found.promptFeedback.blockReason if found.promptFeedback else None
    text, logprobs = "", None
    if found.candidates:
        candidate = found.candidates[0]
        raw = candidate.finishReason
        stop = STOPS.get(raw or "", StopReason.OTHER)
        if candidate.content is not None:
            text = "".join(part.text for part in candidate.content.parts if not part.thought)
        drawn = decoded_part(candidate.logprobsResult, _Logprobs)
        if drawn is not None:
            logprobs = _logprobs(drawn, request.sampling.logprob_tokens)
    elif blocked is not None:
        raw, stop = blocked, StopReason.CONTENT_FILTER
    else:
        raise MalformedAnswerError("gemini: the answer holds neither candidate nor block reason")
    usage = _usage(decoded_part(found.usageMetadata, _Usage))
    if not text and stop in (StopReason.END, StopReason.OTHER):
        raise MalformedAnswerError("gemini: the answer is empty", usage=usage)
    if logprobs is None and "logprobs" in applied:
        del applied["logprobs"]
        left_out["logprobs"] = "the service gave none"
    return ChatAnswer(
        text=text,
        stop=stop,
        model_version=found.modelVersion or request.model,
        usage=usage,
        applied=applied,
        not_applied=left_out,
        logprobs=logprobs,
        request_id=found.responseId,
        raw_stop=raw,
    )


def _logprobs(found: _Logprobs, count: int | None) -> tuple[TokenLogprob, ...]:
    tops = [
        tuple((each.token, each.logProbability) for each in top.candidates)
        for top in found.topCandidates
    ]
    tops += [()] * (len(found.chosenCandidates) - len(tops))
    return tuple(
        TokenLogprob(token.token, token.logProbability, top)
        for token, top in zip(found.chosenCandidates[:count], tops, strict=False)
    )


def _usage(found: _Usage | None) -> Usage:
    if found is None:
        return Usage()
    output = found.candidatesTokenCount
    if found.thoughtsTokenCount is not None:
        # The service counts thoughts beside the answer, and bills both.
        output = (output or 0) + found.thoughtsTokenCount
    elif output is None and found.totalTokenCount == found.promptTokenCount:
        # Zeros are left out on the wire: of a prompt that was blocked nothing came.
        output = 0 if found.promptTokenCount is not None else None
    return Usage(
        input=found.promptTokenCount,
        output=output,
        cached=found.cachedContentTokenCount,
        reasoning=found.thoughtsTokenCount,
    )
