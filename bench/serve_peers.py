"""The peers of the server's bench, each run by the Python of the peers' own environment.

    python serve_peers.py PEER MODEL PATH PORT

PEER is litserve, fastapi or ray; MODEL is encoder or strict. Imports nothing of this project: the
peers serve the same graph with ONNX Runtime, one thread an inference, two at the same time.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litserve as ls
import numpy as np

AT_ONCE = 2
INPUTS = {"encoder": {"input_ids": "int64", "attention_mask": "int64"}, "strict": {"x": "float32"}}


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
        self.model = Model(self._kind, self._path)

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


def litserve(kind: str, path: str, port: int, batch: int) -> None:
    """LitServe, with as many workers as the others have processes or threads."""
    api = Api(kind, path)
    if batch > 1:
        api = BatchApi(kind, path, max_batch_size=batch, batch_timeout=0.002)
    server = ls.LitServer(api, accelerator="cpu", devices=1, workers_per_device=AT_ONCE)
    server.run(port=port, host="127.0.0.1", log_level="error", generate_client_file=False)


def fastapi(kind: str, path: str, port: int) -> None:
    """FastAPI with the session in a pool of threads, as most tutorials do it."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    model, threads, app = Model(kind, path), ThreadPoolExecutor(AT_ONCE), FastAPI()

    class Encoder(BaseModel):  # type: ignore[misc]
        input_ids: list[list[int]]
        attention_mask: list[list[int]]

    class Strict(BaseModel):  # type: ignore[misc]
        x: list[list[float]]

    async def run(body: BaseModel) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, model, body.model_dump())

    async def encoder(body: Encoder) -> dict[str, Any]:
        return await run(body)

    async def strict(body: Strict) -> dict[str, Any]:
        return await run(body)

    # Annotations of functions inside functions are not found by their names.
    handler: Any = encoder if kind == "encoder" else strict
    handler.__annotations__["body"] = Encoder if kind == "encoder" else Strict
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
            self.model = Model(kind, path)

        async def __call__(self, request: Request) -> dict[str, Any]:
            return self.model(await request.json())

    ray_core.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Predict.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray_core.shutdown()


def main() -> None:
    """Serve until told to stop."""
    peer, kind, path, port = sys.argv[1:]
    if peer.startswith("litserve"):
        litserve(kind, path, int(port), 8 if peer.endswith("-batch") else 1)
    elif peer == "fastapi":
        fastapi(kind, path, int(port))
    else:
        ray(kind, path, int(port))


if __name__ == "__main__":
    main()
