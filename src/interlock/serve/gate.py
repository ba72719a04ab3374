"""What every request passes: an id, tokens, draining, the rate limit, a line of log, a count."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interlock.kernel.errors import (
    AuthenticationError,
    ConfigError,
    InterlockError,
    RateLimitError,
    ServiceError,
)
from interlock.kernel.limits import TokenBucket
from interlock.serve.connection import LEFT
from interlock.serve.metrics import Metrics
from interlock.serve.replies import CLIENT_GONE, GONE, error_reply, stopping
from interlock.serve.server_log import Log
from interlock.serve.settings import Settings

if TYPE_CHECKING:
    from interlock.serve.telemetry import Telemetry

# Asked by orchestrators and load balancers, which have no token; they say nothing of a model.
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})

ADMIN = "/v1/admin"
FEEDBACK = "/v1/feedback"

_MOST_CLIENTS = 10_000
_LEAST_TOKEN = 16


def has_admin(settings: Settings) -> bool:
    """Whether there is an admin API at all."""
    return settings.admin_token is not None or settings.admin_tokens_file is not None


class Tokens:
    """Bearer tokens, compared in constant time; none at all lets everybody pass."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(_digest(token.encode()) for token in tokens)

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """Those of the settings; raises ConfigError for a file that is unreadable or too open."""
        return cls(_read_tokens(settings.token, settings.tokens_file, "tokens_file"))

    @classmethod
    def of_admin(cls, settings: Settings) -> Tokens:
        """Those of the admin API, in the same way; none of it is open where there are none."""
        return cls(
            _read_tokens(settings.admin_token, settings.admin_tokens_file, "admin_tokens_file")
        )

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, authorization: bytes) -> bool:
        """Whether the header's value carries one of the tokens.

        Digests are compared, all of them: the time tells neither a prefix, nor a length, nor which.
        """
        if not self._digests:
            return True
        scheme, _, token = authorization.partition(b" ")
        digest = _digest(token.strip())
        matches = [hmac.compare_digest(digest, own) for own in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


class ClientRates:
    """A token bucket for each client address; of the many that may come, the last few thousand."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take one request of `client`; 0 where it may pass, else the seconds until one may."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > _MOST_CLIENTS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(client)
        return 0.0 if bucket.try_acquire() else max(bucket.delay(), 1e-3)


class RequestIds:
    """Random ids of 16 hexadecimal digits; a call of the system makes many of them."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def next(self) -> str:
        """One that was not given before, and that nobody can guess."""
        if not self._left:
            many = secrets.token_hex(8 * 256)
            self._left = [many[at : at + 16] for at in range(0, len(many), 16)]
        return self._left.pop()


class Gate:
    """Middleware around the whole application.

    Whatever is refused here or raised inside is answered, counted, logged and, with `telemetry`,
    traced; `draining` refuses all but the questions for health.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        tokens: Tokens,
        metrics: Metrics,
        log: Log,
        admin: Tokens | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._admin = admin or Tokens(())
        self._settings = settings
        self._rates = ClientRates(settings.rate, settings.burst)
        self._metrics = metrics
        self._log = log
        self._telemetry = telemetry
        self._ids = RequestIds()
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = self._ids.next()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if LEFT in state and status < 400:
                    status = GONE  # an error stays one, whoever reads it
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        code = ""
        try:
            self._admit(scope)
            await self._app(scope, receive, answer)
            code = state.get("code", "")
        except InterlockError as error:
            code = error.code
            if not status:
                await error_reply(error, path=scope["path"])(scope, receive, answer)
        except asyncio.CancelledError:
            # The time to drain is over.
            code = stopping().code
            if status:
                raise
            await error_reply(stopping(), path=scope["path"])(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - its text may quote what the client sent
            code = "internal"
            self._log("internal_error", request_id=request_id, error=type(error).__name__)
            if not status:
                fault = ServiceError("the server could not answer", wait_seconds=1.0)
                await error_reply(fault, path=scope["path"])(scope, receive, answer)
        finally:
            if LEFT in state:
                status, code = status or GONE, code or CLIENT_GONE
            seconds = time.perf_counter() - began
            self._record(state, status, code, seconds)
            if self._telemetry is not None:
                told = {**state, "code": code}
                self._telemetry.request(scope["headers"], told, status, seconds)

    def _admit(self, scope: Scope) -> None:
        """Raise the error for a request that goes no further."""
        if scope["path"] in OPEN_PATHS:
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        authorization = given[0] if len(given) == 1 else b""
        admin = self._is_admin(scope["path"])
        if admin:
            self._admit_admin(scope, authorization)
        elif not self._tokens.accept(authorization):
            raise AuthenticationError("a valid bearer token is needed", hint="")
        if self.draining and scope["path"] not in ("/health", "/metrics"):
            raise stopping()
        client = scope.get("client")
        # The admin may share an address with a client that floods, and must then roll back.
        wait = 0.0 if admin else self._rates.wait(client[0] if client else "")
        if wait:
            raise RateLimitError(
                "too many requests from this address",
                wait_seconds=wait,
                hint="come back after the seconds that Retry-After names",
            )

    def _is_admin(self, path: str) -> bool:
        """Whether a path is the admin API's, which has tokens of its own."""
        feedback = path == FEEDBACK and self._settings.feedback == "admin"
        return bool(self._admin) and (path.startswith(f"{ADMIN}/") or feedback)

    def _admit_admin(self, scope: Scope, authorization: bytes) -> None:
        client = scope.get("client")
        if not self._settings.admin_remote and not is_loopback(client[0] if client else ""):
            raise AuthenticationError(
                "the admin API answers this machine only", hint="admin_remote = true"
            )
        if not self._admin.accept(authorization):
            raise AuthenticationError("a valid admin token is needed", hint="")

    def _record(self, state: dict[str, object], status: int, code: str, seconds: float) -> None:
        endpoint = str(state.get("endpoint", "none"))
        model = str(state.get("model", ""))
        self._metrics.of(self._metrics.requests, endpoint, str(status)).inc()
        self._metrics.of(self._metrics.request_seconds, endpoint).observe(seconds)
        if code:
            self._metrics.of(self._metrics.errors, model, code).inc()
        self._log(
            "request",
            request_id=state["request_id"],
            endpoint=endpoint,
            model=model,
            status=status,
            code=code,
            outcome=state.get("outcome", ""),
            rows=state.get("rows", 0),
            seconds=round(seconds, 6),
        )


def _read_tokens(token: str | None, file: str | None, setting: str) -> list[str]:
    tokens = [] if token is None else [token]
    if file is None:
        return tokens
    path = Path(file)
    try:
        if path.stat().st_mode & 0o007:
            raise ConfigError(f"{setting} {path} is open to every user", hint=f"chmod o-rwx {path}")
        found = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ConfigError(f"{setting} {path} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{setting} {path} cannot be read: {error.strerror}") from None
    tokens += [line for line in found if line and not line.startswith("#")]
    if not tokens:
        raise ConfigError(f"{setting} {path} holds no token")
    if any(len(token) < _LEAST_TOKEN for token in tokens):
        raise ConfigError(f"{setting} {path}: a token has under {_LEAST_TOKEN} characters")
    return tokens


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool(address.is_loopback or (mapped is not None and mapped.is_loopback))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
