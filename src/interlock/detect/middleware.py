"""ASGI middleware: the texts in a request's JSON body are judged before the application sees it.

    app = DetectorMiddleware(app, detector, paths=["/v1/chat/completions"])

Needs no framework; Starlette, FastAPI and any other ASGI application take it.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any

import msgspec

from interlock.detect.detector import Detector
from interlock.detect.policy import Action
from interlock.detect.request_texts import RequestText, texts_at
from interlock.detect.results import Detection
from interlock.kernel.errors import ConfigError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("interlock.detect")

CHAT_FIELDS = ("messages", "instructions", "input", "prompt")
"""Where chat requests keep their texts."""
HEADER = b"x-interlock-detector"
# White space, and what stands before and between the characters of other encodings.
_BEFORE_JSON = b" \t\r\n\x00\xef\xbb\xbf\xfe\xff"
_BEGINNINGS = (b"{", b"[")


class DetectorMiddleware:
    """Judges POST, PUT and PATCH requests whose body is JSON, whatever its content type says, since
    frameworks do not ask for it either; others pass untouched.

    paths      patterns of the request paths that are judged, such as `/v1/*`; all by default
    fields     where the texts are: keys joined by dots, `*` for every item of a list; everything
               below such a place that is a text is judged, whatever its key, but for names, links
               and encoded files. A message's `role` gives its place, and what a tool gave
               (`…_output`) is a document
    trusted    roles whose messages are not judged; none by default, since whoever sends a request
               may call a message `system`. Name those that your own code alone can write. With
               `system` or `developer` the field `instructions` is not judged either
    max_bytes, max_texts
               of a body, and in it; more is answered with 413
    concurrency
               requests that are judged at the same time; more wait

    A held text is answered with 403 and one line of JSON, without the text; `x-interlock-detector`
    names action and score. A flagged one goes on, with the action in `scope["state"]["detection"]`
    and in the same header of the answer. A body that is no JSON goes on as it is where the request
    does not claim to be JSON, and is answered with 400 where it does, as is an object with a key
    that stands twice; one with a content-encoding with 415, so what decodes it has to stand before
    this. The parts of a message are judged alone and together. Once a text is to be blocked, or the
    client has left, no further one is judged.
    """

    def __init__(
        self,
        app: App,
        detector: Detector,
        *,
        paths: Sequence[str] = ("*",),
        fields: Sequence[str] = CHAT_FIELDS,
        trusted: Sequence[str] = (),
        max_bytes: int = 4 << 20,
        max_texts: int = 256,
        concurrency: int = 4,
    ) -> None:
        """Raise ConfigError for what would judge nothing: no detector, no or misspelt paths and
        fields, a limit below 1.
        """
        if not isinstance(detector, Detector):
            raise ConfigError(f"detector is a {type(detector).__name__}; it must be a Detector")
        for name, several in (("paths", paths), ("fields", fields), ("trusted", trusted)):
            # A text is a sequence too, of patterns that fit nothing.
            if isinstance(several, str):
                raise ConfigError(f"{name} is {several!r}; it must be a list: [{several!r}]")
            if not several and name != "trusted":
                raise ConfigError(f"{name} is empty; no request would be judged")
        limits = {"max_bytes": max_bytes, "max_texts": max_texts, "concurrency": concurrency}
        for name, value in limits.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more")
        self._fields = [tuple(field.split(".")) for field in fields]
        if any(not key for field in self._fields for key in field):
            raise ConfigError(f"fields holds an empty key: {', '.join(fields)}")
        self._app = app
        self._detector = detector
        self._paths = tuple(paths)
        self._trusted = frozenset(trusted)
        self._max_bytes = max_bytes
        self._max_texts = max_texts
        self._slots = asyncio.Semaphore(concurrency)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not self._judges(scope):
            await self._app(scope, receive, send)
            return
        if _header_of(scope, b"content-encoding") not in (b"", b"identity"):
            # Read by something behind this, it would be JSON that nothing judged.
            await _refuse(send, 415, {"error": "a body with a content-encoding cannot be judged"})
            return
        claimed = _claims_json(scope)
        body, untouched = await _body(receive, self._max_bytes, claimed)
        if untouched:
            await self._app(scope, _replayed(untouched, receive), send)
            return
        if body is None:
            await _refuse(send, 413, {"error": f"the body has more than {self._max_bytes} bytes"})
            return
        try:
            document = _decoded(body, claimed)
            found = self._texts(document)
        except _TwiceError:
            await _refuse(send, 400, {"error": "an object in the body has the same key twice"})
            return
        except (ValueError, RecursionError):
            await _refuse(send, 400, {"error": "the body is no JSON, or nested too deeply"})
            return
        if found is None:
            await _refuse(send, 413, {"error": f"the body has more than {self._max_texts} texts"})
            return
        client = _Client(body, receive)
        try:
            worst, gone = await client.unless_gone(self._worst(found))
            if not gone:
                await self._answer(worst, scope, client.receive, send)
        finally:
            client.close()

    async def _answer(
        self, worst: Detection | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if worst is not None and worst.action in (Action.BLOCK, Action.ESCALATE):
            _log.info("request held: %s, text %s", worst.action.value, worst.digest)
            await _refuse(send, 403, _told(worst), _header(worst))
            return
        if worst is None:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["detection"] = worst

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _header(worst)]}
            await send(message)

        await self._app(scope, receive, send_marked)

    def _judges(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"].upper() not in ("POST", "PUT", "PATCH"):
            return False
        path: str = scope["path"]
        # Applications route by what follows the root path, where a server names one.
        known = {path, path.removeprefix(scope.get("root_path", ""))}
        return any(fnmatch.fnmatchcase(one, pattern) for one in known for pattern in self._paths)

    def _texts(self, document: Any) -> list[RequestText] | None:
        """Every text that is to be judged, None where they are too many."""
        found: list[RequestText] = []
        room = self._max_texts
        for field in self._fields:
            if field == ("instructions",) and self._trusted & {"system", "developer"}:
                continue
            for text in texts_at(document, field, self._trusted):
                room -= not text.joined
                if room < 0:
                    return None
                found.append(text)
        return found

    async def _worst(self, found: list[RequestText]) -> Detection | None:
        """The severest answer, None where there is no text to judge."""
        if not found:
            return None
        answers: list[Detection] = []
        async with self._slots:
            for one in found:
                answers.append(await self._detector.ascan(one.text, one.place))
                if answers[-1].action is Action.BLOCK:
                    break
        return max(answers, key=lambda answer: (answer.action.rank, answer.score or 0.0))


class _Client:
    """A client whose body was read, and what it says next, which is asked for while it is judged.

    A body can cost minutes: nothing more is judged for a client that left.
    """

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._next: asyncio.Future[Message] | None = None

    async def unless_gone(
        self, judging: Coroutine[Any, Any, Detection | None]
    ) -> tuple[Detection | None, bool]:
        """What `judging` gives, and whether the client left before."""
        self._next = asyncio.ensure_future(self._receive())
        task = asyncio.ensure_future(judging)
        try:
            await asyncio.wait({task, self._next}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._left():
                return None, True
            return await task, False
        finally:
            task.cancel()

    async def receive(self) -> Message:
        """The body, then what the client says next, for the application."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self._next is None:
            return await self._receive()
        # An application may stop waiting, and ask again.
        message = await asyncio.shield(self._next)
        self._next = None
        return message

    def close(self) -> None:
        """Stop waiting for the client."""
        if self._next is not None and not self._next.cancel() and not self._next.cancelled():
            self._next.exception()  # else asyncio complains that nobody looked

    def _left(self) -> bool:
        waiting = self._next
        if waiting is None or not waiting.done() or waiting.exception() is not None:
            return False
        return bool(waiting.result()["type"] == "http.disconnect")


