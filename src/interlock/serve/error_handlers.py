"""What is answered where a request ends in an error of the tree, of HTTP, or in any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from interlock.kernel.errors import InterlockError, RequestRejectedError, ServiceError
from interlock.serve.replies import CLIENT_GONE, GONE, error_reply


class UnknownPathError(RequestRejectedError):
    """No such path."""

    code = "unknown_path"


async def _unknown(request: Request, error: Exception) -> Response:
    request.scope["state"]["code"] = UnknownPathError.code
    unknown = UnknownPathError("there is no such path", hint="GET /docs lists them")
    reply = error_reply(unknown, path=request.scope["path"])
    reply.status_code = 404
    return reply


async def _wrong_method(request: Request, error: Exception) -> Response:
    request.scope["state"]["code"] = "wrong_method"
    wrong = RequestRejectedError("the path does not take this method")
    reply = error_reply(wrong, path=request.scope["path"])
    reply.status_code = 405
    # Routes of one path may be several, and each knows its own methods.
    found = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    reply.headers["allow"] = ", ".join(sorted({m for route in found for m in route.methods}))
    return reply


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, InterlockError)
    request.scope["state"]["code"] = error.code
    return error_reply(error, path=request.scope["path"])


async def _client_gone(request: Request, error: Exception) -> Response:
    request.scope["state"]["code"] = CLIENT_GONE
    return Response(status_code=GONE)  # nobody reads it


async def _internal(request: Request, error: Exception) -> Response:
    """The gate, which the error reaches next, logs its type."""
    fault = ServiceError("the server could not answer", wait_seconds=1.0)
    return error_reply(fault, path=request.scope["path"])


HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    404: _unknown,
    405: _wrong_method,
    InterlockError: _refused,
    ConnectionError: _client_gone,
    Exception: _internal,
}
