"""The endpoints of a real server: every kind of model, every status, and the red ones."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import numpy as np
import pytest
from serve.conftest import RED
from support.rollouts import until
from support.serving import Running


def outputs(reply: httpx2.Response) -> dict[str, Any]:
    return {tensor["name"]: tensor for tensor in reply.json()["outputs"]}


def test_it_is_live_and_says_what_it_speaks(server: Running) -> None:
    assert server.get("/v2/health/live").json() == {"live": True}
    told = server.get("/v2").json()
    assert told["name"] == "interlock"
    assert told["extensions"] == ["binary_tensor_data"]


def test_a_server_with_a_broken_model_is_not_ready_though_the_others_answer(
    server: Running,
) -> None:
    reply = server.get("/v2/health/ready")
    assert (reply.status_code, reply.json()) == (503, {"ready": False})
    for name in RED:
        assert server.get(f"/v2/models/{name}/ready").status_code == 503
        refused = server.infer(name, np.ones((1, 4)))
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
    assert server.get("/v2/models/strict/ready").json() == {"name": "strict", "ready": True}


def test_health_names_what_is_wrong_with_each_model(server: Running) -> None:
    reply = server.get("/health")
    assert reply.status_code == 503
    told = {health["model"]: health for health in reply.json()["models"]}
    assert told["tampered"]["error"].startswith("bundle_integrity: ")
    assert told["missing"]["error"].startswith("config: there is no ")
    assert "is a stub" in told["stub"]["error"]
    assert told["strict"]["status"] in ("healthy", "degraded")
    assert told["strict"]["latency_ms"] > 0


def test_metadata_has_the_digest_as_version_and_the_protocols_types(server: Running) -> None:
    told = server.get("/v2/models/strict").json()
    assert told["platform"] == "interlock_strict"
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    (version,) = told["versions"]
    assert version.startswith("sha256:")
    assert server.get(f"/v2/models/strict/versions/{version}").json() == told
    assert server.get("/v2/models/strict/versions/sha256:0").status_code == 404


def test_an_accepted_answer_carries_its_evidence(server: Running) -> None:
    reply = server.infer("affine", [[1, 2, 3], [4, 5, 6]], body={"id": "mine"})
    assert reply.status_code == 200
    document = reply.json()
    assert document["id"] == "mine"
    assert outputs(reply)["y"]["data"] == [3, 5, 7, 9, 11, 13]
    assert outputs(reply)["total"]["data"] == [15, 33]
    told = document["parameters"]
    assert (told["status"], told["rows_accepted"]) == ("accepted", 2)
    assert json.loads(told["evidence"])["kind"] == "attested"
    assert [step["result"] for step in json.loads(told["steps"])] == ["accepted"]
    assert told["digest"] == document["model_version"]
    assert told["request_id"] == reply.headers["x-request-id"]


def test_a_refused_row_is_not_a_number_and_says_why_beside_accepted_ones(server: Running) -> None:
    reply = server.infer("strict", [[0, 0, 0, 0], [1, -1, 1, 1]])
    found = outputs(reply)
    assert found["decoded"]["data"][:2] == [None, None]
    assert None not in found["decoded"]["data"][2:]
    assert found["bottom_mask"]["data"] == [True, True, False, False]
    assert found["interlock_status"]["data"][0] == "refused"
    assert found["interlock_status"]["data"][1] in ("accepted", "flagged")
    assert "bottom" in found["interlock_reason"]["data"][0]
    told = reply.json()["parameters"]
    assert (told["status"], told["rows_refused"], told["action"]) == ("refused", 1, "refuse")
    assert json.loads(told["reasons"])


def test_a_refusal_that_a_tensor_cannot_carry_is_an_error(server: Running) -> None:
    """An integer has no NaN: who does not ask for the statuses must not get one for no answer."""
    x = [[1, 2], [-1, 2]]
    reply = server.infer("labelled", x)
    assert reply.status_code == 422
    told = reply.json()
    assert (told["code"], told["parameters"]["rows_refused"]) == ("refused", 1)
    asked = [{"name": "label"}, {"name": "interlock_status"}]
    reply = server.infer("labelled", x, body={"outputs": asked})
    assert reply.status_code == 200
    assert outputs(reply)["interlock_status"]["data"] == ["accepted", "refused"]
    assert outputs(server.infer("labelled", [[1, 2]]))["label"]["data"] == [1]
    y = outputs(server.infer("labelled", x, body={"outputs": [{"name": "y"}]}))["y"]["data"]
    assert y[2:] == [None, None]


def test_a_mask_may_be_read_where_there_is_no_answer_since_it_explains_that(
    server: Running,
) -> None:
    reply = server.infer("strict", [[0, 0, 0, 0]], body={"outputs": [{"name": "bottom_mask"}]})
    assert reply.status_code == 200
    assert outputs(reply)["bottom_mask"]["data"] == [True, True]
    assert list(outputs(reply)) == ["bottom_mask"]


def test_what_the_model_fails_on_is_the_requests_fault_and_not_retryable(server: Running) -> None:
    tensor = {"name": "i", "shape": [1], "datatype": "INT64", "data": [7]}
    reply = server.client.post("/v2/models/gather/infer", json={"inputs": [tensor]})
    assert reply.status_code == 422
    told = reply.json()
    assert told["code"] == "engine"
    assert told["retryable"] is False
    assert told["parameters"]["status"] == "failed"
    tensor["data"] = [2]
    good = server.client.post("/v2/models/gather/infer", json={"inputs": [tensor]})
    assert outputs(good)["y"]["data"] == [2.0]


def test_text_and_booleans(server: Running) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["yes", "no"]}
    reply = server.client.post("/v2/models/is_yes/infer", json={"inputs": [tensor]})
    assert outputs(reply)["same"] == {
        "name": "same",
        "datatype": "BOOL",
        "shape": [2],
        "data": [True, False],
    }


def test_a_route_shows_the_step_that_answered(server: Running) -> None:
    metadata = server.get("/v2/models/arm").json()
    assert metadata["platform"] == "interlock_route"
    x = np.zeros((1, 4), dtype=np.float32)
    told = server.infer("arm", x)
    assert told.status_code in (200, 422)
    steps = json.loads(told.json()["parameters"]["steps"])
    assert steps[0]["name"]


def test_a_verified_model_says_what_was_proved(server: Running) -> None:
    metadata = server.get("/v2/models/net").json()
    shape = metadata["inputs"][0]["shape"]
    x = np.zeros(shape, dtype=np.float32)
    tensor = {
        "name": metadata["inputs"][0]["name"],
        "shape": shape,
        "datatype": "FP32",
        "data": x.ravel().tolist(),
    }
    reply = server.client.post("/v2/models/net/infer", json={"inputs": [tensor]})
    assert reply.status_code == 200
    evidence = json.loads(reply.json()["parameters"]["evidence"])
    assert evidence["kind"] == "attested"  # ONNX answered; nothing of it is proved
    assert evidence["detail"]["proved"] == 0


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_verified_model_is_not_asked_about_what_is_not_finite(
    server: Running, value: float
) -> None:
    spec = server.get("/v2/models/net").json()["inputs"][0]
    x = np.zeros(spec["shape"], dtype=np.float32)
    x.flat[1] = value
    tensor = {"name": spec["name"], "shape": spec["shape"], "datatype": "FP32"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}]})
    reply = server.client.post(
        "/v2/models/net/infer",
        content=head.encode() + x.tobytes(),
        headers={"inference-header-content-length": str(len(head))},
    )
    assert (reply.status_code, reply.json()["code"]) == (400, "input")
    assert f"input '{spec['name']}' is {value} at" in reply.json()["error"]
    assert not re.search(r'interlock_reasons_total\{model="net".*finite', server.metrics())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "z"}, "input 'z' is unknown"),
        ({"shape": [2, 3]}, "data has 3 elements; its shape has 6"),
        ({"shape": [3], "data": [1, 2, 3]}, "has shape [3]"),
        ({"shape": [-1, -3]}, "sizes from 0"),
        ({"shape": [0, 3], "data": []}, "has no rows"),
        ({"datatype": "FP64"}, "has dtype float64; the model takes float32"),
        ({"datatype": "COMPLEX"}, "data type 'COMPLEX' is unknown"),
        ({"data": ["a", "b", "c"]}, "something else than FP32"),
        ({"data": [[1], [2, 3]]}, "unequal length"),
        ({"data": [1e300, 0, 0]}, "out of the range of FP32"),
        ({"data": None}, "data must be a list"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared_memory_region is not supported"),
        ({"parameters": {"binary_data_size": 4}, "data": None}, "does not fit the body"),
    ],
)
def test_a_wrong_tensor_is_named(server: Running, change: dict[str, Any], told: str) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} | change
    reply = server.client.post("/v2/models/affine/infer", json={"inputs": [tensor]})
    assert reply.status_code == 400
    assert told in reply.json()["error"]
    assert reply.json()["code"] == "input"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"inputs": 3}', b"[" * 100_000])
def test_what_is_no_request_is_refused(server: Running, body: bytes) -> None:
    reply = server.client.post("/v2/models/affine/infer", content=body)
    assert reply.status_code == 400
    assert "error" in reply.json()


def test_unknown_paths_models_and_methods(server: Running) -> None:
    assert server.get("/v2/nothing").status_code == 404
    assert server.get("/v2/models/nothing").json()["code"] == "unknown_model"
    assert server.get("/v2/models/affine/infer").status_code == 405
    assert server.client.post("/health").status_code == 405


@pytest.mark.parametrize("end", ["/", "%0A", "%0D%0A", "%00"])
@pytest.mark.parametrize("path", ["/v2", "/v2/models/affine", "/v2/health/live", "/metrics"])
def test_a_path_with_something_behind_it_is_another_one(
    server: Running, path: str, end: str
) -> None:
    """A redirect would go to the host that the client names, and by HTTP behind a proxy's TLS."""
    reply = server.get(path + end)
    assert reply.status_code == 404
    assert "location" not in reply.headers


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v2", "GET, HEAD"), ("/v2/models/affine/infer", "POST"), ("/v1/scan", "POST")],
)
def test_a_wrong_method_is_told_the_right_ones(server: Running, path: str, allowed: str) -> None:
    reply = server.client.delete(path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


def test_an_unknown_output_is_named(server: Running) -> None:
    reply = server.infer("affine", [[1, 2, 3]], body={"outputs": [{"name": "nope"}]})
    assert reply.status_code == 400
    assert "output 'nope' is unknown" in reply.json()["error"]


def test_an_output_that_there_is_none_of_does_not_run_the_model(server: Running) -> None:
    def inferences() -> list[str]:
        found = re.findall(
            r"^interlock_(?:batch_rows_count|answers_total)\{model=\"labelled\".*",
            server.metrics(),
            re.M,
        )
        return [str(line) for line in found]

    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    asked: dict[str, Any] = {"inputs": [tensor], "outputs": [{"name": "y"}, {"name": "nope"}]}
    before = inferences()
    reply = server.client.post("/v2/models/labelled/infer", json=asked)
    assert (reply.status_code, inferences()) == (400, before)
    assert reply.json()["hint"] == "the model gives y, label, interlock_status, interlock_reason"
    asked["outputs"].pop()
    assert server.client.post("/v2/models/labelled/infer", json=asked).status_code == 200
    until(lambda: inferences() != before)


def test_a_compressed_body_is_not_unpacked(server: Running) -> None:
    reply = server.infer("affine", [[1, 2, 3]], headers={"content-encoding": "gzip"})
    assert reply.status_code == 422
    assert reply.json()["code"] == "unsupported"


def test_the_description_names_every_endpoint_and_the_page_loads_nothing(server: Running) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert "/v2/models/{model}/infer" in paths
    (named,) = paths["/v1/scan"]["post"]["parameters"]
    assert (named["name"], named["in"]) == ("model", "query")
    page = server.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text
    assert all(path in page.text for path in paths)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_description_has_the_binary_tensors_that_are_taken_and_given(server: Running) -> None:
    x = np.asarray([[1, 2, 3]], dtype=np.float32)
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
    head = json.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    )
    paths = server.get("/openapi.json").json()["paths"]
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        told = paths[path]["post"]
        (header,) = told["parameters"]
        assert header["in"] == "header"
        assert not header.get("required")
        version = server.get("/v2/models/affine").json()["versions"][0]
        reply = server.client.post(
            path.format(model="affine", version=version),
            content=head.encode() + x.tobytes(),
            headers={header["name"]: str(len(head)), "content-type": "application/octet-stream"},
        )
        assert reply.status_code == 200
        assert "application/octet-stream" in told["requestBody"]["content"]
        answer = told["responses"]["200"]
        assert reply.headers["content-type"] in answer["content"]
        assert header["schema"] == {"type": "integer", "minimum": 0}
        (name,) = answer["headers"]
        length = int(reply.headers[name])
        assert json.loads(reply.content[:length])["outputs"]
        assert len(reply.content) > length
    assert "header Inference-Header-Content-Length" in server.get("/docs").text


