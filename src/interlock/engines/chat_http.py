"""What the providers over HTTP have in common: connections, deadlines, and faults that get a type.

The vendors' SDKs send the requests; what came of one is told here, so that the same fault is the
same error whoever serves the model. Nothing that a service says in its own words gets into a
message, since it may quote the prompt or the key: only its status and names like `invalid_value`.
"""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import itertools
import logging
import math
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    EngineError,
    MalformedAnswerError,
    MissingExtraError,
    QuotaError,
    RateLimitError,
    RequestRejectedError,
    ServiceError,
)

T = TypeVar("T")
F = TypeVar("F")

CONNECT_SECONDS = 15.0
# How long a question about a model may take.
PREVIEW_SECONDS = 60.0
# The SDKs' connection pool looks at each of its connections for every request: several small
# pools cost less than a large one. A fifth of all CPU time at 100 open requests.
POOLS = 8
_ANSWERED = "interlock.answered"
_OWN_FIELDS = frozenset(
    [
        "model",
        "messages",
        "contents",
        "system",
        "systemInstruction",
        "system_instruction",
        "stream",
        "n",
        "candidateCount",
        "candidate_count",
        "max_tokens",
        "max_completion_tokens",
        "maxOutputTokens",
        "max_output_tokens",
        "temperature",
        "top_p",
        "topP",
        "top_k",
        "topK",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_sequences",
        "stopSequences",
        "logprobs",
        "top_logprobs",
        "responseLogprobs",
    ]
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z_.\[\]]{0,60}")

