"""What the tests of rollouts ask of a running server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from support import models
from support.serving import Running

ADMIN = "token-of-the-admin-0001"
ENVIRON = {"INTERLOCK_SERVE_ADMIN_TOKEN": ADMIN}
HEADERS = {"authorization": f"Bearer {ADMIN}"}


def write_versions(place: Path, number: int = 2) -> list[str]:
    """`v0.onnx` … : y = 2 x + its number."""
    names = [f"v{k}.onnx" for k in range(number)]
    for k, name in enumerate(names):
        (place / name).write_bytes(models.shifted(k))
    return names


def admin(server: Running, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
    """GET, or POST where there is a body, of a path below /v1/admin."""
    url = f"/v1/admin/{path}"
    if body is None:
        return server.client.get(url, headers=HEADERS)
    return server.client.post(url, json=body, headers=HEADERS)


def rollout_of(server: Running, model: str = "m") -> dict[str, Any]:
    """The status of a model's rollout."""
    reply = admin(server, f"models/{model}/rollout")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def decided(server: Running, model: str = "m") -> list[tuple[str, str]]:
    """Decisions and their reasons, in order."""
    return [(d["decision"], d["reason"]) for d in rollout_of(server, model)["decisions"]]


def until(condition: Callable[[], Any], within: float = 60.0) -> None:
    """Wait; the time only ends a hang of the test."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class Clients:
    """Several clients that ask a scripted classifier, and may label what they get."""

    def __init__(
        self, server: Running, model: str, *, number: int = 4, label: bool = False
    ) -> None:
        self._server = server
        self._model = model
        self._number = number
        self._label = label
        self.codes: dict[int, int] = {}

    def run(self, done: Callable[[], bool], within: float = 120.0) -> None:
        """Ask until `done`, which is looked at every half second."""
        end = time.monotonic() + within
        over = [False]
        with ThreadPoolExecutor(self._number) as pool:
            futures = [pool.submit(self._ask, n, over) for n in range(self._number)]
            try:
                while not done():
                    assert time.monotonic() < end, rollout_of(self._server, self._model)
                    time.sleep(0.5)
            finally:
                over[0] = True
            for future in futures:
                future.result()

    def _ask(self, number: int, over: list[bool]) -> None:
        rng = random.Random(number)
        with httpx2.Client(base_url=self._server.url, timeout=60.0) as client:
            turn = 0
            while not over[0]:
                turn += 1
                x = rng.uniform(0, 0.49) if self._label else rng.random()
                tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [x]}
                reply = client.post(
                    f"/v2/models/{self._model}/infer",
                    json={"inputs": [tensor]},
                    headers={"x-client-id": f"{number}-{turn % 50}"},
                )
                self.codes[reply.status_code] = self.codes.get(reply.status_code, 0) + 1
                if self._label and reply.status_code == 200:
                    label = {"request_id": reply.headers["x-request-id"], "label": "negative"}
                    told = client.post("/v1/feedback", json=label)
                    assert told.status_code == 200, told.text
