"""The endpoints: Open Inference Protocol v2, health, metrics and their description; OpenAI's are
in openai_app.py.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from interlock.kernel.clock import Deadline
from interlock.kernel.errors import InterlockError
from interlock.serve import openapi
from interlock.serve.admin import Admin
from interlock.serve.error_handlers import HANDLERS
from interlock.serve.gate import ADMIN, FEEDBACK, has_admin
from interlock.serve.health import worst
from interlock.serve.hosting import Hosted, Hosting
from interlock.serve.lost import error_of
from interlock.serve.metrics import Metrics
from interlock.serve.offload import offload
from interlock.serve.oip_request import read_request
from interlock.serve.oip_response import (
    HEADER_LENGTH,
    Encoded,
    UnanswerableError,
    check_outputs,
    encode_answer,
    model_metadata,
    parameters_of,
    server_metadata,
)
from interlock.serve.openai_app import TextEndpoints
from interlock.serve.replies import (
    SlowClientError,
    TooLargeError,
    check_plain,
    error_reply,
    json_reply,
)
from interlock.serve.rollout.rollouts import Rollouts
from interlock.serve.scan import SCAN, Scans
from interlock.serve.settings import Settings
from interlock.serve.text_served import TextServed

# Apart from the threads that large bodies and metrics need: a canary may hang for seconds.
_CANARIES = ThreadPoolExecutor(16, "interlock-canary")
_UNWATCHED = 0.05
"""Seconds of a request that should be quick in which nobody looks whether its client left."""

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


class Endpoints:
    """The handlers over a server's models."""

    def __init__(
        self, hosting: Hosting, rollouts: Rollouts, settings: Settings, metrics: Metrics, base: Path
    ) -> None:
        self._hosting = hosting
        self._rollouts = rollouts
        self._admin = Admin(hosting, rollouts, base, self._body)
        self._scans = Scans(
            hosting,
            rollouts,
            settings,
            metrics,
            base,
            read_body=self._body,
            client_of=self._client,
            look_again=self._look_again,
        )
        self._settings = settings
        self._metrics = metrics
        self.draining = False

    def app(self) -> Starlette:
        """The application, without its gate."""
        model = "/v2/models/{model}"
        texts = TextEndpoints(self._hosting, self._metrics, self._body, self._client)
        versions = (model, model + "/versions/{version}")
        # Routes are looked at one after the other, so what is asked most comes first.
        routes = [
            *(self._route(f"{path}/infer", self.infer, "infer", "POST") for path in versions),
            self._route(SCAN, self._scans.scan, "scan", "POST"),
            *(self._route(*each) for each in texts.routes()),
            self._route("/v2/health/live", self.live, "live"),
            self._route("/v2/health/ready", self.ready, "ready"),
            self._route("/v2", self.server, "server"),
            self._route("/v2/models", self.models, "models"),
            *(
                self._route(prefix + path, handler, name)
                for prefix in versions
                for path, handler, name in (
                    ("", self.model, "model"),
                    ("/ready", self.model_ready, "model_ready"),
                )
            ),
            self._route("/health", self.health, "health"),
            self._route("/metrics", self.metrics, "metrics"),
            self._route("/openapi.json", self.openapi, "openapi"),
            self._route("/docs", self.docs, "docs"),
        ]
        if self._settings.feedback != "off":
            routes.append(self._route(FEEDBACK, self._admin.feedback, "feedback", "POST"))
        if has_admin(self._settings):
            rollout = f"{ADMIN}/models/{{model}}/rollout"
            routes += [
                self._route(path, handler, name, method)
                for path, handler, name, method in (
                    (f"{ADMIN}/rollouts", self._admin.overview, "rollouts", "GET"),
                    (rollout, self._admin.status, "rollout", "GET"),
                    (rollout, self._admin.start, "rollout_start", "POST"),
                    (f"{rollout}/promote", self._admin.promote, "rollout_promote", "POST"),
                    (f"{rollout}/rollback", self._admin.roll_back, "rollout_rollback", "POST"),
                    (f"{ADMIN}/models/{{model}}/reload", self._admin.reload, "reload", "POST"),
                )
            ]
        app = Starlette(routes=routes, exception_handlers=HANDLERS)
        # A path with a slash more is none; the address to go to would be the client's own word.
        app.router.redirect_slashes = False
        return app

    def _route(self, path: str, handler: Endpoint, name: str, method: str = "GET") -> Route:
        @functools.wraps(handler)
        async def answer(request: Request) -> Response:
            request.scope["state"]["endpoint"] = name
            return await handler(request)

        route = Route(path, answer, methods=[method], name=f"{name} {path}")
        # `$` lets a line break follow, and such a path is another one to the gate.
        route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
        return route

    async def live(self, request: Request) -> Response:
        """Whether the process answers at all."""
        return json_reply({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether every model passed its self-test, and the server is not stopping."""
        await self._look_again(*self._hosting.models.values())
        ready = self._hosting.ready and not self.draining
        return json_reply({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        """The server's metadata."""
        return json_reply(server_metadata())

    async def models(self, request: Request) -> Response:
        """Names of all models, and whether they are ready."""
        found = [{"name": m.name, "ready": m.ready} for m in self._hosting.models.values()]
        return json_reply({"models": found})

    async def model(self, request: Request) -> Response:
        """A model's metadata."""
        hosted = self._find(request)
        pick = hosted.pick("", request.path_params.get("version") or "")
        try:
            found = model_metadata(pick.version.served)
        finally:
            pick.leave()
        candidate = pick.traffic.candidate
        if candidate is not None and "version" not in request.path_params:
            found["versions"].append(candidate.digest)
        return json_reply(found)

    async def model_ready(self, request: Request) -> Response:
        """Whether a model is ready."""
        hosted = self._find(request)
        await self._look_again(hosted)
        ready = hosted.ready and not self.draining
        return json_reply({"name": hosted.name, "ready": ready}, 200 if ready else 503)

    async def _look_again(self, *models: Hosted) -> None:
        """Ask canaries of models that lost their files: where these are back, so is the model."""
        loop = asyncio.get_running_loop()
        stuck = [hosted for hosted in models if hosted.stuck]
        await asyncio.gather(*(loop.run_in_executor(_CANARIES, h.health) for h in stuck))

    async def health(self, request: Request) -> Response:
        """The canaries' word: of one model as it is, of several the worst and each one's."""
        hosted = list(self._hosting.models.values())
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(*(loop.run_in_executor(_CANARIES, h.health) for h in hosted))
        for one in found:
            if one.latency_ms is not None:
                self._metrics.canary_seconds.labels(one.model).set(one.latency_ms / 1e3)
        word = worst(found)
        status = 503 if word == "unhealthy" else 200
        if len(found) == 1:
            return json_reply(found[0].document(), status)
        slowest = [h.latency_ms for h in found if h.latency_ms is not None]
        document: dict[str, object] = {"status": word}
        if slowest:
            document["latency_ms"] = max(slowest)
        document["models"] = [h.document() for h in found]
        return json_reply(document, status)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format."""
        text = await asyncio.get_running_loop().run_in_executor(None, self._metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI description."""
        models = {
            name: "" if hosted.served is None else hosted.served.version
            for name, hosted in self._hosting.models.items()
        }
        settings = self._settings
        found = openapi.document(
            models, admin=has_admin(settings), feedback=settings.feedback != "off"
        )
        return json_reply(found)

    async def docs(self, request: Request) -> Response:
        """The same as a page that loads nothing else."""
        page = openapi.page()
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return Response(page, media_type="text/html", headers={"content-security-policy": policy})

    async def infer(self, request: Request) -> Response:
        """One inference request."""
        state = request.scope["state"]
        hosted = self._find(request)
        settings = hosted.settings
        writes = isinstance(hosted.served, TextServed)
        seconds = settings.text_seconds if writes else settings.call_seconds
        body = await self._body(request)
        pick = hosted.pick(self._client(request, hosted), request.path_params.get("version"))
        try:
            # Before the body is read for its tensors: refusing must cost little under overload.
            pick.check_room()
            began = time.perf_counter()
            header = request.headers.get(HEADER_LENGTH)
            asked = await offload(len(body), read_request, body, header)
            served = pick.version.served
            rows = served.check(asked.inputs)
            check_outputs(asked, served)
            self._metrics.stage(state, "decode", began)
            deadline = Deadline.after(min(seconds, asked.seconds or seconds))
            state["rows"] = rows
            began = time.perf_counter()
            lane = pick.version.lane
            busy, unwatched = lane.busy, 0.0 if lane.waits_long else _UNWATCHED
            asking = pick.ask(asked.inputs, rows, deadline)
            # Watching a connection costs more than a quick answer, so only one that waits is.
            answer = await (_while_connected(request, asking, unwatched) if busy else asking)
            self._metrics.stage(state, "answer", began)
        finally:
            pick.leave()
        state["outcome"] = str(answer.summary.status)
        self._metrics.answered(hosted.name, rows, answer)
        parameters = functools.partial(parameters_of, answer, served, state["request_id"])
        if answer.lost:
            return self._refuse(state, error_of(answer), parameters())
        if self._settings.feedback != "off":
            self._rollouts.remember(state["request_id"], hosted, pick, answer)
        began = time.perf_counter()
        size = sum(array.nbytes for array in answer.outputs.values())
        try:
            found = await offload(size, encode_answer, answer, asked, served, state["request_id"])
        except UnanswerableError as error:
            return self._refuse(state, error, parameters())
        self._metrics.stage(state, "encode", began)
        return _encoded(found)

    def _client(self, request: Request, hosted: Hosted) -> str:
        """What a canary knows a client by; empty where nobody asks."""
        traffic = hosted.traffic
        if traffic is None or traffic.watch is None:
            return ""
        if hosted.settings.sticky == "request":
            return str(request.scope["state"]["request_id"])
        named = request.headers.get(self._settings.client_header)
        return named or (request.client.host if request.client else "")

    def _find(self, request: Request) -> Hosted:
        hosted = self._hosting.find(
            request.path_params["model"], request.path_params.get("version")
        )
        request.scope["state"]["model"] = hosted.name
        return hosted

    def _refuse(
        self, state: dict[str, Any], error: InterlockError, parameters: dict[str, Any]
    ) -> Response:
        state["code"] = error.code
        return error_reply(error, parameters)

    async def _body(self, request: Request) -> bytes:
        """The body, within its limits of size and time."""
        check_plain(request)
        limit = int(self._settings.body_mb * (1 << 20))
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise TooLargeError(f"the body has {declared} bytes; up to {limit} are accepted")
        parts: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for part in request.stream():
                    total += len(part)
                    if total > limit:
                        raise TooLargeError(f"the body has more than {limit} bytes")
                    parts.append(part)
        except TimeoutError:
            raise SlowClientError("the body did not arrive in time") from None
        except ClientDisconnect:
            raise ConnectionResetError from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _while_connected(request: Request, asking: Coroutine[Any, Any, T], unwatched: float) -> T:
    """What `asking` comes to; raises ConnectionResetError, ending it, where the client leaves.

    For `unwatched` seconds nobody looks whether it did: a task costs more than a quick answer.
    """
    own = asyncio.current_task()
    assert own is not None
    watching: asyncio.Task[None] | None = None
    left = False

    async def watch() -> None:
        nonlocal left
        await request.receive()  # the body is read, so this is its end
        left = True
        own.cancel()

    def begin() -> None:
        nonlocal watching
        watching = asyncio.ensure_future(watch())

    timer = asyncio.get_running_loop().call_later(unwatched, begin)
    try:
        return await asking
    except asyncio.CancelledError:
        if left and not own.uncancel():
            raise ConnectionResetError from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


def _encoded(found: Encoded) -> Response:
    if found.json_length is None:
        return Response(found.body, media_type="application/json")
    headers = {HEADER_LENGTH: str(found.json_length)}
    return Response(found.body, media_type="application/octet-stream", headers=headers)
