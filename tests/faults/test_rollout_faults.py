"""Rollouts under faults: reloads under load, a full disk, a wall clock that jumps."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
from support import models, scripted_versions
from support.counts import count
from support.rollouts import ENVIRON, HEADERS, Clients, admin, decided, rollout_of, until
from support.rollouts import write_versions as versions
from support.serving import Running, serving

RATE = 50.0
ASKING = 4


def test_reloads_under_load_drop_no_request_and_mix_no_answer(tmp_path: Path) -> None:
    """50 requests a second; each answer is that of the version whose digest it carries."""
    (tmp_path / "m.onnx").write_bytes(models.shifted(0))
    numbers: dict[str, float] = {}
    failed: list[Any] = []
    mixed: list[Any] = []
    answers = [0]
    over = threading.Event()
    with serving(tmp_path, {"m": {"path": "m.onnx"}}, environ=ENVIRON) as server:
        numbers[rollout_of(server)["stable"]["digest"]] = 0
        seen: list[tuple[str, float]] = []

        def load() -> None:
            body = {
                "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]
            }
            with httpx2.Client(base_url=server.url, timeout=60.0) as client:
                due = time.monotonic()
                while not over.is_set():
                    due += ASKING / RATE
                    time.sleep(max(0.0, due - time.monotonic()))
                    reply = client.post("/v2/models/m/infer", json=body)
                    answers[0] += 1
                    if reply.status_code != 200:
                        failed.append(reply.text)
                        continue
                    found = reply.json()
                    data = found["outputs"][0]["data"]
                    by = data[0] - 2
                    if data != [2 + by, 4 + by, 6 + by]:
                        mixed.append(data)
                    if found["parameters"]["digest"] != found["model_version"]:
                        mixed.append(found)
                    seen.append((found["model_version"], by))

        threads = [threading.Thread(target=load) for _ in range(ASKING)]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, count(5, 1000) + 1):
                (tmp_path / "next.onnx").write_bytes(models.shifted(number))
                os.replace(tmp_path / "next.onnx", tmp_path / "m.onnx")  # noqa: PTH105
                told = admin(server, "models/m/reload", {}).json()
                assert told["changed"], told
                numbers[told["digest"]] = number
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
        until(lambda: rollout_of(server)["retiring"] == 0)
        assert server.metrics().count("interlock_worker_processes") > 0
        assert 'interlock_worker_processes{model="m"} 1.0' in server.metrics()
    assert failed == []
    assert mixed == []
    assert [(digest, by) for digest, by in seen if numbers[digest] != by] == []
    assert len({digest for digest, _ in seen}) > 1
    assert answers[0] > 20


def test_a_bad_version_under_reload_leaves_the_old_one_answering(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models.shifted(0))
    with serving(tmp_path, {"m": {"path": "m.onnx"}}, environ=ENVIRON) as server:
        for content in (b"", models.stub(), models.affine(), models.endless_loop()[:50]):
            (tmp_path / "m.onnx").write_bytes(content)
            refused = admin(server, "models/m/reload", {})
            assert refused.status_code == 422, refused.text
            assert server.infer("m", [[1, 2, 3]]).json()["outputs"][0]["data"][0] == 2
        assert server.get("/v2/health/ready").status_code == 200


def limit_file_size(server: Running, size: int) -> None:
    """From now on no file of the server may grow above `size` bytes: a full disk."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_stops_decisions_and_no_answers(tmp_path: Path) -> None:
    environ = {**ENVIRON, **scripted_versions.install(tmp_path)}
    settings = {
        "path": "route:scripted-stable",
        "percent": 50,
        "min_requests": 30,
        "rollback_p99_ms": 5000,
        "rollback_memory_mb": 5000,
    }
    with serving(
        tmp_path, {"m": settings}, environ=environ, state="state", degraded_ms=5000
    ) as server:
        asked = {"path": "route:scripted-erroring", "mode": "canary"}
        assert admin(server, "models/m/rollout", asked).status_code == 200
        limit_file_size(server, 1)
        clients = Clients(server, "m")

        def is_due() -> bool:
            """Whether the candidate would be rolled back, if that could be recorded."""
            found = rollout_of(server)
            numbers = found["rollout"]["evidence"]
            errors = numbers["triggers"]["errors"]
            most = min(errors["log_e_above"], errors["log_e_worse"])
            return bool(found["fault"]) and most > numbers["log_e_to_roll_back"]

        clients.run(is_due)
        assert rollout_of(server)["rollout"] is not None
        assert [d for d, _ in decided(server)] == ["started"]
        health = server.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert "cannot be recorded" in health.json()["message"]
        assert 'interlock_rollout_fault{model="m"} 1.0' in server.metrics()
        refused = admin(server, "models/m/rollout/promote", {})
        assert (refused.status_code, refused.json()["code"]) == (503, "storage")
        assert set(clients.codes) == {200, 422}
        limit_file_size(server, resource.RLIM_INFINITY)
        until(lambda: rollout_of(server)["rollout"] is None)
        assert decided(server)[-1] == ("rolled_back", "errors")
        until(lambda: rollout_of(server)["fault"] == "")
        assert server.get("/health").json()["status"] == "healthy"


