"""Gemini's generateContent."""

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
    "rate_limit": (429, "RESOURCE_EXHAUSTED"),
    "quota": (429, "RESOURCE_EXHAUSTED"),
    "server_error": (500, "INTERNAL"),
    "unavailable": (503, "UNAVAILABLE"),
    "overloaded": (529, "UNAVAILABLE"),
    "bad_request": (400, "INVALID_ARGUMENT"),
    "unauthorized": (400, "INVALID_ARGUMENT"),
    "forbidden": (403, "PERMISSION_DENIED"),
    "not_found": (404, "NOT_FOUND"),
    "too_large": (413, "INVALID_ARGUMENT"),
}
RPC = "type.googleapis.com/google.rpc."
MODELS = ("gemini-2.0-flash", "gemini-2.5-pro")
NO_LOGPROBS = ("gemini-2.5",)


class GeminiWire:
    """POST /v1beta/models/M:generateContent, GET /v1beta/models."""

    def call(
        self, path: str, headers: Headers, body: Mapping[str, Any], digest: bytes, number: int
    ) -> Call:
        """The request."""
        model = path.partition("/models/")[2].partition(":")[0]
        parts = list(body.get("systemInstruction", {}).get("parts", []))
        for content in body["contents"]:
            parts += content["parts"]
        prompt = "\n".join(str(part["text"]) for part in parts)
        return Call(model, prompt, headers.get("x-goog-api-key", ""), body, digest, number)

    def rejects(self, call: Call) -> Reply | None:
        """A 400 for logprobs where the model gives none."""
        config = call.body.get("generationConfig", {})
        if config.get("responseLogprobs") and call.model.startswith(NO_LOGPROBS):
            told = f"Logprobs is not enabled for models/{call.model}"
            return _error(400, "INVALID_ARGUMENT", told, [])
        return None

    def answer(self, call: Call, answer: Answer) -> Reply:
        """A response; a blocked prompt has no candidates, a blocked answer no content."""
        thought = 12 if "pro" in call.model else 0
        value: dict[str, Any] = {
            "usageMetadata": {
                "promptTokenCount": call.input_tokens,
                "totalTokenCount": call.input_tokens + answer.output_tokens + thought,
            },
            "modelVersion": f"{call.model}-001",
            "responseId": f"resp{call.number}",
        }
        if answer.kind == "prompt_blocked":
            value["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
            return reply(200, value)
        value["usageMetadata"] |= {
            "candidatesTokenCount": answer.output_tokens,
            "thoughtsTokenCount": thought,
        }
        finish = {
            "max_tokens": "MAX_TOKENS",
            "refusal": "SAFETY",
            "content_filter": "PROHIBITED_CONTENT",
        }
        candidate: dict[str, Any] = {"finishReason": finish.get(answer.kind, "STOP"), "index": 0}
        if answer.kind not in ("refusal", "content_filter", "empty"):
            candidate["content"] = {"parts": [{"text": answer.text}], "role": "model"}
            config = call.body.get("generationConfig", {})
            if config.get("responseLogprobs"):
                candidate["logprobsResult"] = _logprobs(answer.text, config.get("logprobs", 0))
        value["candidates"] = [candidate]
        return reply(200, value)

    def error(self, call: Call, kind: str) -> Reply:
        """An error that quotes prompt and key, as real ones may."""
        status, name = STATUS[kind]
        details: list[Mapping[str, Any]] = []
        if kind == "unauthorized":
            info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            details.append({"@type": RPC + "ErrorInfo", **info})
        if kind in ("rate_limit", "quota"):
            per = "PerDay" if kind == "quota" else "PerMinute"
            violation = {"quotaId": f"GenerateRequests{per}PerProjectPerModel", "quotaValue": "50"}
            details.append({"@type": RPC + "QuotaFailure", "violations": [violation]})
        return _error(status, name, f"{kind}: key {call.key} sent {call.prompt}", details)

    def retry(self, wait: float, form: str) -> tuple[Headers, list[Mapping[str, Any]]]:
        """RetryInfo in the body; headers where a proxy adds them."""
        if form != "info":
            return {}, []
        delay = f"{wait:.9f}".rstrip("0").rstrip(".") + "s"
        return {}, [{"@type": RPC + "RetryInfo", "retryDelay": delay}]

    def limits(self, found: Mapping[str, tuple[float, float, float]]) -> Headers:
        """None: the service does not tell."""
        return {}

    def models(self, path: str) -> Reply:
        """The list, or one of it."""
        name = path.partition("/models/")[2]
        if not name:
            return reply(200, {"models": [_model(each) for each in MODELS]})
        if name.startswith("missing"):
            return _error(404, "NOT_FOUND", f"models/{name} is not found", [])
        return reply(200, _model(name))


def _model(name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "inputTokenLimit": 1048576,
        "outputTokenLimit": 8192,
        "supportedGenerationMethods": ["embedContent" if "embed" in name else "generateContent"],
        "temperature": 1,
        "maxTemperature": 2,
        "topP": 0.95,
        "topK": 64,
    }


def _error(status: int, name: str, told: str, details: list[Mapping[str, Any]]) -> Reply:
    return reply(
        status, {"error": {"code": status, "message": told, "status": name, "details": details}}
    )


def _logprobs(text: str, count: int) -> dict[str, Any]:
    chosen = []
    top = []
    for token in split_tokens(text):
        names = [token] + [f"{token[:-1]}{rank}" for rank in range(1, count)]
        entries = [
            {"token": name, "tokenId": rank, "logProbability": logprob_of(token, rank)}
            for rank, name in enumerate(names)
        ]
        chosen.append(entries[0])
        top.append({"candidates": entries[:count]})
    return {"chosenCandidates": chosen, "topCandidates": top}
