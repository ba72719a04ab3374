"""Labels over HTTP: by the id that every answer carries, once, and for the version that gave it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support import models
from support.rollouts import ENVIRON, HEADERS, admin, rollout_of, until
from support.rollouts import write_versions as versions
from support.serving import Running, serving

CLIENT = {"authorization": "Bearer token-of-a-client-0003"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("feedback")
    versions(place)
    (place / "labelled.onnx").write_bytes(models.labelled())
    (place / "yes.onnx").write_bytes(models.is_yes())
    named: dict[str, Any] = {
        "m": {"path": "v0.onnx", "percent": 50, "positive": "y"},
        "labelled": {"path": "labelled.onnx"},
        "yes": {"path": "yes.onnx", "positive": "same"},
    }
    with serving(place, named, environ=ENVIRON, state="state", recent=500) as running:
        yield running


def post(server: Running, request_id: str, label: str = "negative", **more: Any) -> httpx2.Response:
    body = {"request_id": request_id, "label": label, **more}
    return server.client.post("/v1/feedback", json=body)


def test_of_several_labels_the_one_that_is_wrong_is_named(server: Running) -> None:
    """Those before it are counted, and may be posted again."""
    known = server.infer("m", [[1, 2, 3]]).headers["x-request-id"]
    good = {"request_id": known, "label": "positive"}
    for wrong, code, told in (
        ({"request_id": "gone", "label": "positive"}, 404, "labels[1]: no answer"),
        (good | {"row": 7}, 400, "labels[1]: row is 7"),
        (good | {"label": "negative"}, 409, "labels[1]: row 0 has the other label"),
    ):
        reply = server.client.post("/v1/feedback", json={"labels": [good, wrong]})
        assert reply.status_code == code
        assert reply.json()["error"].startswith(told)
    assert post(server, known, "positive").json()["counted"] is False


def test_an_answer_is_labelled_by_the_id_in_its_header_and_parameters(server: Running) -> None:
    reply = server.infer("m", [[1, 2, 3], [0, 0, 0]])
    request_id = reply.headers["x-request-id"]
    assert reply.json()["parameters"]["request_id"] == request_id
    told = post(server, request_id)
    assert told.status_code == 200
    assert told.json() == {
        "request_id": request_id,
        "row": 0,
        "model": "m",
        "digest": reply.json()["model_version"],
        "verdict": "positive",
        "label": "negative",
        "counted": True,
    }
    again = post(server, request_id).json()
    assert again == told.json() | {"counted": False}
    assert post(server, request_id, "positive").status_code == 409
    second = post(server, request_id, row=1).json()
    assert (second["verdict"], second["counted"]) == ("negative", True)
    line = 'interlock_feedback_total{model="m",outcome="false_positive",version="stable"} 1.0'
    assert line in server.metrics()


def test_without_an_output_that_says_so_what_was_not_accepted_is_positive(server: Running) -> None:
    """A NaN is refused; so that row raised an alarm."""
    body = {
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, -1, 2]}],
        "outputs": [{"name": "y"}],
    }
    reply = server.client.post("/v2/models/labelled/infer", json=body)
    assert reply.status_code == 200, reply.text
    request_id = reply.headers["x-request-id"]
    assert [post(server, request_id, row=k).json()["verdict"] for k in (0, 1)] == [
        "negative",
        "positive",
    ]


def test_a_text_model_answers_as_one_item(server: Running) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["yes"]}
    reply = server.client.post("/v2/models/yes/infer", json={"inputs": [tensor]})
    told = post(server, reply.headers["x-request-id"], "positive").json()
    assert told["verdict"] == "positive"


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"request_id": "0" * 16, "label": "positive"}, 404, "no answer with this request_id"),
        ({"request_id": "x", "label": "maybe"}, 400, "label"),
        ({"label": "positive"}, 400, "request_id"),
        ({"request_id": "x", "label": "positive", "colour": 1}, 400, "colour"),
        ({"labels": [{"request_id": "x"}]}, 400, "label"),
        ([], 400, "object"),
    ],
)
def test_a_mistake_is_told(server: Running, body: Any, code: int, told: str) -> None:
    refused = server.client.post("/v1/feedback", json=body)
    assert refused.status_code == code
    assert told in refused.json()["error"]


def test_a_row_that_is_not_there_is_told(server: Running) -> None:
    request_id = server.infer("m", [[1, 2, 3]]).headers["x-request-id"]
    refused = post(server, request_id, row=7)
    assert refused.status_code == 400
    assert "the answer has 1 rows" in refused.json()["error"]


def test_an_answer_that_was_refused_has_an_id_but_no_label(server: Running) -> None:
    refused = server.client.post("/v2/models/m/infer", content=b"no json")
    assert refused.status_code == 400
    assert post(server, refused.headers["x-request-id"]).status_code == 404


def test_only_the_latest_answers_are_remembered(server: Running) -> None:
    first = server.infer("m", [[1, 2, 3]]).headers["x-request-id"]
    for _ in range(500):
        server.infer("m", [[1, 2, 3]])
    assert post(server, first).status_code == 404


def test_several_labels_at_once_and_for_a_shadow_too(server: Running) -> None:
    admin(server, "models/m/rollout", {"path": "v1.onnx", "mode": "shadow"})
    ids = []
    for _ in range(5):
        ids.append(server.infer("m", [[1, 2, 3]]).headers["x-request-id"])
        asked = len(ids)
        until(lambda asked=asked: compared(server) == asked)  # type: ignore[misc]
    labels = [{"request_id": one, "label": "negative"} for one in ids]
    told = server.client.post("/v1/feedback", json={"labels": labels}).json()
    assert [one["counted"] for one in told["labels"]] == [True] * 5

    def answers() -> list[int]:
        wrong = rollout_of(server)["rollout"]["evidence"]["triggers"]["false_positives"]
        return [wrong[version]["answers"] for version in ("candidate", "stable")]

    until(lambda: answers() == [5, 5])
    admin(server, "models/m/rollout/rollback", {})


def compared(server: Running) -> int:
    shadow = rollout_of(server)["rollout"]["shadow"]
    return int(shadow["compared"] + shadow["dropped"])


def test_feedback_can_be_the_admins_or_off(tmp_path: Path) -> None:
    versions(tmp_path)
    named = {"m": {"path": "v0.onnx"}}
    environ = {**ENVIRON, "INTERLOCK_SERVE_TOKEN": CLIENT["authorization"].split()[1]}
    with serving(tmp_path, named, environ=environ, feedback="admin") as server:
        server.client.headers.update(CLIENT)
        request_id = server.infer("m", [[1, 2, 3]]).headers["x-request-id"]
        assert post(server, request_id).status_code == 401
        # Nor by another way to write the path.
        label = {"request_id": request_id, "label": "negative"}
        for path in ("/v1/feedback%0A", "/v1/feedback/", "/v1//feedback", "/v1/feedbac%6B"):
            assert server.client.post(path, json=label).status_code in (401, 404)
        server.client.headers.update(HEADERS)
        assert post(server, request_id).status_code == 200
    with serving(tmp_path, named, feedback="off") as server:
        request_id = server.infer("m", [[1, 2, 3]]).headers["x-request-id"]
        assert post(server, request_id).status_code == 404
