"""The peers of the server's bench, each run by the Python of the peers' own environment.

    python serve_peers.py PEER MODEL PATH PORT

PEER is litserve, litserve-two, litserve-batch, fastapi or ray; MODEL is encoder, strict or
detector. The peers serve the same graph with ONNX Runtime, or the same detector in Python, one
thread an inference. litserve is as its documentation starts it; the others run two at a time.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np

AT_ONCE = 2
INPUTS = {"encoder": {"input_ids": "int64", "attention_mask": "int64"}, "strict": {"x": "float32"}}


class Texts:
    """The detector behind a peer."""

    def __init__(self, path: str) -> None:
        from interlock.detect import Detector

        self._detector = Detector.open(bundle=Path(path))

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._detector.scan(body["text"]).to_dict()


def model_of(kind: str, path: str) -> Any:
    """What answers a body."""
    return Texts(path) if kind == "detector" else Model(kind, path)


class Model:
    """The graph behind a peer: JSON-like inputs in, JSON-like outputs out."""

    def __init__(self, kind: str, path: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(path, options)
        self._dtypes = INPUTS[kind]
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        given = {name: np.asarray(body[name], dtype) for name, dtype in self._dtypes.items()}
        found = self._session.run(None, given)
        return {name: array.tolist() for name, array in zip(self._names, found, strict=True)}

    def many(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        given = {
            name: np.concatenate([np.asarray(body[name], dtype) for body in bodies])
            for name, dtype in self._dtypes.items()
        }
        found = self._session.run(None, given)
        return [
            {n: a[row : row + 1].tolist() for n, a in zip(self._names, found, strict=True)}
            for row in range(len(bodies))
        ]


class Api(ls.LitAPI):  # type: ignore[misc]
    """The graph as LitServe wants it; at the top of the module, since its workers are spawned."""

    def __init__(self, kind: str, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._kind, self._path = kind, path

    def setup(self, device: str) -> None:
        self.model = model_of(self._kind, self._path)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # it reads the annotations
        return request

    def predict(self, x: Any) -> Any:
        return self.model(x)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return output


class BatchApi(Api):
    """The same with LitServe's batches."""

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.model.many(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output


def litserve(kind: str, path: str, port: int, *, workers: int = AT_ONCE, batch: int = 1) -> None:
    """LitServe with so many workers, and batches of up to `batch`."""
    api = Api(kind, path)
    if batch > 1:
        api = BatchApi(kind, path, max_batch_size=batch, batch_timeout=0.002)
    server = ls.LitServer(api, accelerator="cpu", devices=1, workers_per_device=workers)
    server.run(port=port, host="127.0.0.1", log_level="error", generate_client_file=False)


def fastapi(kind: str, path: str, port: int) -> None:
    """FastAPI with the session in a pool of threads, as most tutorials do it."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    model, threads, app = model_of(kind, path), ThreadPoolExecutor(AT_ONCE), FastAPI()

    class Encoder(BaseModel):  # type: ignore[misc]
        input_ids: list[list[int]]
        attention_mask: list[list[int]]

    class Strict(BaseModel):  # type: ignore[misc]
        x: list[list[float]]

    class Detector(BaseModel):  # type: ignore[misc]
        text: str

    async def run(body: BaseModel) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        found: dict[str, Any] = await loop.run_in_executor(threads, model, body.model_dump())
        return found

    async def encoder(body: Encoder) -> dict[str, Any]:
        return await run(body)

    async def strict(body: Strict) -> dict[str, Any]:
        return await run(body)

    async def detector(body: Detector) -> dict[str, Any]:
        return await run(body)

    # Annotations of functions inside functions are not found by their names.
    handlers: dict[str, tuple[Any, Any]] = {
        "encoder": (encoder, Encoder),
        "strict": (strict, Strict),
        "detector": (detector, Detector),
    }
    handler, body = handlers[kind]
    handler.__annotations__["body"] = body
    app.post("/predict")(handler)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def ray(kind: str, path: str, port: int) -> None:
    """Ray Serve with two replicas, on one node."""
    import signal

    import ray as ray_core
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(num_replicas=AT_ONCE, ray_actor_options={"num_cpus": 0.5})
    class Predict:
        def __init__(self) -> None:
            self.model = model_of(kind, path)

        async def __call__(self, request: Request) -> dict[str, Any]:
            found: dict[str, Any] = self.model(await request.json())
            return found

    ray_core.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Predict.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray_core.shutdown()


def main() -> None:
    """Serve until told to stop."""
    peer, kind, path, port = sys.argv[1:]
    if peer == "litserve":
        litserve(kind, path, int(port), workers=1)
    elif peer == "litserve-two":
        litserve(kind, path, int(port))
    elif peer == "litserve-batch":
        litserve(kind, path, int(port), batch=8)
    elif peer == "fastapi":
        fastapi(kind, path, int(port))
    else:
        ray(kind, path, int(port))


if __name__ == "__main__":
    main()