JUMPS = """
import itertools, time
_turn, _time = itertools.count(), time.time
time.time = lambda: _time() + (-1) ** next(_turn) * 4e7
"""


def test_a_wall_clock_that_jumps_changes_no_decision(tmp_path: Path) -> None:
    """Each look at it is a year before or after the one before."""
    environ = {**ENVIRON, **scripted_versions.install(tmp_path)}
    (tmp_path / "sitecustomize.py").write_text(JUMPS)
    settings = {
        "path": "route:scripted-stable",
        "percent": 50,
        "min_requests": 30,
        "rollback_p99_ms": 5000,
        "rollback_memory_mb": 5000,
    }
    with serving(tmp_path, {"m": settings}, environ=environ, state="state") as server:
        asked = {"path": "route:scripted-erroring", "mode": "canary"}
        assert admin(server, "models/m/rollout", asked).status_code == 200
        clients = Clients(server, "m")
        clients.run(lambda: rollout_of(server)["rollout"] is None)
        assert decided(server)[-1] == ("rolled_back", "errors")
        assert set(clients.codes) == {200, 422}
        assert server.get("/health").status_code == 200


SECRET = "canary-9b2c-do-not-log"


def test_nothing_that_is_posted_to_feedback_or_the_admin_api_is_kept_in_log_or_metrics(
    tmp_path: Path,
) -> None:
    versions(tmp_path)
    named = {"m": {"path": "v0.onnx", "percent": 50}}
    codes: set[int] = set()
    with serving(tmp_path, named, environ=ENVIRON, state="state") as server:
        ask = server.client
        started = admin(server, "models/m/rollout", {"path": "v1.onnx", "mode": "canary"})
        assert started.status_code == 200
        posted: tuple[Any, ...] = (
            {"request_id": SECRET, "label": "positive"},
            {"request_id": "x", "label": SECRET},
            {"request_id": "x", "label": "positive", SECRET: 1},
            {"labels": [{"request_id": SECRET, "label": "negative"}]},
            {"labels": SECRET},
            SECRET,
        )
        for body in posted:
            codes.add(ask.post("/v1/feedback", json=body).status_code)
        orders: tuple[tuple[str, dict[str, Any]], ...] = (
            ("rollout", {"path": SECRET}),
            ("rollout", {"path": "v1.onnx", "digest": SECRET}),
            ("rollout", {"path": "v1.onnx", "mode": SECRET}),
            ("reload", {"path": SECRET}),
            ("rollout/promote", {SECRET: 1}),
            ("rollout/rollback", {"reason": SECRET}),
        )
        for path, order in orders:
            codes.add(admin(server, f"models/m/{path}", order).status_code)
            codes.add(ask.post(f"/v1/admin/models/m/{path}", json=order).status_code)
            wrong = {"authorization": f"Bearer {SECRET}"}
            codes.add(ask.post(f"/v1/admin/{SECRET}", json=order, headers=wrong).status_code)
        reply = server.infer("m", [[1, 2, 3]], headers={"x-client-id": SECRET})
        codes.add(reply.status_code)
        assert {200, 400, 401, 404} <= codes
        assert not {code for code in codes if code >= 500}
        kept = server.metrics() + server.get("/health").text
        server.stop()
        for secret in (SECRET, HEADERS["authorization"].split()[1]):
            assert secret not in kept
            assert secret.encode() not in server.raw_log
            assert secret.encode() not in server.stdout.read_bytes()
