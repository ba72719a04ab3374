"""The OpenAPI description of OpenAI's endpoints, as far as this server has them."""

from __future__ import annotations

from typing import Any

_NUMBER = {"type": "number"}
_COMMON: dict[str, Any] = {
    "model": {"type": "string"},
    "stream": {"type": "boolean"},
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": {"type": "boolean"}},
    },
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 1, "description": "Not in OpenAI's API."},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1, "description": "Not in OpenAI's API."},
    "repetition_penalty": {**_NUMBER, "description": "Not in OpenAI's API."},
    "seed": {"type": "integer", "minimum": 0},
    "stop": {
        "oneOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
        ]
    },
    "max_tokens": {"type": "integer", "minimum": 1},
    "timeout": {**_NUMBER, "description": "Seconds; shortens the deadline. Not in OpenAI's API."},
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "oneOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                },
            ]
        },
    },
}
_TOLD = {
    "type": "object",
    "description": "The outcome: not in OpenAI's API.",
    "required": ["status", "digest", "steps", "reasons", "evidence", "request_id"],
    "properties": {
        "status": {"enum": ["accepted", "flagged"]},
        "digest": {"type": "string"},
        "request_id": {"type": "string"},
        "steps": {"type": "array", "items": {"type": "object"}},
        "reasons": {"type": "array", "items": {"type": "string"}},
        "evidence": {"type": "object"},
        "seed": {"type": ["integer", "null"]},
    },
}
_ANSWER = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage", "interlock"],
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["chat.completion", "text_completion"]},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string", "description": "The bundle's digest."},
        "choices": {"type": "array", "items": {"type": "object"}, "maxItems": 1},
        "usage": {"type": "object"},
        "interlock": _TOLD,
    },
}
SCHEMAS: dict[str, Any] = {
    "ChatRequest": {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            **_COMMON,
            "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
            "max_completion_tokens": {"type": "integer", "minimum": 1},
            "logprobs": {"type": "boolean"},
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        },
    },
    "CompletionRequest": {
        "type": "object",
        "required": ["model", "prompt"],
        "properties": {
            **_COMMON,
            "prompt": {
                "oneOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                ]
            },
            "logprobs": {"type": "integer", "minimum": 0, "maximum": 5},
        },
    },
    "TextAnswer": _ANSWER,
    "TextError": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                    "interlock": {"type": "object"},
                },
            }
        },
    },
}

_ASKED = ("400", "401", "404", "408", "413", "422", "429", "503", "504")
_LISTED = ("401", "404", "429", "503")


def paths(texts: dict[str, str]) -> dict[str, Any]:
    """The paths; `texts` says in words when each status is answered."""
    asking = {
        "/v1/chat/completions": ("Answer messages", "ChatRequest"),
        "/v1/completions": ("Continue a text", "CompletionRequest"),
    }
    found: dict[str, Any] = {
        path: {
            "post": {
                "summary": summary,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _ref(schema)}},
                },
                "responses": _responses(
                    {
                        "application/json": {"schema": _ref("TextAnswer")},
                        "text/event-stream": {"schema": {"type": "string"}},
                    },
                    _ASKED,
                    texts,
                ),
            }
        }
        for path, (summary, schema) in asking.items()
    }
    listed = {"application/json": {"schema": {"type": "object"}}}
    found["/v1/models"] = {
        "get": {"summary": "Text models", "responses": _responses(listed, _LISTED, texts)}
    }
    found["/v1/models/{model}"] = {
        "get": {"summary": "A text model", "responses": _responses(listed, _LISTED, texts)},
        "parameters": [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
    }
    return found


def _responses(content: Any, errors: tuple[str, ...], texts: dict[str, str]) -> dict[str, Any]:
    told = {"application/json": {"schema": _ref("TextError")}}
    return {
        "200": {"description": "OK", "content": content},
        **{code: {"description": texts[code], "content": told} for code in errors},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
