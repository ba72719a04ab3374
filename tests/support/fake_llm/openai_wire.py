"""OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.fake_llm.wire import (
    Answer,
    Call,
    Headers,
    Reply,
    logprob_of,
    reply,
    split_tokens,
)

STATUS = {
    "rate_limit": (429, "requests", "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota", "insufficient_quota"),
    "server_error": (500, "server_error", None),
    "unavailable": (503, "server_error", None),
    "overloaded": (529, "server_error", None),
    "prompt_blocked": (400, "invalid_request_error", "content_filter"),
    "bad_request": (400, "invalid_request_error", "invalid_value"),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "forbidden": (403, "invalid_request_error", "unsupported_country_region_territory"),
    "not_found": (404, "invalid_request_error", "model_not_found"),
    "too_large": (413, "invalid_request_error", None),
}
# Models that think take no sampling parameters, and another name for the limit of tokens.
THINKING = ("o1", "o3", "o4", "gpt-5")
MODELS = ("gpt-4o-mini", "o4-mini", "gpt-5")


class OpenAIWire:
    """POST …/chat/completions, GET …/models."""

    def call(
        self, path: str, headers: Headers, body: Mapping[str, Any], digest: bytes, number: int
    ) -> Call:
        """The request."""
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        key = headers.get("authorization", "").removeprefix("Bearer ")
        return Call(body["model"], prompt, key, body, digest, number)

    def rejects(self, call: Call) -> Reply | None:
        """A 400 for what models that think do not take."""
        if not call.model.startswith(THINKING):
            return None
        if "max_tokens" in call.body:
            return _unsupported("max_tokens", "unsupported_parameter")
        for name in ("temperature", "top_p"):
            if call.body.get(name, 1) != 1:
                return _unsupported(name, "unsupported_value")
        for name in ("logprobs", "top_logprobs", "stop"):
            if call.body.get(name):
                return _unsupported(name, "unsupported_parameter")
        return None

    def answer(self, call: Call, answer: Answer) -> Reply:
        """A completion."""
        if answer.kind == "prompt_blocked":
            return self.error(call, answer.kind)
        finish = {"max_tokens": "length", "content_filter": "content_filter"}
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.kind == "refusal":
            message |= {"content": None, "refusal": answer.text}
        if answer.kind == "empty":
            message["content"] = ""
        thought = 16 if call.model.startswith(THINKING) else 0
        output = answer.output_tokens + thought
        logprobs = None
        if call.body.get("logprobs") and message["content"]:
            logprobs = {"content": _logprobs(answer.text, call.body.get("top_logprobs") or 0)}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish.get(answer.kind, "stop"),
        }
        return reply(
            200,
            {
                "id": f"chatcmpl-{call.number}",
                "object": "chat.completion",
                "created": 1767225600,
                "model": f"{call.model}-2026-01-01",
                "choices": [choice],
                "usage": {
                    "prompt_tokens": call.input_tokens,
                    "completion_tokens": output,
                    "total_tokens": call.input_tokens + output,
                    "prompt_tokens_details": {"cached_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": thought},
                },
                "system_fingerprint": "fp_44709d6fcb",
            },
            {"x-request-id": f"req_{call.number}"},
        )

    def error(self, call: Call, kind: str) -> Reply:
        """An error that quotes prompt and key, as real ones do."""
        status, name, code = STATUS[kind]
        told = f"{kind}: key {call.key} sent {call.prompt}"
        error = {"message": told, "type": name, "param": None, "code": code}
        return reply(status, {"error": error}, {"x-request-id": f"req_{call.number}"})

    def retry(self, wait: float, form: str) -> tuple[Headers, list[Mapping[str, Any]]]:
        """Only headers."""
        return {}, []

    def limits(self, found: Mapping[str, tuple[float, float, float]]) -> Headers:
        """x-ratelimit-…"""
        headers = {}
        for name, (limit, left, full) in found.items():
            headers[f"x-ratelimit-limit-{name}"] = str(int(limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(int(left))
            headers[f"x-ratelimit-reset-{name}"] = f"{full:.3f}s"
        return headers

    def models(self, path: str) -> Reply:
        """The list, or one of it."""
        name = path.partition("/models/")[2]
        entry = {"object": "model", "created": 1767225600, "owned_by": "fake"}
        if not name:
            return reply(200, {"object": "list", "data": [{"id": m, **entry} for m in MODELS]})
        if name.startswith("missing"):
            error = {"message": f"no {name}", "type": "invalid_request_error", "param": "model"}
            return reply(404, {"error": error | {"code": "model_not_found"}})
        if name.startswith("unauthorized"):
            error = {"message": "wrong key", "type": "invalid_request_error"}
            return reply(401, {"error": error | {"code": "invalid_api_key"}})
        return reply(200, {"id": name, **entry})


def _unsupported(name: str, code: str) -> Reply:
    told = f"Unsupported: '{name}' is not supported with this model."
    error = {"message": told, "type": "invalid_request_error", "param": name, "code": code}
    return reply(400, {"error": error})


def _logprobs(text: str, count: int) -> list[dict[str, Any]]:
    found = []
    for token in split_tokens(text):
        top = [token] + [f"{token[:-1]}{rank}" for rank in range(1, count)]
        entries = [
            {"token": t, "logprob": logprob_of(token, rank), "bytes": list(t.encode())}
            for rank, t in enumerate(top)
        ]
        found.append({**entries[0], "top_logprobs": entries[:count]})
    return found
