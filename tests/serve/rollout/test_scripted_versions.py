"""Candidates that misbehave as scripted are rolled back by the server; a good one is promoted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import scripted_versions
from support.rollouts import ENVIRON, Clients, admin, decided, rollout_of
from support.serving import Running, serving

# The time limit is wide, since the machine of the tests is shared; the slow version is above it.
COMMON: dict[str, Any] = {
    "path": "route:scripted-stable",
    "percent": 50,
    "rollback_p99_ms": 1500,
    "rollback_memory_mb": 5000,
    "min_requests": 30,
    "risk": 0.05,
    "positive": "y",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "slow": {"rollback_p99_ms": 400},
    "erroring": {},
    # The limit of the process lies far above, so that the trigger comes before it.
    "leaking": {"rollback_memory_mb": 250, "memory_mb": 4096},
    "alarmist": {"min_labels": 10_000},
    "good": {},
    "unlabelled": {"min_labels": 5},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("scripted")
    environ = {**ENVIRON, **scripted_versions.install(place)}
    named = {name: COMMON | own for name, own in SETTINGS.items()}
    with serving(place, named, environ=environ, state="state") as running:
        yield running


def run(server: Running, model: str, kind: str, **clients: Any) -> tuple[Clients, dict[str, Any]]:
    """Roll a scripted version out to the clients until it is decided; the last decision."""
    asked = {"path": f"route:scripted-{kind}", "mode": "canary"}
    started = admin(server, f"models/{model}/rollout", asked)
    assert started.status_code == 200, started.text
    found = Clients(server, model, **clients)
    found.run(lambda: rollout_of(server, model)["rollout"] is None)
    decision: dict[str, Any] = rollout_of(server, model)["decisions"][-1]
    return found, decision


@pytest.mark.parametrize(
    ("kind", "trigger", "label"),
    [
        ("slow", "p99", False),
        ("erroring", "errors", False),
        ("leaking", "memory", False),
        ("alarmist", "false_positives", True),
    ],
)
def test_a_bad_candidate_is_rolled_back_on_its_own(
    server: Running, kind: str, trigger: str, label: bool
) -> None:
    stable = rollout_of(server, kind)["stable"]["digest"]
    clients, decision = run(server, kind, kind, label=label)
    assert (decision["decision"], decision["reason"]) == ("rolled_back", trigger)
    assert decision["ends"]
    if trigger != "memory":
        numbers = decision["numbers"]["triggers"][trigger]
        needed = decision["numbers"]["log_e_to_roll_back"]
        assert numbers["log_e_worse"] > 0
        assert numbers["candidate"]["share"] > numbers["stable"]["share"]
        assert numbers["candidate"]["answers"] >= 10
        assert needed > 0
    after = rollout_of(server, kind)
    assert after["stable"]["digest"] == stable
    assert after["rollout"] is None
    # What failed was said to the client; nothing else did.
    assert set(clients.codes) <= ({200, 422} if kind == "erroring" else {200})
    line = f'model="{kind}",trigger="{trigger}"}} 1.0'
    assert f'interlock_rollout_decisions_total{{decision="rolled_back",{line}' in server.metrics()


def test_a_good_candidate_is_promoted_on_its_own(server: Running) -> None:
    clients, decision = run(server, "good", "good")
    assert (decision["decision"], decision["reason"]) == ("promoted", "shown_good")
    assert set(clients.codes) == {200}
    assert decision["numbers"]["answers"] > 100
    after = rollout_of(server, "good")
    assert after["stable"]["path"] == "route:scripted-good"
    assert after["previous"] is not None


def test_a_candidate_that_never_answers_gets_no_traffic(server: Running) -> None:
    refused = admin(server, "models/unlabelled/rollout", {"path": "route:scripted-broken"})
    assert refused.status_code == 422
    assert decided(server, "unlabelled") == []
