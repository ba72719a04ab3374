"""`/v1/scan`: texts for a detector, one, several, or a stream of lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from interlock.kernel.batch import BatchOutcome
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    ConfigError,
    EngineUnavailableError,
    InputError,
    InterlockError,
)
from interlock.kernel.outcome import Status, encode_json
from interlock.serve.detector_served import MOST_TEXTS, PLACE, TEXT, DetectorServed
from interlock.serve.hosting import Hosted, Hosting, UnknownModelError
from interlock.serve.lost import error_of
from interlock.serve.metrics import Metrics
from interlock.serve.offload import offload
from interlock.serve.oip_response import parameters_of
from interlock.serve.opening import kind_of
from interlock.serve.replies import (
    SlowClientError,
    TooLargeError,
    check_plain,
    described,
    error_reply,
    json_reply,
    stopping,
)
from interlock.serve.request_json import read_json
from interlock.serve.rollout.rollouts import Rollouts
from interlock.serve.served import Answer, step_document
from interlock.serve.settings import Settings
from interlock.serve.tensors import text_array

SCAN = "/v1/scan"
STREAM = "application/x-ndjson"


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str | None = None
    texts: list[str] | None = None
    place: Literal["auto", "user", "document"] = "auto"
    model: str | None = None
    id: str | None = None


_DECODER = msgspec.json.Decoder(_Asked)


class Scans:
    """The endpoint over the detectors of a server.

    read_body  a request's body within its limits
    client_of  what a canary knows a client by
    look_again finds out whether a model that lost its files has them back
    """

    def __init__(
        self,
        hosting: Hosting,
        rollouts: Rollouts,
        settings: Settings,
        metrics: Metrics,
        base: Path,
        *,
        read_body: Callable[[Request], Awaitable[bytes]],
        client_of: Callable[[Request, Hosted], str],
        look_again: Callable[[Hosted], Awaitable[None]],
    ) -> None:
        self._hosting = hosting
        self._rollouts = rollouts
        self._settings = settings
        self._metrics = metrics
        # By what they are and not by what runs, since one that failed to load is a detector, too.
        self._known = {
            name for name, hosted in hosting.models.items() if _is_detector(hosted, base)
        }
        self._read_body = read_body
        self._client_of = client_of
        self._look_again = look_again

    async def scan(self, request: Request) -> Response:
        """One text, several, or with the content type of NDJSON a stream."""
        state = request.scope["state"]
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == STREAM:
            check_plain(request)
            hosted = self._find(request.query_params.get("model"))
            state["model"] = hosted.name
            await self._require(hosted)
            return _Stream(self._stream(request, hosted))
        body = await self._read_body(request)
        began = time.perf_counter()
        asked = await offload(len(body), read_json, body, _DECODER)
        named = request.query_params.get("model")
        if named is not None and asked.model not in (None, named):
            raise InputError(f"model is {asked.model!r}, and {named!r} in the query")
        hosted = self._find(named if asked.model is None else asked.model)
        state["model"] = hosted.name
        self._metrics.stage(state, "decode", began)
        texts = [asked.text] if asked.text is not None else asked.texts
        if texts is None or (asked.text is not None and asked.texts is not None):
            raise InputError("give 'text' or 'texts', one of them")
        if not 0 < len(texts) <= MOST_TEXTS:
            raise InputError(
                f"texts has {len(texts)} texts; it must have 1 to {MOST_TEXTS}",
                hint=f"send a stream of lines with the content type {STREAM}",
            )
        state["rows"] = len(texts)
        request_id: str = state["request_id"]
        began = time.perf_counter()
        answer, digest = await self._ask(request, hosted, texts, asked.place, request_id)
        self._metrics.stage(state, "answer", began)
        state["outcome"] = str(answer.summary.status)
        if answer.lost:
            error = error_of(answer)
            state["code"] = error.code
            return error_reply(error, _parameters(answer, hosted, digest, request_id))
        head = {"request_id": request_id, "model": hosted.name}
        if asked.id is not None:
            head["id"] = asked.id
        began = time.perf_counter()
        if asked.text is not None:
            reply = json_reply(head | _row(answer, 0))
        else:
            rows = [{"row": number} | _row(answer, number) for number in range(len(texts))]
            reply = json_reply(head | {"status": str(answer.summary.status), "results": rows})
        self._metrics.stage(state, "encode", began)
        return reply

    def _find(self, name: str | None) -> Hosted:
        if name is not None:
            hosted = self._hosting.find(name)
            if name not in self._detectors():
                raise UnknownModelError(f"model '{hosted.name}' is no detector")
            return hosted
        found = [self._hosting.models[name] for name in sorted(self._detectors())]
        if not found:
            raise UnknownModelError("this server has no detector")
        if len(found) > 1:
            names = ", ".join(hosted.name for hosted in found)
            raise InputError(f"this server has several detectors: {names}", hint="name a model")
        return found[0]

    def _detectors(self) -> set[str]:
        """Also those whose files came after the start."""
        models = self._hosting.models.items()
        return self._known | {n for n, h in models if isinstance(h.served, DetectorServed)}

    async def _require(self, hosted: Hosted) -> None:
        await self._look_again(hosted)
        if not hosted.ready:
            why = "is loading" if hosted.error is None else f"failed: {hosted.error.code}"
            if hosted.stuck:
                why = "lost a process that cannot be replaced"
            raise EngineUnavailableError(f"model '{hosted.name}' {why}")

    async def _ask(
        self,
        request: Request,
        hosted: Hosted,
        texts: list[str],
        place: str,
        request_id: str,
        patience: float = 0.0,
    ) -> tuple[Answer, str]:
        """The answer, counted and remembered, and the digest of the version that gave it.

        patience  seconds to wait for a place in the queue
        """
        inputs = {TEXT: text_array(texts)}
        if place != "auto":
            inputs[PLACE] = text_array([place] * len(texts))
        pick = hosted.pick(self._client_of(request, hosted))
        try:
            deadline = Deadline.after(patience + hosted.settings.call_seconds)
            answer = await pick.ask(inputs, len(texts), deadline, patience=patience)
        finally:
            pick.leave()
        self._metrics.answered(hosted.name, len(texts), answer)
        if not answer.lost and self._settings.feedback != "off":
            self._rollouts.remember(request_id, hosted, pick, answer)
        return answer, pick.version.digest

    async def _stream(self, request: Request, hosted: Hosted) -> AsyncIterator[bytes]:
        """An answer a line, in order and as soon as it is there; a few lines are under way."""
        under_way: asyncio.Queue[asyncio.Task[bytes] | InterlockError | None]
        under_way = asyncio.Queue(2 * hosted.settings.workers)
        state = request.scope["state"]
        state["rows"] = 0

        async def read() -> None:
            try:
                async for line in self._lines(request):
                    number = state["rows"]
                    state["rows"] += 1
                    one = self._line(
                        request, hosted, line, number, f"{state['request_id']}-{number}"
                    )
                    await under_way.put(asyncio.ensure_future(one))
            except ClientDisconnect:
                pass
            except InterlockError as error:
                await under_way.put(error)
            await under_way.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (found := await under_way.get()) is not None:
                if isinstance(found, InterlockError):
                    # The head has been sent; what ends the stream is its last line.
                    state["code"] = found.code
                    yield _line_of({"line": state["rows"]} | _failed(found))
                else:
                    yield await found
        except asyncio.CancelledError:
            # The time to drain is over.
            error = stopping()
            state["code"] = error.code
            yield _line_of({"line": state["rows"]} | _failed(error))
        finally:
            reader.cancel()
            while not under_way.empty():
                left = under_way.get_nowait()
                if isinstance(left, asyncio.Task):
                    left.cancel()

    async def _line(
        self, request: Request, hosted: Hosted, line: bytes, number: int, request_id: str
    ) -> bytes:
        head: dict[str, Any] = {"line": number, "request_id": request_id, "model": hosted.name}
        try:
            asked = await offload(len(line), read_json, line, _DECODER)
            if asked.id is not None:
                head["id"] = asked.id
            if asked.text is None or asked.texts is not None or asked.model is not None:
                raise InputError("a line has 'text', and may have 'place' and 'id'")
            # A line waits where the queue is full; its sender waits with it.
            answer, _ = await self._ask(
                request, hosted, [asked.text], asked.place, request_id,
                patience=hosted.settings.call_seconds,
            )  # fmt: skip
            if answer.lost:
                raise error_of(answer)
        except InterlockError as error:
            self._metrics.of(self._metrics.errors, hosted.name, error.code).inc()
            return _line_of(head | _failed(error))
        return _line_of(head | _row(answer, 0))

    async def _lines(self, request: Request) -> AsyncIterator[bytes]:
        """The lines of the body that are not empty; a line has the limits that a body has."""
        limit = int(self._settings.body_mb * (1 << 20))
        parts = request.stream().__aiter__()
        line = bytearray()
        while True:
            try:
                async with asyncio.timeout(self._settings.body_seconds):
                    part = await anext(parts)
            except TimeoutError:
                raise SlowClientError("the next line did not arrive in time") from None
            except StopAsyncIteration:
                break
            *ended, rest = part.split(b"\n")
            for end in ended:
                _check_line(len(line) + len(end), limit)
                line += end
                found = bytes(line)
                line.clear()
                if found.strip():
                    yield found
            line += rest
            _check_line(len(line), limit)
        if (found := bytes(line)).strip():
            yield found


def _check_line(size: int, limit: int) -> None:
    if size > limit:
        raise TooLargeError(f"a line has more than {limit} bytes")


class _Stream(Response):
    """Lines as they come. Starlette's own would read the request's body, to see a client leave."""

    media_type = STREAM

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_detector(hosted: Hosted, base: Path) -> bool:
    try:
        return kind_of(hosted.settings, base) == "detector"
    except ConfigError:
        return False


def _row(answer: Answer, row: int) -> dict[str, Any]:
    """All that the detector says of a text, with the route's steps and the evidence."""
    assert isinstance(answer.outcome, BatchOutcome)
    single = answer.outcome.row(row)
    if single.status is Status.FAILED:
        return _failed(error_of(Answer(single, {})))
    found: dict[str, Any] = msgspec.json.decode(answer.detections[row].document)
    found["steps"] = [step_document(step) for step in single.steps]
    found["evidence"] = msgspec.to_builtins(single.evidence)
    return found


def _failed(error: InterlockError) -> dict[str, Any]:
    """Of a text that nobody judged."""
    return {"status": str(Status.FAILED)} | described(error)


def _parameters(answer: Answer, hosted: Hosted, digest: str, request_id: str) -> dict[str, Any]:
    served = hosted.served
    found = {} if served is None else parameters_of(answer, served, request_id)
    return found | {"digest": digest}


def _line_of(document: dict[str, Any]) -> bytes:
    return encode_json(document) + b"\n"
