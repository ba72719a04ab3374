"""Anthropic's messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from support.fake_llm.wire import Answer, Call, Headers, Reply, reply

STATUS = {
    "rate_limit": (429, "rate_limit_error"),
    "quota": (400, "invalid_request_error"),
    "server_error": (500, "api_error"),
    "unavailable": (503, "api_error"),
    "overloaded": (529, "overloaded_error"),
    "content_filter": (400, "invalid_request_error"),
    "bad_request": (400, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "not_found": (404, "not_found_error"),
    "too_large": (413, "request_too_large"),
}
WORDS = {
    "quota": "Your credit balance is too low to access the Anthropic API.",
    "content_filter": "Output blocked by content filtering policy",
}
# From here on, models take no sampling parameters; the two before take one of them at a time.
NO_SAMPLING = ("claude-opus-4-7", "claude-opus-4-8", "claude-opus-5", "claude-sonnet-5", "picky")
ONE_OF_TWO = ("claude-sonnet-4-5", "claude-opus-4-5", "claude-haiku-4-5")
MODELS = ("claude-haiku-4-5", "claude-opus-5", "claude-3-5-sonnet-20241022")


class AnthropicWire:
    """POST /v1/messages, GET /v1/models."""

    def call(
        self, path: str, headers: Headers, body: Mapping[str, Any], digest: bytes, number: int
    ) -> Call:
        """The request."""
        texts = [str(body.get("system", ""))]
        texts += [str(message["content"]) for message in body["messages"]]
        if not isinstance(body["max_tokens"], int):
            raise TypeError("max_tokens")
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        return Call(body["model"], "\n".join(filter(None, texts)), key, body, digest, number)

    def rejects(self, call: Call) -> Reply | None:
        """A 400 for sampling parameters that the model does not take."""
        given = [name for name in ("temperature", "top_p", "top_k") if name in call.body]
        if given and call.model.startswith(NO_SAMPLING):
            return _error(
                400, "invalid_request_error", f"`{given[0]}` is deprecated for this model."
            )
        if {"temperature", "top_p"} <= set(given) and call.model.startswith(ONE_OF_TWO):
            told = "`temperature` and `top_p` cannot both be specified for this model."
            return _error(400, "invalid_request_error", told)
        if call.body.get("temperature", 0) > 1:
            return _error(400, "invalid_request_error", "temperature: range: 0..1")
        return None

    def answer(self, call: Call, answer: Answer) -> Reply:
        """A message."""
        if answer.kind == "content_filter":
            return self.error(call, answer.kind)
        stops = {"max_tokens": "max_tokens", "refusal": "refusal", "prompt_blocked": "refusal"}
        content = [{"type": "text", "text": answer.text}] if answer.text else []
        if call.body.get("thinking"):
            content.insert(0, {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})
        return reply(
            200,
            {
                "id": f"msg_{call.number}",
                "type": "message",
                "role": "assistant",
                "model": call.model,
                "content": content,
                "stop_reason": stops.get(answer.kind, "end_turn"),
                "stop_sequence": None,
                "usage": {
                    "input_tokens": call.input_tokens,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "output_tokens": answer.output_tokens,
                    "service_tier": "standard",
                },
            },
            {"request-id": f"req_{call.number}"},
        )

    def error(self, call: Call, kind: str) -> Reply:
        """An error that quotes prompt and key, as real ones may."""
        status, name = STATUS[kind]
        told = WORDS.get(kind, "") + f" {kind}: key {call.key} sent {call.prompt}"
        return _error(status, name, told, f"req_{call.number}")

    def retry(self, wait: float, form: str) -> tuple[Headers, list[Mapping[str, Any]]]:
        """Only headers."""
        return {}, []

    def limits(self, found: Mapping[str, tuple[float, float, float]]) -> Headers:
        """anthropic-ratelimit-…"""
        headers = {}
        for name, (limit, left, full) in found.items():
            reset = datetime.now(UTC) + timedelta(seconds=full)
            headers[f"anthropic-ratelimit-{name}-limit"] = str(int(limit))
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(int(left))
            headers[f"anthropic-ratelimit-{name}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers

    def models(self, path: str) -> Reply:
        """The list, or one of it."""
        name = path.partition("/models/")[2]
        if not name:
            listed = [_model(each) for each in MODELS]
            return reply(200, {"data": listed, "has_more": False, "first_id": MODELS[0]})
        if name.startswith("missing"):
            return _error(404, "not_found_error", f"model: {name}")
        return reply(200, _model(name))


def _model(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name.title(),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "retired" if name.startswith("retired") else "active",
        "max_input_tokens": 200000,
        "max_tokens": 64000,
        "capabilities": None,
    }


def _error(status: int, name: str, told: str, request: str = "req_0") -> Reply:
    error = {"type": name, "message": told.strip()}
    body = {"type": "error", "error": error, "request_id": request}
    return reply(status, body, {"request-id": request})
