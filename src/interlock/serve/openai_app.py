"""The endpoints of OpenAI's API over the server's text models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from interlock.engines.generate.request import GenerateRequest, GenerateResult
from interlock.engines.generate.stream_process import Event, Ticket
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError, InputError, InterlockError
from interlock.serve.hosting import Hosted, Hosting, UnknownModelError
from interlock.serve.metrics import Metrics
from interlock.serve.offload import offload
from interlock.serve.openai_reply import Reply, error_document, event
from interlock.serve.openai_request import FieldError, TextAsked, read_chat, read_completion
from interlock.serve.replies import CLIENT_GONE, json_reply, status_of, stopping
from interlock.serve.rollout.traffic import Pick
from interlock.serve.served import Answer
from interlock.serve.text_served import TextServed, failed, outcome_of

Endpoint = Callable[[Request], Awaitable[Response]]
_MODELS = "GET /v1/models lists the models that write texts"


class TextEndpoints:
    """`/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

    def __init__(
        self,
        hosting: Hosting,
        metrics: Metrics,
        read_body: Callable[[Request], Awaitable[bytes]],
        client_of: Callable[[Request, Hosted], str],
    ) -> None:
        self._hosting = hosting
        self._metrics = metrics
        self._read_body = read_body
        self._client_of = client_of

    def routes(self) -> tuple[tuple[str, Endpoint, str, str], ...]:
        """Path, handler, name and method of each."""
        return (
            ("/v1/chat/completions", self.chat, "chat_completions", "POST"),
            ("/v1/completions", self.completion, "completions", "POST"),
            ("/v1/models", self.models, "text_models", "GET"),
            ("/v1/models/{model}", self.model, "text_model", "GET"),
        )

    async def models(self, request: Request) -> Response:
        """The text models that are ready."""
        found = [self._described(h) for h in self._hosting.models.values() if _texts(h)]
        return json_reply({"object": "list", "data": found})

    async def model(self, request: Request) -> Response:
        """One of them."""
        hosted = self._named(request.path_params["model"])
        if hosted.served is None:
            # What else it does is not known yet; a request is told why.
            hosted.pick("").leave()
        if not _texts(hosted):
            raise UnknownModelError(f"model '{hosted.name}' writes no texts", hint=_MODELS)
        return json_reply(self._described(hosted))

    async def chat(self, request: Request) -> Response:
        """An answer to messages."""
        body = await self._read_body(request)
        # The model is named in the body, and its own limit counts where the body names none.
        asked = await offload(len(body), read_chat, body, 1)
        hosted, pick = self._find(request, asked)
        served = _texts_of(pick)
        try:
            if not served.chat:
                raise FieldError(
                    "model",
                    f"model '{hosted.name}' has no chat template",
                    hint="ask /v1/completions, or serve an instruction-tuned model",
                )
            if not asked.limited:
                limit = served.settings.answer_tokens
                asked = replace(asked, sampling=replace(asked.sampling, max_tokens=limit))
        except BaseException:
            pick.leave()
            raise
        return await self._answer(request, hosted, pick, asked)

    async def completion(self, request: Request) -> Response:
        """What continues a text."""
        body = await self._read_body(request)
        asked = await offload(len(body), read_completion, body)
        hosted, pick = self._find(request, asked)
        return await self._answer(request, hosted, pick, asked)

    def _find(self, request: Request, asked: TextAsked) -> tuple[Hosted, Pick]:
        hosted = self._named(asked.model)
        request.scope["state"]["model"] = hosted.name
        if hosted.served is not None and not _texts(hosted):
            raise UnknownModelError(f"model '{hosted.name}' writes no texts", hint=_MODELS)
        return hosted, hosted.pick(self._client_of(request, hosted))

    def _named(self, name: str) -> Hosted:
        try:
            return self._hosting.find(name)
        except UnknownModelError as error:
            raise UnknownModelError(error.message, hint=_MODELS) from None

    def _described(self, hosted: Hosted) -> dict[str, Any]:
        served = hosted.served
        assert isinstance(served, TextServed)
        assert served.described is not None
        told = served.described
        return {
            "id": hosted.name,
            "object": "model",
            "created": 0,
            "owned_by": "interlock",
            "interlock": {
                "digest": told.digest,
                "family": told.family,
                "weights": told.weights,
                "context": told.context,
                "chat": told.chat,
            },
        }

    async def _answer(
        self, request: Request, hosted: Hosted, pick: Pick, asked: TextAsked
    ) -> Response:
        """The answer of the version that was picked; leaves it when the text has ended."""
        served = _texts_of(pick)
        state = request.scope["state"]
        state["rows"] = 1
        limit = served.settings.text_seconds
        deadline = Deadline.after(min(limit, asked.seconds or limit))
        try:
            running = _Running(served, _request(asked, deadline), pick)
        except BaseException as error:
            if isinstance(error, EngineError):  # a full queue is the version's, a mistake is not
                pick.note(error=True, seconds=0.0)
            pick.leave()
            raise
        reply = Reply(asked, served.version, state["request_id"], int(time.time()))

        def ended(found: GenerateResult | InterlockError) -> Any:
            if isinstance(found, InterlockError):
                outcome = failed(hosted.name, found, running.seconds)
                state["code"] = found.code
                if not isinstance(found, InputError):  # which is the client's
                    pick.note(error=True, seconds=running.seconds)
            else:
                pick.note(error=False, seconds=running.first_seconds)
                outcome = outcome_of(hosted.name, served.version, found)
                self._metrics.wrote(hosted.name, found)
            state["outcome"] = str(outcome.status)
            self._metrics.answered(hosted.name, 1, Answer(outcome, {}))
            return outcome

        try:
            # An error that comes first is a reply with its own status, also to who wants a stream.
            first = await running.next(request.receive)
            if asked.stream and not isinstance(first, InterlockError):
                return _Stream(running, first, reply, ended)
            while isinstance(first, str):
                first = await running.next(request.receive)
        except BaseException:
            running.left()
            raise
        running.cancel()
        outcome = ended(first)
        if isinstance(first, InterlockError):
            raise first
        return json_reply(reply.whole(first, outcome))


class _Running:
    """A text under way, its events on the loop, and the end of its client's connection.

    first_seconds  from the request to the first event
    """

    def __init__(self, served: TextServed, asked: GenerateRequest, pick: Pick) -> None:
        self._served = served
        self._pick = pick
        self._began = time.perf_counter()
        self.first_seconds = 0.0
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._left: asyncio.Future[Any] | None = None
        loop = asyncio.get_running_loop()

        def told(found: Event) -> None:
            self.first_seconds = self.first_seconds or self.seconds
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, found)

        self._ticket: Ticket | None = served.ask(asked, told)

    @property
    def seconds(self) -> float:
        """Since it was asked."""
        return time.perf_counter() - self._began

    async def next(self, receive: Receive) -> Event:
        """The next event; raises ConnectionResetError, and ends the text, where the client left."""
        if not self._events.empty():
            return self._events.get_nowait()
        if self._left is None:
            # The body is read, so what comes now is the connection's end.
            self._left = asyncio.ensure_future(receive())
        found = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait({found, self._left}, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                raise ConnectionResetError
            return found.result()
        finally:
            found.cancel()

    def left(self) -> None:
        """The client left before the text's end."""
        if self._ticket is not None:
            self._pick.left(self.first_seconds or self.seconds)
        self.cancel()

    def cancel(self) -> None:
        """End the text, where it did not end yet, and leave its version."""
        if self._left is not None:
            self._left.cancel()
        if self._ticket is not None:
            self._served.process.cancel(self._ticket)
            self._ticket = None
            self._pick.leave()


class _Stream(Response):
    """The text as server-sent events; ends the text where its client leaves."""

    def __init__(
        self,
        running: _Running,
        first: Event,
        reply: Reply,
        ended: Callable[[GenerateResult | InterlockError], Any],
    ) -> None:
        super().__init__(media_type="text/event-stream; charset=utf-8")
        del self.headers["content-length"]
        # A proxy that collects the answer first would make the stream pointless.
        self.headers["x-accel-buffering"] = "no"
        self._running = running
        self._first = first
        self._reply = reply
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def part(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            found, data = self._first, self._reply.opening()
            while isinstance(found, str):
                await part(data + self._reply.piece(found))
                data = b""
                found = await self._running.next(receive)
            outcome = self._ended(found)
            if isinstance(found, InterlockError):
                await part(data + _error_event(found), more=False)
            else:
                await part(data + self._reply.closing(found, outcome), more=False)
        except asyncio.CancelledError:
            # The time to drain is over.
            scope["state"]["code"] = stopping().code
            await part(_error_event(stopping()), more=False)
        except ConnectionError:
            scope["state"]["code"] = CLIENT_GONE
            self._running.left()
        finally:
            self._running.cancel()


def _error_event(error: InterlockError) -> bytes:
    status = status_of(error)
    return event(error_document(error, status, error.retryable or status == 503))


def _texts_of(pick: Pick) -> TextServed:
    served = pick.version.served
    # Another version has the interface of the first, and only text models have this one.
    assert isinstance(served, TextServed)
    return served


def _texts(hosted: Hosted) -> bool:
    return isinstance(hosted.served, TextServed)


def _request(asked: TextAsked, deadline: Deadline) -> GenerateRequest:
    prompt, sampling = asked.prompt, asked.sampling
    if asked.kind == "chat":
        return GenerateRequest(messages=prompt, sampling=sampling, deadline=deadline)  # type: ignore[arg-type]
    if isinstance(prompt, str):
        return GenerateRequest(text=prompt, sampling=sampling, deadline=deadline)
    return GenerateRequest(prompt_tokens=prompt, sampling=sampling, deadline=deadline)  # type: ignore[arg-type]
