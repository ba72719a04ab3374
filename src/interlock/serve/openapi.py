"""The OpenAPI description of the endpoints, and a page of it that loads nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import interlock
from interlock.serve import openai_schema
from interlock.serve.rollout import openapi as rollout_paths
from interlock.serve.tensors import DATATYPES

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": list(DATATYPES.values())},
        "parameters": {"type": "object"},
        "data": {"type": "array", "description": "Row-major, flat or nested; null for NaN."},
    },
}
_SCHEMAS: dict[str, Any] = {
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "id", "parameters", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "required": ["status", "digest", "steps", "reasons", "evidence"],
                "properties": {
                    "status": {"enum": ["accepted", "flagged", "refused", "failed"]},
                    "digest": {"type": "string"},
                    "steps": {"type": "string", "description": "JSON: the steps taken."},
                    "reasons": {"type": "string", "description": "JSON: a list of texts."},
                    "evidence": {"type": "string", "description": "JSON: what backs the answer."},
                },
            },
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "ScanRequest": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "text": {"type": ["string", "null"], "description": "This, or texts."},
            "texts": {
                "type": ["array", "null"],
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": 256,
            },
            "place": {"enum": ["auto", "user", "document"]},
            "model": {"type": ["string", "null"], "description": "Where there are several."},
            "id": {"type": ["string", "null"], "description": "Comes back."},
        },
    },
    "Scan": {
        "type": "object",
        "required": ["request_id", "model", "status"],
        "description": "Of several texts, one of these a text is in results.",
        "properties": {
            "request_id": {"type": "string"},
            "model": {"type": "string"},
            "id": {"type": "string"},
            "status": {"enum": ["accepted", "flagged", "refused", "failed"]},
            "action": {"enum": ["allow", "flag", "escalate", "block"]},
            "score": {"type": ["number", "null"]},
            "threshold": {"type": "number"},
            "reasons": {"type": "array", "items": {"type": "string"}},
            "spans": {"type": "array", "items": {"type": "object"}},
            "steps": {"type": "array", "items": {"type": "object"}},
            "evidence": {"type": "object"},
            "bundle": {"type": ["string", "null"]},
            "results": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Error": {
        "type": "object",
        "required": ["error", "code", "hint", "retryable"],
        "properties": {
            "error": {"type": "string"},
            "code": {"type": "string"},
            "hint": {"type": "string"},
            "retryable": {"type": "boolean"},
            "parameters": {"type": "object", "description": "Of an outcome, where there is one."},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"enum": ["healthy", "degraded", "unhealthy"]},
            "latency_ms": {"type": "number"},
            "model": {"type": "string"},
            "message": {"type": "string"},
            "error": {"type": "string"},
            "models": {"type": "array", "items": {"$ref": "#/components/schemas/Health"}},
        },
    },
}
_OBJECT = {"type": "object"}
_ERRORS = {
    "400": "The request is malformed; the message names the field.",
    "401": "A bearer token is needed.",
    "404": "No such model or version.",
    "409": "It contradicts what is so already.",
    "408": "The body did not arrive in time.",
    "413": "The body is above the limit.",
    "422": "Refused, or the model fails on this input; the parameters say why.",
    "429": "Too many requests from this address; see Retry-After.",
    "503": "Not ready, or too much to do; see Retry-After.",
    "504": "No answer within the deadline.",
}
_ANY = ("401", "429", "503")


def document(
    models: Mapping[str, str] = {}, *, admin: bool = False, feedback: bool = True
) -> dict[str, Any]:
    """The OpenAPI 3.1 description of a server with these models, name -> version.

    admin, feedback  whether it has the admin API, and takes labels
    """
    named = {"model": list(models), "version": [version for version in models.values() if version]}
    paths: dict[str, Any] = {
        "/v2/health/live": {"get": _operation("Is the process alive", _OBJECT, ())},
        "/v2/health/ready": {"get": _operation("Is every model ready", _OBJECT, ("503",))},
        "/v2": {"get": _operation("Server metadata", _OBJECT, _ANY)},
        "/v2/models": {"get": _operation("Names of the models", _OBJECT, _ANY)},
        "/health": {"get": _operation("Health by a canary inference", _ref("Health"), _ANY)},
        "/metrics": {"get": _operation("Prometheus metrics", None, _ANY, "text/plain")},
        "/openapi.json": {"get": _operation("This description", _OBJECT, _ANY)},
        "/docs": {"get": _operation("This description as a page", None, _ANY, "text/html")},
    }
    scan = _operation(
        "Scan texts for prompt injection; lines of JSON are answered line by line",
        _ref("Scan"),
        (*_ANY, "400", "404", "408", "413", "422", "504"),
    )
    scan["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _ref("ScanRequest")}},
    }
    # A stream of lines can name its model here alone; a body may do so too.
    scan["parameters"] = [{"name": "model", "in": "query", "schema": _one_of(named["model"])}]
    paths["/v1/scan"] = {"post": scan}
    for prefix, names in (
        ("/v2/models/{model}", ("model",)),
        ("/v2/models/{model}/versions/{version}", ("model", "version")),
    ):
        given = [
            {"name": name, "in": "path", "required": True, "schema": _one_of(named[name])}
            for name in names
        ]
        found = (*_ANY, "404")
        infer = _operation(
            "Infer", _ref("InferResponse"), (*found, "400", "408", "413", "422", "504")
        )
        infer["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("InferRequest")},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
        paths[prefix] = {"get": _operation("Model metadata", _OBJECT, found)}
        paths[f"{prefix}/ready"] = {"get": _operation("Is the model ready", _OBJECT, found)}
        paths[f"{prefix}/infer"] = {"post": infer}
        for path in (prefix, f"{prefix}/ready", f"{prefix}/infer"):
            paths[path]["parameters"] = given
    if feedback:
        paths |= rollout_paths.feedback(_operation)
    if admin:
        paths |= rollout_paths.admin(_operation, _one_of(named["model"]))
    paths |= openai_schema.paths(_ERRORS)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Interlock",
            "version": interlock.__version__,
            "description": "Open Inference Protocol v2, and OpenAI's API for text models; every "
            "answer says its status and evidence.",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS | rollout_paths.SCHEMAS | openai_schema.SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def page() -> str:
    """The description as HTML."""
    rows = []
    for path, operations in document(admin=True)["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            answers = ", ".join(operation["responses"])
            rows.append(
                f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
                f"<td>{html.escape(operation['summary'])}</td><td>{answers}</td></tr>"
            )
    errors = "".join(f"<tr><td>{code}</td><td>{text}</td></tr>" for code, text in _ERRORS.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Interlock</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}td{padding:.25rem 1rem .25rem 0;vertical-align:top}</style></head><body>"
        "<h1>Interlock</h1><p>Open Inference Protocol v2; OpenAI's API for text models. "
        "The machine-readable description is "
        '<a href="openapi.json">openapi.json</a>.</p>'
        f"<table>{''.join(rows)}</table><h2>Errors</h2><table>{errors}</table></body></html>"
    )


def _one_of(names: list[str]) -> dict[str, Any]:
    return {"type": "string", "enum": names} if names else {"type": "string"}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    summary: str, schema: Any, errors: tuple[str, ...], media: str = "application/json"
) -> dict[str, Any]:
    content = {media: {"schema": {"type": "string"} if schema is None else schema}}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
    for code in sorted(errors):
        # A probe that is red answers with its own document.
        red = code == "503" and schema is not None and "ready" in summary
        told = _OBJECT if red or summary.startswith("Health") else _ref("Error")
        responses[code] = {
            "description": _ERRORS[code],
            "content": {"application/json": {"schema": told}},
        }
    return {"summary": summary, "responses": responses}
