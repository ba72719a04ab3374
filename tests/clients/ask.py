"""Ask a server through the public clients of Triton and KServe, unchanged; print what they saw.

python ask.py triton|kserve HOST:PORT

Runs in the clients' own environment (`make test-oip`), so it imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np

X = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)


def triton(address: str) -> dict[str, Any]:
    """Through tritonclient.http, once with binary tensors and once with JSON."""
    import tritonclient.http as client
    from tritonclient.utils import InferenceServerException

    with client.InferenceServerClient(address) as asked:
        found: dict[str, Any] = {
            "live": asked.is_server_live(),
            "ready": asked.is_server_ready(),
            "model_ready": asked.is_model_ready("affine"),
            "server": asked.get_server_metadata(),
            "model": asked.get_model_metadata("affine"),
        }
        for binary in (True, False):
            given = client.InferInput("x", list(X.shape), "FP32")
            given.set_data_from_numpy(X, binary_data=binary)
            wanted = [client.InferRequestedOutput(n, binary_data=binary) for n in ("y", "total")]
            result = asked.infer("affine", [given], outputs=wanted, request_id="mine")
            found["binary" if binary else "json"] = {
                "y": result.as_numpy("y").tolist(),
                "total": result.as_numpy("total").tolist(),
                "response": result.get_response(),
            }
        # Without outputs the client asks for all of them, binary.
        given = client.InferInput("x", [1, 4], "FP32")
        given.set_data_from_numpy(np.zeros((1, 4), np.float32))
        result = asked.infer("strict", [given])
        found["strict"] = {
            "decoded": [str(v) for v in result.as_numpy("decoded").ravel().tolist()],
            "bottom": result.as_numpy("bottom_mask").tolist(),
            "status": [v.decode() for v in result.as_numpy("interlock_status")],
        }
        text = client.InferInput("text", [2], "BYTES")
        text.set_data_from_numpy(np.array(["yes", "no"], dtype=object))
        found["same"] = asked.infer("is_yes", [text]).as_numpy("same").tolist()
        wrong = client.InferInput("z", [1, 3], "FP32")
        wrong.set_data_from_numpy(X[:1])
        try:
            asked.infer("affine", [wrong])
        except InferenceServerException as error:
            found["error"] = [error.status(), error.message()]
    return found


async def kserve(address: str) -> dict[str, Any]:
    """Through kserve's REST client, by protocol v2."""
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    asked = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    base = f"http://{address}"
    found: dict[str, Any] = {
        "live": await asked.is_server_live(base),
        "ready": await asked.is_server_ready(base),
        "model_ready": await asked.is_model_ready(base, "affine"),
    }
    for binary in (True, False):
        given = InferInput("x", list(X.shape), "FP32")
        given.set_data_from_numpy(X, binary_data=binary)
        request = InferRequest("affine", [given], request_id="mine")
        result = await asked.infer(base, request, model_name="affine")
        found["binary" if binary else "json"] = {
            "y": result.get_output_by_name("y").as_numpy().tolist(),
            "status": result.parameters["status"],
            "id": result.id,
        }
    await asked.close()
    return found


if __name__ == "__main__":
    kind, place = sys.argv[1:]
    told = triton(place) if kind == "triton" else asyncio.run(kserve(place))
    print(json.dumps(told))
