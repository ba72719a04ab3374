"""The OpenAPI description of feedback and of the admin API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Operation = Callable[..., dict[str, Any]]

_TEXT = {"type": "string"}
_NULLABLE = {"type": ["string", "null"]}
_LABEL = {
    "type": "object",
    "required": ["request_id", "label"],
    "additionalProperties": False,
    "properties": {
        "request_id": _TEXT,
        "label": {"enum": ["positive", "negative"], "description": "What would have been right."},
        "row": {"type": "integer", "minimum": 0, "default": 0},
    },
}
SCHEMAS: dict[str, Any] = {
    "Label": _LABEL,
    "Feedback": {
        "oneOf": [
            {"$ref": "#/components/schemas/Label"},
            {
                "type": "object",
                "required": ["labels"],
                "additionalProperties": False,
                "properties": {
                    "labels": {
                        "type": "array",
                        "maxItems": 1000,
                        "items": {"$ref": "#/components/schemas/Label"},
                    }
                },
            },
        ]
    },
    "RolloutStart": {
        "type": "object",
        "required": ["path"],
        "additionalProperties": False,
        "properties": {
            "path": {"type": "string", "description": "Inside the configuration's directory."},
            "digest": _NULLABLE,
            "mode": {"enum": ["shadow", "canary", None]},
            "percent": {"type": ["number", "null"], "minimum": 0.01, "maximum": 99},
        },
    },
    "RolloutEnd": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"reason": {"type": "string", "minLength": 1, "maxLength": 500}},
    },
    "RolloutRollback": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "reason": {"type": "string", "minLength": 1, "maxLength": 500},
            "previous": {
                "type": "boolean",
                "default": False,
                "description": "To the version before this one, also after a rollback.",
            },
        },
    },
    "Reload": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"path": _NULLABLE, "digest": _NULLABLE},
    },
}
_OBJECT = {"type": "object"}
_ERRORS = ("400", "401", "404", "408", "409", "413", "422", "429", "503")


def feedback(operation: Operation) -> dict[str, Any]:
    """The paths of labels."""
    label = operation("Label an answer by its request id", _OBJECT, _ERRORS)
    return {"/v1/feedback": {"post": _with_body(label, "Feedback")}}


def admin(operation: Operation, model: dict[str, Any]) -> dict[str, Any]:
    """The paths of rollouts and reloads; `model` is the schema of a model's name."""
    rollout = "/v1/admin/models/{model}/rollout"
    read = ("401", "404", "429", "503")
    found: dict[str, Any] = {
        rollout: {
            "get": operation("A model's rollout", _OBJECT, read),
            "post": _with_body(
                operation("Start a rollout, or change its mode", _OBJECT, _ERRORS), "RolloutStart"
            ),
        },
        f"{rollout}/promote": {
            "post": _with_body(operation("Promote", _OBJECT, _ERRORS), "RolloutEnd")
        },
        f"{rollout}/rollback": {
            "post": _with_body(operation("Roll back", _OBJECT, _ERRORS), "RolloutRollback")
        },
        "/v1/admin/models/{model}/reload": {
            "post": _with_body(operation("Load a model again", _OBJECT, _ERRORS), "Reload")
        },
    }
    for operations in found.values():
        operations["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": model}
        ]
    return {
        "/v1/admin/rollouts": {"get": operation("All rollouts", _OBJECT, ("401", "429", "503"))}
    } | found


def _with_body(operation: dict[str, Any], schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    operation["requestBody"] = {"required": True, "content": content}
    return operation