NONE = msgspec.Raw(b"null")
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
"""Tokens that a service counted; what lies outside is no count, and would spoil sums of money."""


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every provider over HTTP can be told.

    api_key      sent with each request; never logged
    base_url     another server, or a proxy, that speaks the same wire; None for the vendor's own
    unsupported  what becomes of a sampling parameter that the model does not take: `report` leaves
                 it out and says so in the answer's `not_applied`, `refuse` refuses the request
    extra_body   fields that are added to the body of each request as they are
    """

    api_key: str | None = None
    base_url: str | None = None
    unsupported: Literal["report", "refuse"] = "report"
    extra_body: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Without the key."""
        return f"{type(self).__name__}(base_url={self.base_url!r})"


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key that no debugger or log shows by accident."""

    text: str

    def __repr__(self) -> str:
        """Without the key."""
        return "Key(hidden)"


def require(package: str, extra: str, feature: str) -> None:
    """Raise MissingExtraError where `package` is not installed. Imports nothing of it."""
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise MissingExtraError(extra, feature)


def checked_key(provider: str, key: str | None, variable: str, *, own: bool = False) -> Key:
    """`key` without white space at its ends; raises ConfigError where there is none to send.

    own  the server is the vendor's own, so that without `key` the variable's goes to it
    """
    if key is None and own:
        key = os.environ.get(variable)
    key = (key or "").strip()
    if not key or key.startswith("${"):
        raise ConfigError(
            f"{provider}: no api_key",
            hint=f'set {variable} and write "api_key": "${{{variable}}}"',
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{provider}: api_key holds characters that no header can carry")
    return Key(key)


def checked_extra(provider: str, fields: Mapping[str, Any]) -> None:
    """Raise ConfigError for a field that the request has already.

    It would change in silence what records, budgets and reading the answer rest on.
    """
    nested = fields.get("generationConfig")
    for name in [*fields, *(nested if isinstance(nested, dict) else ())]:
        if name in _OWN_FIELDS:
            raise ConfigError(
                f"{provider}: extra_body holds {name}, which the request sets itself",
                hint="set it in the configuration of the model",
            )


def checked_url(provider: str, url: str | None) -> str | None:
    """`url` as given; raises ConfigError where it is no http or https URL, without quoting it.

    A configuration may write it as `${NAME}`, since it may hold a key.
    """
    if url is None:
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        # Looking at the port is what checks it.
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ConfigError(
            f"{provider}: base_url cannot be used; it must begin with http:// or https:// and a "
            "host, and a port is a number"
        )
    return url


def quiet(*loggers: str) -> None:
    """Keep an SDK from logging below WARNING: at DEBUG they log whole requests."""
    for name in (*loggers, "httpx2", "httpcore2"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def http_client() -> Any:
    """An httpx2.AsyncClient for one provider, without limits of its own.

    The caller bounds concurrency and time. Redirects are not followed: each would be a request.
    """
    import httpx2

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    # Reading the certificates takes longer than a request; the pools share them.
    context = httpx2.create_ssl_context()

    class Spread(httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """Deals requests out to several pools in turn."""

        def __init__(self) -> None:
            self._pools = [
                httpx2.AsyncHTTPTransport(limits=limits, verify=context) for _ in range(POOLS)
            ]
            self._turn = itertools.cycle(self._pools)

        async def handle_async_request(self, request: Any) -> Any:
            return await next(self._turn).handle_async_request(request)

        async def aclose(self) -> None:
            for pool in self._pools:
                await pool.aclose()

    async def mark(response: Any) -> None:
        response.request.extensions[_ANSWERED] = True

    # A client with a transport of its own ignores the proxies of the environment.
    proxied = any(urllib.request.getproxies().get(name) for name in ("http", "https", "all"))
    return httpx2.AsyncClient(
        transport=None if proxied else Spread(),
        verify=context,
        limits=limits,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        event_hooks={"response": [mark]},
        follow_redirects=False,
    )


class SdkClient:
    """An SDK's client over connections of ours; one for the event loop that uses it."""

    def __init__(self, make: Callable[[Any], Any], *loggers: str) -> None:
        """`make` gets an httpx2.AsyncClient; `loggers` are those of the SDK to keep quiet."""
        self._make = make
        self._loggers = loggers
        self._client: Any = None
        self._http: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> Any:
        """The client, made at the first use; imports the SDK.

        Raises ConfigError for a base_url that the SDK does not take.
        """
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            import httpx2

            # Connections belong to the event loop that opened them.
            self._loop = loop
            self._http = http_client()
            try:
                self._client = self._make(self._http)
            except httpx2.InvalidURL:
                # From None: the SDK's exception quotes a part of it.
                raise ConfigError("base_url cannot be used", hint="check base_url") from None
            quiet(*self._loggers)
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None and self._loop is asyncio.get_running_loop():
            await self._http.aclose()
        self._client = self._http = None


async def model_entry(
    call: Callable[[], Awaitable[T]],
    failed: Callable[[Exception], object],
    *,
    provider: str,
    unknown: Callable[[Exception], bool],
    optional: bool,
) -> T | None:
    """What a service's list of models says of one; None where it has no list and `optional` is set.

    `unknown` tells whether an error says, in the vendor's own words, that there is no such model.
    Raises what `failed` makes of an error.
    """

    def fault(error: Exception) -> EngineError | None:
        status = getattr(error, "status_code", getattr(error, "code", None))
        if optional and status in (404, 405) and not unknown(error):
            return None
        found = failed(error)
        return found if isinstance(found, EngineError) else None

    deadline = Deadline.after(PREVIEW_SECONDS)
    return await sent(call, fault, provider=provider, deadline=deadline)


async def sent(
    call: Callable[[], Awaitable[T]],
    failed: Callable[[Exception], EngineError | F],
    *,
    provider: str,
    deadline: Deadline,
) -> T | F:
    """What `call` returns within the deadline; what `failed` makes of its exception is raised.

    `failed` may also return an answer, where the vendor tells one by an error. Raises
    DeadlineError where the time ran out, before the request was sent or after.
    """
    deadline.check(provider)
    found: T | F | EngineError
    limit = asyncio.timeout(deadline.remaining())
    try:
        async with limit:
            found = await call()
    except TimeoutError as error:
        found = (
            DeadlineError(f"{provider}: no answer within the time; the request may be billed")
            if limit.expired()
            else failed(error)
        )
    except Exception as error:  # noqa: BLE001 - every failure of an SDK gets a type here
        found = failed(error)
    if isinstance(found, EngineError):
        # Outside of the handlers: the SDK's exception quotes the service, and must not stay
        # attached to ours as its context.
        raise found
    return found


