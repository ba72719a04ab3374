"""The health is a real inference's word: healthy, degraded where slow, unhealthy where it fails."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from serve.test_lane import Doubling
from support import models
from support.serving import serving

from interlock.errors import EngineError
from interlock.kernel.clock import Deadline
from interlock.serve.health import Canary, Health, worst


class Canaried(Doubling):
    """A served model whose canary does as the test says."""

    error: Exception | None = None
    seconds = 0.0
    canaries = 0

    def canary(self, *, deadline: Deadline) -> None:
        self.canaries += 1
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error


def test_the_three_words() -> None:
    served = Canaried()
    found = Canary(served, degraded_ms=60_000, seconds=0).check()
    assert set(found.document()) == {"status", "latency_ms", "model"}
    assert (found.status, found.model) == ("healthy", "doubling")
    served.seconds = 0.01
    found = Canary(served, degraded_ms=5, seconds=0).check()
    assert found.status == "degraded"
    assert found.latency_ms is not None
    assert found.latency_ms > 5
    assert found.message == "inference is slower than expected"
    served.error = EngineError("no answer")
    found = Canary(served, degraded_ms=5, seconds=0).check()
    assert (found.status, found.error) == ("unhealthy", "engine: no answer")
    served.error = ValueError("what the input held")
    assert Canary(served, degraded_ms=5, seconds=0).check().error == "ValueError"


def test_askers_at_the_same_time_share_one_inference() -> None:
    served = Canaried()
    served.seconds = 0.05
    canary = Canary(served, degraded_ms=60_000, seconds=60)
    threads = [threading.Thread(target=canary.check) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert served.canaries == 1


def test_the_worst_counts_and_nothing_is_unhealthy() -> None:
    good, slow = Health("healthy", "a", 1.0), Health("degraded", "b", 90.0)
    assert worst([good]) == "healthy"
    assert worst([slow, good]) == "degraded"
    assert worst([slow, Health("unhealthy", "c", error="x")]) == "unhealthy"
    assert worst([]) == "unhealthy"


@pytest.mark.parametrize(("limit", "status"), [(60_000.0, "healthy"), (0.001, "degraded")])
def test_a_server_of_one_model_answers_as_the_documents_say(
    tmp_path: Path, limit: float, status: str
) -> None:
    (tmp_path / "affine.onnx").write_bytes(models.affine())
    with serving(tmp_path, {"affine": {"path": "affine.onnx"}}, degraded_ms=limit) as running:
        reply = running.get("/health")
        told = reply.json()
        assert (reply.status_code, told["status"], told["model"]) == (200, status, "affine")
        assert told["latency_ms"] > 0
        assert running.get("/v2/health/ready").status_code == 200
