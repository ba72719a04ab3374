"""kill -9 at random moments: a decision that was acknowledged is never lost, and none is twice."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import httpx2
from support.counts import count
from support.kill import run_and_kill
from support.rollouts import ENVIRON, HEADERS, rollout_of
from support.rollouts import write_versions as versions
from support.serving import serving

from interlock.serve.rollout.store import RolloutStore

CHILD = Path(__file__).with_name("rollout_to_kill.py")


def test_no_recorded_decision_is_lost_or_taken_twice(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = random.Random(seed)
    acknowledged: list[str] = []
    for life in range(count(8, 60)):
        ended = run_and_kill(
            CHILD,
            [str(tmp_path), str(life)],
            rng=rng,
            after_lines=(0, 30),
            extra_seconds=rng.choice((0.002, 0.2)),
        )
        assert ended.killed
        acknowledged += ended.acknowledged
        store = RolloutStore(tmp_path)
        made = store.decisions("m", 1_000_000)
        recorded = [f"{d.decision} {d.rollout}" for d in made]
        assert len(set(recorded)) == len(recorded)
        ends = [d.rollout for d in made if d.ends]
        assert len(set(ends)) == len(ends)
        assert [line for line in recorded if line in set(acknowledged)] == acknowledged
        # The state is that of the last decision, acknowledged or not.
        placed = store.placement("m")
        if made:
            assert placed is not None
            running = placed.running is not None and placed.running.id == made[-1].rollout
            assert running == (made[-1].decision == "started")
            promoted = [d.rollout for d in made if d.decision == "promoted"]
            stable = None if placed.stable is None else placed.stable.path
            assert stable == (promoted[-1] if promoted else None)
        store.close()
    assert len(acknowledged) > count(8, 60)


def test_a_server_that_is_killed_stands_by_what_it_told(tmp_path: Path) -> None:
    """The server is killed while rollouts are started and ended over HTTP."""
    versions(tmp_path)
    named = {"m": {"path": "v0.onnx", "percent": 50}}
    rng = random.Random(4)
    told: list[str] = []  # what the last server answered last
    for _ in range(count(2, 20)):
        with serving(tmp_path, named, environ=ENVIRON, state="state") as server:
            status = rollout_of(server)
            made = [d["decision"] for d in status["decisions"]]
            if told:
                # What was asked when the server died may have been recorded, or not.
                assert told[-1] in made[-2:]
            assert (status["rollout"] is not None) == (bool(made) and made[-1] == "started")
            killer = threading.Timer(rng.uniform(0.5, 4), server.process.kill)
            killer.start()
            told = []
            try:
                while True:
                    # Of two versions, whichever is not served.
                    path = (
                        "v1.onnx"
                        if rollout_of(server)["stable"]["path"] == "v0.onnx"
                        else ("v0.onnx")
                    )
                    for action, body in (
                        ("", {"path": path, "mode": "canary"}),
                        ("/promote" if rng.random() < 0.5 else "/rollback", {}),
                    ):
                        url = f"/v1/admin/models/m/rollout{action}"
                        reply = server.client.post(url, json=body, headers=HEADERS)
                        if reply.status_code == 200:
                            told.append(reply.json()["decisions"][-1]["decision"])
            except (httpx2.TransportError, AssertionError):
                assert server.process.wait(30) != 0
            killer.join()