def connection_fault(provider: str, error: BaseException) -> EngineError:
    """The error for a request that got no whole response."""
    import httpx2

    for cause in _chain(error):
        if isinstance(cause, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
            return RequestRejectedError(
                f"{provider}: base_url cannot be used", hint="check base_url"
            )
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            return ConnectionLostError(
                f"{provider}: no connection ({type(cause).__name__})",
                sent=False,
                hint="check the network, base_url and the proxy",
            )
        if isinstance(cause, httpx2.DecodingError | httpx2.TooManyRedirects):
            return MalformedAnswerError(f"{provider}: the answer cannot be decoded")
        if isinstance(cause, httpx2.TransportError):
            if _answered(cause):
                return MalformedAnswerError(f"{provider}: the answer was cut short")
            return ConnectionLostError(f"{provider}: connection lost ({type(cause).__name__})")
    # Of an exception that nobody expected, only the name is safe to tell.
    return EngineError(f"{provider}: the SDK raised {type(error).__name__}")


def status_fault(
    provider: str,
    status: int,
    *names: object,
    wait: float | None = None,
    quota: bool = False,
    key: bool = False,
) -> EngineError:
    """The error for a response that is no answer.

    `names` are the vendor's names for it; those that look like names are told. `quota` and `key`
    say that the vendor told of an empty account or a wrong key by them, whatever the status.
    """
    told = [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
    text = f"{provider}: HTTP {status}" + (f" ({', '.join(told)})" if told else "")
    if quota or status == 402:
        return QuotaError(text)
    if key or status in (401, 403, 407):
        return AuthenticationError(text)
    if status == 429:
        return RateLimitError(text, wait_seconds=wait)
    if status >= 500 or status in (408, 409, 425):
        return ServiceError(text, wait_seconds=wait)
    if status >= 400:
        hint = "check the model's name and base_url" if status in (404, 405) else None
        return RequestRejectedError(text, hint=hint)
    return MalformedAnswerError(f"{text}, which is no answer")


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: retry-after-ms, Retry-After as seconds or as a date.

    None where there is no such header, or none that can be read.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    if told is None:
        return None
    seconds = _number(told)
    if seconds is not None:
        return seconds
    moment = _moment(told)
    if moment is None:
        return None
    # The server's clock counts, not this machine's, where it tells the time.
    now = _moment(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (moment - now).total_seconds())


def decoded(body: bytes | str, schema: type[T], provider: str, content_type: str = "") -> T:
    """`body` as `schema`; raises MalformedAnswerError where it is none."""
    try:
        return msgspec.json.decode(body, type=schema)
    except msgspec.ValidationError:
        problem = "is not what the service documents"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    except msgspec.DecodeError:
        kind = content_type.partition(";")[0].strip().lower()
        problem = "is empty" if not body else "is not JSON"
        if kind == "text/html":
            problem = "is an HTML page, as proxies and captive portals send"
    raise MalformedAnswerError(f"{provider}: the answer {problem}")


def decoded_part(part: msgspec.Raw, schema: type[T]) -> T | None:
    """A part of an answer that the answer stands without; None where it is not as documented.

    The text was paid for, and is not lost because of what comes with it.
    """
    try:
        return msgspec.json.decode(part, type=schema)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _moment(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, at most ten deep."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _answered(error: Any) -> bool:
    """Whether the response's head had come when the connection failed."""
    try:
        return bool(error.request.extensions.get(_ANSWERED))
    except RuntimeError:
        return False
