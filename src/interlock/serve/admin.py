"""The admin API and feedback: rollouts, reloads and labels, as documents that are checked first."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from interlock.kernel.errors import ConfigError, InputError, InterlockError
from interlock.serve.hosting import Hosting
from interlock.serve.offload import offload
from interlock.serve.opening import REGISTERED
from interlock.serve.replies import json_reply
from interlock.serve.request_json import read_json
from interlock.serve.rollout.control import ModelRollout
from interlock.serve.rollout.rollouts import Rollouts

MOST_LABELS = 1000

T = TypeVar("T")
ReadBody = Callable[[Request], Awaitable[bytes]]


class _Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    digest: str | None = None
    mode: Literal["shadow", "canary"] | None = None
    percent: float | None = None


class _Reload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str | None = None
    digest: str | None = None


class _Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str = "asked for"


class _RollBack(_Ending, frozen=True, forbid_unknown_fields=True):
    previous: bool = False


class _Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request_id: str
    label: Literal["positive", "negative"]
    row: int = 0


class _Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: list[_Label]


_START, _RELOAD = msgspec.json.Decoder(_Start), msgspec.json.Decoder(_Reload)
_ENDING, _ROLL_BACK = msgspec.json.Decoder(_Ending), msgspec.json.Decoder(_RollBack)
_LABEL, _LABELS = msgspec.json.Decoder(_Label), msgspec.json.Decoder(_Labels)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Admin:
    """The handlers; the gate has asked for the admin token before."""

    def __init__(
        self, hosting: Hosting, rollouts: Rollouts, base: Path, read_body: ReadBody
    ) -> None:
        self._hosting = hosting
        self._rollouts = rollouts
        self._base = base.resolve()
        self._read_body = read_body

    async def overview(self, request: Request) -> Response:
        """Every model's rollout."""
        found = [await _in_thread(model.status) for model in self._rollouts.models.values()]
        return json_reply({"models": found})

    async def status(self, request: Request) -> Response:
        """One model's rollout."""
        return json_reply(await _in_thread(self._find(request).status))

    async def start(self, request: Request) -> Response:
        """Start a rollout, or change the one of the same path."""
        model = self._find(request)
        asked = read_json(await self._read_body(request), _START)
        self._inside(asked.path)
        start = functools.partial(
            model.start, asked.path, digest=asked.digest, mode=asked.mode, percent=asked.percent
        )
        return json_reply(await _in_thread(start))

    async def promote(self, request: Request) -> Response:
        """Promote the candidate."""
        model = self._find(request)
        asked = read_json(await self._read_body(request) or b"{}", _ENDING)
        return json_reply(await _in_thread(model.promote, _reason(asked)))

    async def roll_back(self, request: Request) -> Response:
        """Roll the candidate back, or return to the version before."""
        model = self._find(request)
        asked = read_json(await self._read_body(request) or b"{}", _ROLL_BACK)
        order = functools.partial(model.roll_back, _reason(asked), previous=asked.previous)
        return json_reply(await _in_thread(order))

    async def reload(self, request: Request) -> Response:
        """Load a model again."""
        model = self._find(request)
        asked = read_json(await self._read_body(request) or b"{}", _RELOAD)
        if asked.path is not None:
            self._inside(asked.path)
        return json_reply(await _in_thread(model.reload, asked.path, asked.digest))

    async def feedback(self, request: Request) -> Response:
        """One label, or several under `labels`; all of them are checked for form first.

        An error names the label that it is of. Those before it are counted, and those behind not.
        """
        body = await self._read_body(request)
        labels, several = await offload(len(body), _read_labels, body)
        if len(labels) > MOST_LABELS:
            raise InputError(f"{len(labels)} labels are posted; up to {MOST_LABELS} are taken")
        found = []
        for number, label in enumerate(labels):
            try:
                told = self._rollouts.label(label.request_id, label.row, label.label == "positive")
            except InterlockError as error:
                if several:
                    error.message = f"labels[{number}]: {error.message}"
                raise
            found.append(told)
        return json_reply({"labels": found} if several else found[0])

    def _find(self, request: Request) -> ModelRollout:
        hosted = self._hosting.find(request.path_params["model"])
        request.scope["state"]["model"] = hosted.name
        return self._rollouts.models[hosted.name]

    def _inside(self, path: str) -> None:
        """Raise ConfigError for a path outside the configuration's directory."""
        if path.startswith(REGISTERED):
            return
        if "\0" in path or not (self._base / path).resolve().is_relative_to(self._base):
            raise ConfigError(
                "path leads out of the directory of the configuration",
                hint="give a path relative to it",
            )


def _read_labels(body: bytes) -> tuple[list[_Label], bool]:
    """The labels, and whether they came under `labels`."""
    if read_json(body, _OBJECT).keys() == {"labels"}:
        return read_json(body, _LABELS).labels, True
    return [read_json(body, _LABEL)], False


def _reason(asked: _Ending) -> str:
    if not 0 < len(asked.reason) <= 500:
        raise InputError("reason must have 1 to 500 characters")
    return asked.reason


# Apart from the threads that metrics and health need: loading a model takes long.
_THREADS = ThreadPoolExecutor(8, "interlock-admin")


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Loading a model and syncing to the disk take time that other requests need."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *arguments)
