"""`/v1/scan`, asked over HTTP of a real server with a small detector."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support import models
from support.counts import count
from support.detectors import ATTACKS, HARMLESS, write_bundle
from support.processes import children
from support.rollouts import ENVIRON, admin, until
from support.serving import Running, serving

from interlock.serve.hosting import Hosting
from interlock.serve.metrics import DETECTOR_STAGES, Metrics
from interlock.serve.scan import Scans
from interlock.serve.settings import Settings

STREAM = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def scanning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("scanning")
    write_bundle(place / "small")
    (place / "affine.onnx").write_bytes(models.affine())
    served: dict[str, dict[str, Any]] = {
        "small": {"path": "small", "workers": 2},
        "affine": {"path": "affine.onnx"},
    }
    with serving(place, served) as running:
        yield running


def scanned(server: Running, **asked: Any) -> dict[str, Any]:
    reply = server.client.post("/v1/scan", json=asked)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    assert found["request_id"] == reply.headers["x-request-id"]
    return found


def test_a_harmless_text_is_accepted_with_its_evidence(scanning: Running) -> None:
    found = scanned(scanning, text=HARMLESS[0], place="user", id="mine")
    assert (found["status"], found["action"], found["id"]) == ("accepted", "allow", "mine")
    assert 0 <= found["score"] < found["threshold"] == 0.65
    assert found["evidence"]["kind"] == "attested"
    digest = scanning.get("/v2/models/small").json()["versions"][0]
    assert found["bundle"] == digest == found["evidence"]["detail"]["bundle"]
    (step,) = found["steps"]
    assert (step["name"], step["result"], step["attempts"]) == ("detector", "accepted", 1)


def test_an_attack_is_refused_with_reasons_and_spans_and_http_is_200(scanning: Running) -> None:
    found = scanned(scanning, text=ATTACKS[0], place="user")
    assert found["status"] == "refused"
    assert found["action"] in ("block", "escalate")
    assert found["score"] >= found["threshold"]
    assert found["reasons"]
    assert found["spans"]
    assert found["steps"][0]["result"] == "refused"
    assert ATTACKS[0] not in json.dumps(found)


def test_a_batch_is_answered_row_by_row_as_its_texts_alone(scanning: Running) -> None:
    texts = [*ATTACKS, *HARMLESS]
    found = scanned(scanning, texts=texts)
    assert [row["row"] for row in found["results"]] == list(range(len(texts)))
    for text, row in zip(texts, found["results"], strict=True):
        alone = scanned(scanning, text=text)
        assert row["score"] == pytest.approx(alone["score"], abs=1e-6)
        assert (row["status"], row["reasons"]) == (alone["status"], alone["reasons"])
    assert found["status"] == "refused"


def test_the_query_may_name_the_detector(scanning: Running) -> None:
    asked = {"text": HARMLESS[0]}
    named = scanning.client.post("/v1/scan?model=small", json=asked)
    assert named.json()["model"] == "small"
    assert scanning.client.post("/v1/scan?model=gone", json=asked).status_code == 404
    twice = scanning.client.post("/v1/scan?model=gone", json={**asked, "model": "small"})
    assert twice.status_code == 400
    assert "'gone' in the query" in twice.json()["error"]


def test_a_stream_is_answered_line_by_line_in_order(scanning: Running) -> None:
    lines_sent = count(60, 2000)
    texts = [(ATTACKS + HARMLESS)[n % 7] for n in range(lines_sent)]
    lines = [json.dumps({"text": text, "id": str(n)}) for n, text in enumerate(texts)]
    lines[3] = '{"text": 1}'
    lines[5] = "no JSON"
    body = "\n".join(lines) + "\n\n"
    reply = scanning.client.post("/v1/scan?model=small", content=body, headers=STREAM)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    found = [json.loads(line) for line in reply.text.splitlines()]
    assert [one["line"] for one in found] == list(range(lines_sent))
    for number, one in enumerate(found):
        if number in (3, 5):
            assert (one["status"], one["code"]) == ("failed", "input")
            assert one["error"]
            continue
        assert one["id"] == str(number)
        assert one["status"] == ("refused" if texts[number] in ATTACKS else "accepted")
        label = {"request_id": one["request_id"], "label": "positive"}
        if number == 0:
            assert scanning.client.post("/v1/feedback", json=label).status_code == 200


def test_a_stream_is_answered_again_where_lost_files_are_back(tmp_path: Path) -> None:
    """Also where nobody asks for the readiness, which would find them."""
    write_bundle(tmp_path / "small")
    with serving(tmp_path, {"small": {"path": "small"}}) as server:
        (tmp_path / "small").rename(tmp_path / "elsewhere")
        for worker in children(server.process.pid):
            os.kill(worker, signal.SIGKILL)
        # Of these the first may meet the dead process, and the others its successor.
        for _ in range(3):
            refused = server.client.post("/v1/scan", json={"text": HARMLESS[0]})
            assert refused.status_code == 503
        line = json.dumps({"text": HARMLESS[0]})
        refused = server.client.post("/v1/scan", content=line, headers=STREAM)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "lost a process that cannot be replaced" in refused.json()["error"]
        (tmp_path / "elsewhere").rename(tmp_path / "small")

        def answered() -> bool:  # a canary's word counts for a second
            reply = server.client.post("/v1/scan", content=line, headers=STREAM)
            return bool(reply.status_code == 200 and reply.json()["status"] == "accepted")

        until(answered)


def test_the_description_has_the_stream_that_is_taken_and_given(scanning: Running) -> None:
    document = scanning.get("/openapi.json").json()
    told = document["paths"]["/v1/scan"]["post"]
    (kind,) = told["requestBody"]["content"].keys() - {"application/json"}
    sent = [json.dumps({"text": HARMLESS[0], "place": "user", "id": "mine"}), "no JSON"]
    reply = scanning.client.post(
        "/v1/scan?model=small", content="\n".join(sent), headers={"content-type": kind}
    )
    given = reply.headers["content-type"].partition(";")[0]
    answer = told["responses"]["200"]["content"][given]
    assert answer["schema"]["type"] == "string"
    schemas = document["components"]["schemas"]
    line = schemas[answer["x-itemSchema"]["$ref"].rpartition("/")[2]]
    judged, failed = (json.loads(one) for one in reply.text.splitlines())
    for one in (judged, failed):
        assert one.keys() >= set(line["required"])
    assert failed.keys() <= line["properties"].keys()
    asked = told["requestBody"]["content"][kind]["x-itemSchema"]["$ref"].rpartition("/")[2]
    assert json.loads(sent[0]).keys() == schemas[asked]["properties"].keys()
    assert f"{kind}<br>" in scanning.get("/docs").text


def test_a_compressed_stream_is_refused(scanning: Running) -> None:
    reply = scanning.client.post(
        "/v1/scan?model=small", content=b"\x1f\x8b", headers=STREAM | {"content-encoding": "gzip"}
    )
    assert (reply.status_code, reply.json()["code"]) == (422, "unsupported")


def test_answers_of_a_stream_come_before_its_end(scanning: Running) -> None:
    with socket.create_connection(("127.0.0.1", scanning.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/scan HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        line = json.dumps({"text": HARMLESS[0]}).encode() + b"\n"
        with connection.makefile("rb") as reader:
            for number in range(5):
                connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
                while not (told := reader.readline()).startswith(b"{"):
                    assert told
                assert json.loads(told)["line"] == number
            connection.sendall(b"0\r\n\r\n")
            assert reader.read(1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "'text' or 'texts'"),
        ({"text": "a", "texts": ["b"]}, "'text' or 'texts'"),
        ({"texts": []}, "1 to 256"),
        ({"texts": ["a"] * 257}, "1 to 256"),
        ({"text": 1}, "does not fit"),
        ({"text": "a", "place": "moon"}, "does not fit"),
        ({"text": "a", "mode": "x"}, "unknown field"),
    ],
)
def test_a_malformed_request_names_what_is_wrong(
    scanning: Running, asked: dict[str, Any], told: str
) -> None:
    reply = scanning.client.post("/v1/scan", json=asked)
    assert reply.status_code == 400
    assert told in reply.json()["error"]


def test_other_models_are_no_detectors(scanning: Running) -> None:
    for model in ("affine", "none"):
        reply = scanning.client.post("/v1/scan", json={"text": "a", "model": model})
        assert reply.status_code == 404


def test_the_protocol_serves_a_detector_as_well(scanning: Running) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [ATTACKS[0], HARMLESS[0]]}
    place = {"name": "place", "shape": [2], "datatype": "BYTES", "data": ["user", "user"]}
    path = "/v2/models/small/infer"
    reply = scanning.client.post(path, json={"inputs": [tensor, place]})
    assert reply.status_code == 200, reply.text
    outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
    assert outputs["score"][0] > 0.65 > outputs["score"][1]
    assert outputs["interlock_status"] == ["refused", "accepted"]
    place["data"] = ["user", "moon"]
    reply = scanning.client.post(path, json={"inputs": [tensor, place]})
    assert reply.status_code == 400
    assert "'place'" in reply.json()["error"]


def test_what_was_seen_is_counted(scanning: Running) -> None:
    scanned(scanning, texts=[ATTACKS[0], HARMLESS[0]])
    text = scanning.metrics()
    assert 'interlock_confidence_count{model="small"}' in text
    for stage in ("queue", "infer", "decode", "answer", "encode", *DETECTOR_STAGES):
        assert f'interlock_stage_seconds_count{{model="small",stage="{stage}"}}' in text
    assert 'interlock_detections_total{model="small",seen_by="none"}' in text
    assert 'interlock_answers_total{model="small",status="refused"}' in text
    assert ATTACKS[0] not in text


def test_scores_do_not_use_up_the_reasons_that_are_counted(scanning: Running) -> None:
    """Each score would be a reason of its own, and soon all of them "other"."""
    scanned(scanning, texts=[f"{text} {number}" for text in HARMLESS for number in range(20)])
    text = scanning.metrics()
    reasons = re.findall(r'interlock_reasons_total\{model="small",reason="([^"]*)"', text)
    assert [reason for reason in reasons if "below the threshold" in reason] == [
        "score # is below the threshold #"
    ]
    scanned(scanning, texts=[ATTACKS[0]])
    found = re.findall(r'reason="(rule [^"]*)"', scanning.metrics())
    assert found
    assert not any(";" in reason for reason in found)


def test_a_server_with_nothing_named_serves_the_shipped_detector_or_is_red(tmp_path: Path) -> None:
    from interlock.detect.model import SHIPPED

    with serving(tmp_path, {"detector": {"path": "detector:shipped"}}) as server:
        ready = server.get("/v2/health/ready").status_code
        reply = server.client.post("/v1/scan", json={"text": "Hello world"})
        if (SHIPPED / "manifest.json").exists():
            assert ready == 200
            assert reply.json()["attack"] is False
            reply = server.client.post("/v1/scan", json={"text": ATTACKS[0]})
            assert reply.json()["status"] == "refused"
        else:
            assert ready == 503
            assert reply.status_code == 503
            assert server.get("/health").json()["status"] == "unhealthy"


def test_a_detector_whose_files_come_later_is_asked_after_a_reload(tmp_path: Path) -> None:
    with serving(tmp_path, {"late": {"path": "late"}}, environ=ENVIRON) as server:
        assert server.client.post("/v1/scan", json={"text": "a"}).status_code == 404
        write_bundle(tmp_path / "late")
        assert admin(server, "models/late/reload", {}).status_code == 200
        assert scanned(server, text=HARMLESS[0])["model"] == "late"


def test_a_changed_bundle_of_a_detector_is_not_served(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "small")
    settings = bundle / "detector.json"
    settings.write_bytes(settings.read_bytes().replace(b"0.65", b"0.99"))
    with serving(tmp_path, {"small": {"path": "small"}}) as server:
        assert server.get("/v2/health/ready").status_code == 503
        assert "bundle_integrity" in server.get("/health").json()["error"]
        assert server.client.post("/v1/scan", json={"text": "a"}).status_code == 503


def test_a_stream_that_is_too_slow_or_has_too_long_a_line_ends(tmp_path: Path) -> None:
    write_bundle(tmp_path / "small")
    limits: dict[str, Any] = {"body_mb": 0.001, "body_seconds": 1.0}
    head = (
        b"POST /v1/scan HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    line = json.dumps({"text": HARMLESS[0]}).encode() + b"\n"
    with serving(tmp_path, {"small": {"path": "small"}}, **limits) as server:
        for sent, code in ((line, "slow_client"), (line + b"x" * 2000, "too_large")):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
                connection.sendall(head + b"%x\r\n%s\r\n" % (len(sent), sent))
                told = b""
                while not told.endswith(b"0\r\n\r\n"):
                    part = connection.recv(65536)
                    assert part
                    told += part
            found = [json.loads(part) for part in told.splitlines() if part.startswith(b"{")]
            assert found[0]["status"] == "accepted"
            assert (found[-1]["status"], found[-1]["code"]) == ("failed", code)
            assert f'interlock_errors_total{{code="{code}",model="small"}} 1.0' in server.metrics()
        assert server.client.post("/v1/scan", json={"text": "a"}).status_code == 200


def test_a_killed_process_costs_its_own_texts_and_none_passes_for_clean(tmp_path: Path) -> None:
    write_bundle(tmp_path / "small")
    lines = "\n".join(json.dumps({"text": ATTACKS[n % 3]}) for n in range(count(150, 1500)))
    with serving(tmp_path, {"small": {"path": "small", "workers": 2}}) as server:
        replies: list[str] = []
        asking = threading.Thread(
            target=lambda: replies.append(
                server.client.post("/v1/scan", content=lines, headers=STREAM).text
            )
        )
        asking.start()
        for _ in range(count(3, 20)):
            pids = children(server.process.pid)
            if pids and asking.is_alive():
                os.kill(pids[0], signal.SIGKILL)
            asking.join(0.5)
        asking.join(120)
        found = [json.loads(line) for line in replies[0].splitlines()]
        assert [one["line"] for one in found] == list(range(len(lines.splitlines())))
        assert {one["status"] for one in found} <= {"refused", "failed"}
        assert sum(one["status"] == "refused" for one in found) > len(found) / 2
        for one in found:
            if one["status"] == "failed":
                assert one["code"] in ("engine_crash", "deadline", "engine_unavailable")
        # One that was killed while it waited costs the next text that it gets.
        until(lambda: server.client.post("/v1/scan", json={"text": "a"}).status_code == 200)
        assert scanned(server, text=ATTACKS[0])["status"] == "refused"


def test_a_killed_process_costs_no_batch(tmp_path: Path) -> None:
    """Texts that were in it are asked again alone; what is lost still says so in its own row."""
    write_bundle(tmp_path / "small")
    settings = {"path": "small", "workers": 2, "call_seconds": 60}
    with serving(tmp_path, {"small": settings}) as server:
        over = threading.Event()

        def kill() -> None:
            while not over.wait(2):
                pids = children(server.process.pid)
                if pids:
                    os.kill(pids[0], signal.SIGKILL)

        killing = threading.Thread(target=kill)
        killing.start()
        try:
            rows: list[dict[str, Any]] = []
            for _ in range(count(12, 100)):
                found = scanned(server, texts=[ATTACKS[0]] * 100)
                assert [row["row"] for row in found["results"]] == list(range(100))
                rows += found["results"]
        finally:
            over.set()
            killing.join()
        assert {row["status"] for row in rows} <= {"refused", "failed"}
        lost = [row for row in rows if row["status"] == "failed"]
        assert len(lost) <= len(rows) / 4
        assert all({"code", "error", "retryable"} <= set(row) for row in lost)


class Trickling:
    """A request whose body comes in small parts."""

    def __init__(self, body: bytes, part: int = 1) -> None:
        self._body = body
        self._part = part

    async def stream(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), self._part):
            if not at % 100:
                await asyncio.sleep(0)  # lets the loop forget the time limits of parts that came
            yield self._body[at : at + self._part]


@pytest.fixture
def reading(tmp_path: Path) -> Scans:
    """Without models, to read lines."""
    settings = Settings(models={})
    metrics = Metrics()
    return Scans(
        Hosting(settings, tmp_path, metrics, lambda *_, **__: None), cast(Any, None), settings,
        metrics, tmp_path, read_body=cast(Any, None), client_of=cast(Any, None),
        look_again=cast(Any, None),
    )  # fmt: skip


async def lines(reading: Scans, body: Trickling) -> list[bytes]:
    return [line async for line in reading._lines(cast(Any, body))]


def test_a_line_in_very_many_parts_is_read_in_a_time_that_grows_with_its_length(
    reading: Scans,
) -> None:
    """Where each part costs a look at those before it, this takes minutes."""
    body = b"x" * 100_000 + b"\n\n" + b"y" * 3
    assert asyncio.run(lines(reading, Trickling(body))) == [b"x" * 100_000, b"yyy"]


def test_a_line_in_very_many_parts_takes_no_more_memory_than_its_length(reading: Scans) -> None:
    """A part of two bytes that is kept by itself takes over forty."""
    size = 400_000
    tracemalloc.start()
    try:
        (line,) = asyncio.run(lines(reading, Trickling(b"xy" * (size // 2), 2)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(line) == size
    assert most < 6 * size  # the body, the line twice, and what asyncio takes