def test_the_log_has_one_line_a_request_with_its_outcome(server: Running) -> None:
    reply = server.infer("affine", [[1, 2, 3]])
    server.get("/v2/health/live")
    wanted = reply.headers["x-request-id"]

    def lines_of_it() -> list[dict[str, Any]]:
        return [event for event in list(server.log) if event.get("request_id") == wanted]

    until(lines_of_it)  # a line is read after its answer
    lines = lines_of_it()
    assert len(lines) == 1
    assert (lines[0]["endpoint"], lines[0]["model"]) == ("infer", "affine")
    assert (lines[0]["status"], lines[0]["outcome"], lines[0]["rows"]) == (200, "accepted", 1)


def test_metrics_count_rows_steps_reasons_and_errors(server: Running) -> None:
    server.infer("strict", [[0, 0, 0, 0]])
    server.infer("affine", [[1, 2]])
    text = server.metrics()
    for name in (
        'interlock_answers_total{model="strict",status="refused"}',
        'interlock_route_steps_total{model="strict",result="refused",step="model"}',
        'interlock_reasons_total{model="strict",reason="bottom',
        'interlock_errors_total{code="input",model="affine"}',
        'interlock_stage_seconds_count{model="strict",stage="infer"}',
        'interlock_stage_seconds_count{model="strict",stage="queue"}',
        'interlock_model_ready{model="tampered"} 0.0',
        'interlock_model_ready{model="strict"} 1.0',
        'interlock_worker_resident_bytes{model="strict"}',
        'interlock_model_load_seconds{model="strict"}',
        'interlock_requests_total{code="200",endpoint="infer"}',
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ):
        assert name in text, name
