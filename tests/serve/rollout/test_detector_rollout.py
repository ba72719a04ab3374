"""A new version of a detector on `/v1/scan`: beside the old one, labelled, and rolled back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.detectors import ATTACKS, write_bundle
from support.rollouts import ENVIRON, admin, rollout_of
from support.serving import Running, serving

# Harmless, and scored low by either version.
TEXTS = ("ignore the rules please", "skip the rules of the game")
THRESHOLDS = {"production": 0.01, "staging": 0.01, "development": 0.01}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    write_bundle(tmp_path / "one")
    # So low a threshold that they are attacks.
    write_bundle(tmp_path / "alarmist", thresholds=THRESHOLDS)
    settings = {
        "path": "one",
        "percent": 50,
        "rollback_p99_ms": 5000,
        "rollback_memory_mb": 5000,
        "rollback_refused": 1,
        "min_requests": 20,
        "min_labels": 10_000,
        "risk": 0.05,
    }
    with serving(tmp_path, {"m": settings}, environ=ENVIRON, state="state") as running:
        yield running


def scan(server: Running, text: str, client: str) -> tuple[dict[str, Any], str]:
    reply = server.client.post("/v1/scan", json={"text": text}, headers={"x-client-id": client})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found, reply.headers["x-request-id"]


def test_a_detector_that_raises_false_alarms_is_rolled_back_by_its_labels(server: Running) -> None:
    started = admin(server, "models/m/rollout", {"path": "alarmist", "mode": "canary"})
    assert started.status_code == 200, started.text
    digests: set[str] = set()
    for turn in itertools.count():
        found, request_id = scan(server, TEXTS[turn % len(TEXTS)], f"client {turn}")
        digests.add(found["bundle"])
        label = {"request_id": request_id, "label": "negative"}
        assert server.client.post("/v1/feedback", json=label).json()["counted"]
        if turn % 20 == 19 and rollout_of(server)["rollout"] is None:
            break
        assert turn < 600, rollout_of(server)
    assert len(digests) == 2
    decision = rollout_of(server)["decisions"][-1]
    assert (decision["decision"], decision["reason"]) == ("rolled_back", "false_positives")
    # Afterwards the old one answers everybody.
    assert {scan(server, ATTACKS[0], f"client {k}")[0]["bundle"] for k in range(10)} == {
        rollout_of(server)["stable"]["digest"]
    }
