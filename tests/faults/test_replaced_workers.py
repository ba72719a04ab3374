"""A worker that takes over runs the very files that the first one ran, or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.test_serve_faults import until, workers
from support.bundles import strict_bundle
from support.detectors import ATTACKS, HARMLESS, write_bundle
from support.processes import gone
from support.serving import serving
from support.text_models import tiny_directory

from interlock.detect.policy import load_policy
from interlock.errors import EngineUnavailableError, InterlockError
from interlock.kernel.clock import Deadline
from interlock.serve.lost import error_of
from interlock.serve.opening import open_model
from interlock.serve.served import Answer, Served
from interlock.serve.settings import ModelSettings

POLICY = """
schema = 1
otherwise = "allow"

[unjudged]
no_model = "escalate"
no_classifier = "escalate"
error = "escalate"
cut = "flag"
anomaly = "flag"
"""
ROUTE = """
schema = 1
name = "r"
otherwise = "refuse"

[[step]]
name = "model"
engine = "strict.bundle"
options = { bundle = "bundle" }
guards = ["strict.masks"]
"""
STAGES = ("production", "staging", "development")
TEXT = {"text": np.array([ATTACKS[0]], dtype=object)}
PROMPT = {"prompt": np.array(["the thin thing"], dtype=object)}
ROWS = {"x": np.ones((1, 4), np.float32)}


@contextmanager
def started(place: Path, **settings: Any) -> Iterator[Served]:
    served = open_model("m", ModelSettings(**settings), place)
    try:
        served.start(Deadline.after(60))
        yield served
    finally:
        served.close()


def replaced(served: Served, inputs: dict[str, Any]) -> Answer:
    """Kill the processes; the answer of those that take over, or of none."""
    before = served.workers()
    assert before.pids
    for pid in before.pids:
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while set(served.workers().pids) & set(before.pids):
        assert time.monotonic() < until
        time.sleep(0.01)
    answer = served.infer(inputs, deadline=Deadline.after(30))
    if answer.lost and "engine_crash" in str(error_of(answer).code):
        # The call that met the dead one; the next is the replacement's.
        answer = served.infer(inputs, deadline=Deadline.after(30))
    return answer


def put(source: Path, place: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(source, place)


def refuses(answer: Answer) -> None:
    """Nothing ran, and the client is told to come back."""
    assert answer.lost
    error = error_of(answer)
    assert isinstance(error, EngineUnavailableError)
    assert "digest" in error.message or "another file" in error.message


def test_a_detector_whose_bundle_was_replaced_by_another_sound_one(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    write_bundle(tmp_path / "other", thresholds=dict.fromkeys(STAGES, 0.99))
    shutil.copytree(tmp_path / "bundle", tmp_path / "first")
    with started(tmp_path, path="bundle", call_seconds=30) as served:
        put(tmp_path / "other", tmp_path / "bundle")
        refuses(replaced(served, TEXT))
        with pytest.raises(InterlockError, match="digest"):
            served.canary(deadline=Deadline.after(30))
        put(tmp_path / "first", tmp_path / "bundle")
        assert str(served.infer(TEXT, deadline=Deadline.after(30)).summary.status) == "refused"


def test_a_detector_whose_policy_was_changed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY + '[[rules]]\nband = ["high"]\naction = "block"\n')
    load_policy(policy)
    with started(tmp_path, path="bundle", policy="policy.toml", call_seconds=30) as served:
        policy.write_text(POLICY)
        load_policy(policy)
        refuses(replaced(served, TEXT))


def test_a_route_whose_bundle_was_replaced(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "bundle")
    strict_bundle(tmp_path / "other", name="another")
    (tmp_path / "route.toml").write_text(ROUTE)
    with started(tmp_path, path="route.toml", workers=2, call_seconds=30) as served:
        put(tmp_path / "other", tmp_path / "bundle")
        refuses(replaced(served, ROWS))


def test_a_text_model_whose_bundle_was_replaced(tmp_path: Path) -> None:
    tiny_directory(tmp_path / "bundle")
    tiny_directory(tmp_path / "other", seed=1)
    with started(tmp_path, path="bundle", answer_tokens=4) as served:
        put(tmp_path / "other", tmp_path / "bundle")
        refuses(replaced(served, PROMPT))


def test_the_same_files_are_taken_up_again(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    with started(tmp_path, path="bundle", workers=2, call_seconds=30) as served:
        texts = {"text": np.array([*ATTACKS, *HARMLESS], dtype=object)}
        before = served.infer(texts, deadline=Deadline.after(30))
        after = replaced(served, texts)
        assert after.outputs["score"].tolist() == before.outputs["score"].tolist()


def test_readiness_is_red_while_the_files_are_others_and_green_when_they_are_back(
    tmp_path: Path,
) -> None:
    write_bundle(tmp_path / "bundle")
    write_bundle(tmp_path / "other", thresholds=dict.fromkeys(STAGES, 0.99))
    shutil.copytree(tmp_path / "bundle", tmp_path / "first")
    with serving(tmp_path, {"m": {"path": "bundle"}}) as server:
        put(tmp_path / "other", tmp_path / "bundle")
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
            assert gone(pid)
        refused = server.client.post("/v1/scan", json={"text": HARMLESS[0]})
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"]
        # The refusal is told to the client first, and noted for the model right after.
        until(lambda: server.get("/v2/health/ready").status_code == 503)
        for path in ("/v2/models/m/ready", "/health"):
            assert server.get(path).status_code == 503
        assert "bundle_integrity" in server.get("/health").json()["error"]
        put(tmp_path / "first", tmp_path / "bundle")
        until(lambda: server.get("/v2/health/ready").status_code == 200)
        answer = server.client.post("/v1/scan", json={"text": HARMLESS[0]})
        assert answer.json()["status"] == "accepted"
