"""The OpenAPI description of the endpoints, and a page of it that loads nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import interlock
from interlock.serve import openai_schema, scan_schema
from interlock.serve.rollout import openapi as rollout_paths
from interlock.serve.tensors import DATATYPES

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": list(DATATYPES.values())},
        "parameters": {
            "type": "object",
            "description": "binary_data_size: bytes of the tensor behind the JSON, in the place "
            "of data.",
        },
        "data": {
            "type": "array",
            "description": "Row-major, flat or nested; null for NaN in answers.",
        },
    },
}
_SCHEMAS: dict[str, Any] = {
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "description": "binary_data_output: whether outputs come behind the JSON. "
                "timeout: microseconds.",
            },
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "parameters": {
                            "type": "object",
                            "description": "binary_data: whether it comes behind the JSON.",
                        },
                    },
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
_BINARY = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "JSON, and behind it the bytes of the tensors that have a binary_data_size, "
        "in their order and little-endian.",
    }
}
_HEADER_LENGTH = "Inference-Header-Content-Length"
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
    paths |= scan_schema.paths(_operation, _one_of(named["model"]))
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
        _describe_binary(infer)
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
    schemas = _SCHEMAS | scan_schema.SCHEMAS | rollout_paths.SCHEMAS | openai_schema.SCHEMAS
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
            "schemas": schemas,
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
            cells = (
                f"<code>{method.upper()} {html.escape(path)}</code>",
                html.escape(operation["summary"]),
                "<br>".join(map(html.escape, _taken(operation))),
                "<br>".join(map(html.escape, _given(operation))),
                ", ".join(operation["responses"]),
            )
            rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    heads = ("path", "what it does", "takes", "gives", "statuses")
    rows.insert(0, "".join(f"<th>{head}</th>" for head in heads))
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    errors = "".join(f"<tr><td>{code}</td><td>{text}</td></tr>" for code, text in _ERRORS.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Interlock</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}td,th{padding:.25rem 1rem .25rem 0;vertical-align:top;text-align:left}"
        "</style></head><body>"
        "<h1>Interlock</h1><p>Open Inference Protocol v2; OpenAI's API for text models. "
        "The machine-readable description is "
        '<a href="openapi.json">openapi.json</a>.</p>'
        f"<table>{table}</table><h2>Errors</h2><table>{errors}</table></body></html>"
    )


def _describe_binary(infer: dict[str, Any]) -> None:
    """Say of inference what the binary tensor extension adds to it."""
    length = {"type": "integer", "minimum": 0}
    infer["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("InferRequest")},
            "application/octet-stream": _BINARY,
        },
    }
    infer["parameters"] = [
        {
            "name": _HEADER_LENGTH,
            "in": "header",
            "description": "How many bytes of the body are JSON, where binary tensors follow; "
            "without it all of them are.",
            "schema": length,
        }
    ]
    answer = infer["responses"]["200"]
    answer["content"]["application/octet-stream"] = _BINARY
    answer["headers"] = {
        _HEADER_LENGTH: {
            "description": "How many bytes of the answer are JSON, where binary tensors follow.",
            "schema": length,
        }
    }


def _taken(operation: dict[str, Any]) -> list[str]:
    """Content types of a request, and what else it may have besides its path."""
    named = [f"{one['in']} {one['name']}" for one in operation.get("parameters", ())]
    return [*operation.get("requestBody", {}).get("content", ()), *named]


def _given(operation: dict[str, Any]) -> list[str]:
    """Content types of an answer, and its headers."""
    answer = operation["responses"]["200"]
    return [*answer["content"], *(f"header {name}" for name in answer.get("headers", ()))]


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