def _header_of(scope: Scope, name: bytes) -> bytes:
    """The values of a header in lower case, joined by commas; empty without it."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return b",".join(values).strip().lower()


def _claims_json(scope: Scope) -> bool:
    kind = _header_of(scope, b"content-type").split(b";")[0].strip()
    return kind in (b"application/json", b"") or kind.endswith(b"+json")


def _decoded(body: bytes, claimed: bool) -> Any:
    """The JSON document; None for what neither is nor claims to be one. Raises ValueError."""
    if not body.strip():
        return None
    try:
        # What Python's own module reads, an application may read: other encodings, NaN. No number
        # is looked at, so none may be too long.
        return json.loads(body, object_pairs_hook=_once, parse_int=float)
    except ValueError as error:
        if claimed or isinstance(error, _TwiceError):
            raise
        return None


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two values one would be judged, and maybe the other read."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


async def _body(receive: Receive, most: int, claimed: bool) -> tuple[bytes | None, list[Message]]:
    """The whole body, None where it is too large; or the messages of what is not to be judged.

    That is what does not claim to be JSON and does not begin like it, and what the client left.
    """
    messages: list[Message] = []
    parts: list[bytes] = []
    size, judged = 0, claimed
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return None, [message]
        part = message.get("body", b"")
        size += len(part)
        parts.append(part)
        if not judged and (begins := part.lstrip(_BEFORE_JSON)[:1]):
            if begins not in _BEGINNINGS:
                return None, messages
            judged = True
        if size > most:
            return None, []
        if not message.get("more_body", False):
            return b"".join(parts), []


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    waiting = list(messages)

    async def receive_again() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return receive_again


def _told(found: Detection) -> dict[str, Any]:
    return {
        "error": "the request was held by the prompt-injection detector",
        "action": found.action.value,
        "score": found.score,
        "family": found.family,
        "reasons": list(found.reasons),
        "text": found.digest,
    }


def _header(found: Detection) -> tuple[bytes, bytes]:
    score = "none" if found.score is None else f"{found.score:.3f}"
    return HEADER, f"{found.action.value}; score={score}".encode()


async def _refuse(
    send: Send, status: int, document: dict[str, Any], *headers: tuple[bytes, bytes]
) -> None:
    body = msgspec.json.encode(document)
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*start, *headers]})
    await send({"type": "http.response.body", "body": body})
