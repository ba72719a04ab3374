"""The OpenAPI description of `/v1/scan`: one text, several, and a stream of lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock.serve.detector_served import MOST_TEXTS
from interlock.serve.scan import SCAN, STREAM

_TEXT = {"type": "string"}
_PLACE = {"enum": ["auto", "user", "document"]}
_ID = {"type": ["string", "null"], "description": "Comes back."}
_STATUS = {"enum": ["accepted", "flagged", "refused", "failed"]}
_SAID = {
    "request_id": _TEXT,
    "model": _TEXT,
    "id": _TEXT,
    "status": _STATUS,
    "action": {"enum": ["allow", "flag", "escalate", "block"]},
    "score": {"type": ["number", "null"]},
    "threshold": {"type": "number"},
    "reasons": {"type": "array", "items": _TEXT},
    "spans": {"type": "array", "items": {"type": "object"}},
    "steps": {"type": "array", "items": {"type": "object"}},
    "evidence": {"type": "object"},
    "bundle": {"type": ["string", "null"]},
}
SCHEMAS: dict[str, Any] = {
    "ScanRequest": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "text": {"type": ["string", "null"], "description": "This, or texts."},
            "texts": {
                "type": ["array", "null"],
                "items": _TEXT,
                "minItems": 1,
                "maxItems": MOST_TEXTS,
            },
            "place": _PLACE,
            "model": {"type": ["string", "null"], "description": "Where there are several."},
            "id": _ID,
        },
    },
    "Scan": {
        "type": "object",
        "required": ["request_id", "model", "status"],
        "description": "Of several texts, one of these a text is in results.",
        "properties": {**_SAID, "results": {"type": "array", "items": {"type": "object"}}},
    },
    "ScanRequestLine": {
        "type": "object",
        "required": ["text"],
        "additionalProperties": False,
        "properties": {"text": _TEXT, "place": _PLACE, "id": _ID},
    },
    "ScanLine": {
        "type": "object",
        "required": ["line", "status"],
        "description": "Where it failed it has code and error. The last one may say what ended "
        "the stream; it has no request_id.",
        "properties": {
            "line": {"type": "integer", "minimum": 0},
            **_SAID,
            "error": _TEXT,
            "code": _TEXT,
            "hint": _TEXT,
            "retryable": {"type": "boolean"},
        },
    },
}
_ERRORS = ("400", "401", "404", "408", "413", "422", "429", "503", "504")


def paths(operation: Callable[..., dict[str, Any]], model: dict[str, Any]) -> dict[str, Any]:
    """The path; `model` is the schema of a model's name."""
    scan = operation("Scan texts for prompt injection", _ref("Scan"), _ERRORS)
    scan["description"] = (
        f"With the content type {STREAM} each line of the body is a request of its own, and is "
        "answered by a line, in order and while the body still arrives."
    )
    scan["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("ScanRequest")},
            STREAM: _lines("ScanRequestLine"),
        },
    }
    scan["responses"]["200"]["content"][STREAM] = _lines("ScanLine")
    # A stream of lines can name its model here alone; a body may do so too.
    scan["parameters"] = [{"name": "model", "in": "query", "schema": model}]
    return {SCAN: {"post": scan}}


def _lines(schema: str) -> dict[str, Any]:
    """A body of lines. OpenAPI 3.1 has no words for it; 3.2 calls `itemSchema` what each is."""
    return {
        "schema": {"type": "string", "description": f"Lines of JSON, each a {schema}."},
        "x-itemSchema": _ref(schema),
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
