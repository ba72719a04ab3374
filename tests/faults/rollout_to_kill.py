"""Rolls candidates out in a state directory for ever, and says so after each recorded decision."""

from __future__ import annotations

import sys
from pathlib import Path

from support.kill import acknowledge

from interlock.errors import JournalError
from interlock.serve.rollout.evidence import Evidence, Seen
from interlock.serve.rollout.settings import RolloutSettings
from interlock.serve.rollout.store import Decision, Placement, RolloutStore, Running, Source

if __name__ == "__main__":
    directory, life = Path(sys.argv[1]), sys.argv[2]
    store = RolloutStore(directory)
    evidence = Evidence(RolloutSettings(), "canary", 10)
    for turn in range(100_000):
        placed = store.placement("m") or Placement(configured=("v0", None))
        name = f"{life}-{turn}"
        if placed.running is None:
            running = Running(
                id=name,
                mode="canary",
                percent=10,
                salt="00" * 16,
                candidate=Source(name, f"sha256:{name}"),
                started="",
            )
            after = Placement(configured=placed.configured, stable=placed.stable, running=running)
            store.decide(
                Decision(model="m", rollout=name, decision="started", reason="asked for"), after
            )
            acknowledge(f"started {name}")
            continue
        running = placed.running
        evidence.seen(Seen(True, False, 0.01, False))
        kept = Running(
            id=running.id,
            mode=running.mode,
            percent=running.percent,
            salt=running.salt,
            candidate=running.candidate,
            started="",
            evidence=evidence.state(),
        )
        store.save("m", Placement(configured=placed.configured, stable=placed.stable, running=kept))
        promoted = turn % 2 == 0
        decision = Decision(
            model="m",
            rollout=running.id,
            decision="promoted" if promoted else "rolled_back",
            reason="errors",
            ends=True,
            numbers=evidence.numbers(),
        )
        stable = running.candidate if promoted else placed.stable
        store.decide(decision, Placement(configured=placed.configured, stable=stable))
        acknowledge(f"{decision.decision} {running.id}")
        try:
            store.decide(decision, placed)
        except JournalError:
            continue
        raise AssertionError("a rollout ended twice")
