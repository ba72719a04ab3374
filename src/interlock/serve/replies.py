"""Errors as HTTP: one status for each kind, and a body that the protocol's clients can read."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from interlock.kernel.errors import (
    AuthenticationError,
    DeadlineError,
    EngineUnavailableError,
    InputError,
    InterlockError,
    RateLimitError,
    RequestRejectedError,
    ServiceError,
    StorageError,
    TransientError,
)
from interlock.serve.hosting import UnknownModelError
from interlock.serve.oip_response import UnanswerableError
from interlock.serve.openai_reply import error_document, is_openai
from interlock.serve.rollout.recent import ConflictError, UnknownRequestError

GONE, CLIENT_GONE = 499, "client_gone"
"""Status and code of a request whose client left before its answer, for the log and the metrics."""


class TooLargeError(InputError):
    """The request's body is above the limit."""

    code = "too_large"


class SlowClientError(InputError):
    """The request did not arrive in time."""

    code = "slow_client"


class UnsupportedError(RequestRejectedError):
    """The request uses a feature of HTTP that the server does not take."""

    code = "unsupported"


def stopping() -> ServiceError:
    """The error of what is not answered since the server was told to stop."""
    return ServiceError("the server is stopping", wait_seconds=5.0)


def check_plain(request: Request) -> None:
    """Raise UnsupportedError for a body that is compressed, which may unpack to anything."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedError("compressed bodies are not accepted")


def status_of(error: InterlockError) -> int:
    """The HTTP status of an error.

    What a later attempt may mend is 429 or 503, with Retry-After; what the same request would
    meet again is 4xx, also where a model failed on it.
    """
    for kind, status in (
        (UnanswerableError, 422),
        (TooLargeError, 413),
        (SlowClientError, 408),
        (InputError, 400),
        (AuthenticationError, 401),
        (UnknownModelError, 404),
        (UnknownRequestError, 404),
        (ConflictError, 409),
        (StorageError, 503),
        (RateLimitError, 429),
        (DeadlineError, 504),
        (EngineUnavailableError, 503),
    ):
        if isinstance(error, kind):
            return status
    return 503 if error.retryable else 422


def described(error: InterlockError) -> dict[str, Any]:
    """`{"error": message, "code", "hint", "retryable"}`."""
    return {
        "error": error.message,
        "code": error.code,
        "hint": error.hint,
        "retryable": error.retryable or status_of(error) == 503,
    }


def error_reply(
    error: InterlockError, parameters: dict[str, Any] | None = None, *, path: str = ""
) -> Response:
    """`{"error": message, "code", "hint", "retryable"}`, and what an outcome has to say.

    On the paths of OpenAI's API, the shape that its clients read.
    """
    status = status_of(error)
    document = described(error)
    if is_openai(path):
        document = error_document(error, status, document["retryable"])
    if parameters:
        document["parameters"] = parameters
    reply = json_reply(document, status)
    if status in (429, 503):
        wait = error.wait_seconds if isinstance(error, TransientError) else None
        reply.headers["retry-after"] = str(max(1, math.ceil(wait or 1.0)))
    if status == 401:
        reply.headers["www-authenticate"] = "Bearer"
    if status in (408, 413):
        # What is left of the body is not worth reading.
        reply.headers["connection"] = "close"
    return reply


def json_reply(document: Any, status: int = 200) -> Response:
    """A JSON document."""
    return Response(msgspec.json.encode(document), status, media_type="application/json")
