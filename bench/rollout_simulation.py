"""How often noise rolls a good candidate back, and how often a bad one is missed.

Simulated rollouts from a seed, judged by the code that the server runs. Clients differ in how
often they ask, fail and are slow, and are given to a version for good, as by the sticky hash. The
machine has slow spells and what both versions depend on has outages, which hit both. Half of the
candidates are good: no worse than the old version, or a little and within the limits. The others
are bad in one of five ways, of a strength that is drawn:

    erroring   7% to 30% of errors more          slow       3% to 15% more above the P99's limit
    refusing   16% to 50% of refusals more       alarmist   8% to 30% of false positives more
    leaking    memory that grows above the limit

    python bench/rollout_simulation.py --rollouts 2000 --seed 1
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from interlock.kernel.intervals import clopper_pearson_interval
from interlock.serve.rollout.evidence import Evidence, Seen
from interlock.serve.rollout.settings import RolloutSettings
from interlock.serve.rollout.sticky import place_of

GOOD = ("same", "better", "a little worse", "slow machine", "outage")
BAD = ("erroring", "slow", "refusing", "alarmist", "leaking")
CLIENTS = 300
A_LOOK = 50  # requests between two looks
LABELLED = 0.15
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Rollout:
    """One simulated rollout: what the candidate was, what became of it, after how many answers."""

    kind: str
    action: str
    trigger: str
    answers: int

    @property
    def wrong(self) -> bool:
        """A good candidate rolled back, or a bad one that was not."""
        return (self.action == "rollback") == (self.kind in GOOD)


def simulate(seed: int, kind: str) -> Rollout:
    """A rollout of a candidate of that kind, until it is decided."""
    rng = random.Random(seed)
    percent = rng.choice((10, 25, 50))
    settings = RolloutSettings(min_labels=50, max_requests=6000)
    evidence = Evidence(settings, "canary", percent)
    salt = rng.randbytes(16).hex()
    weights = list(itertools.accumulate(min(rng.paretovariate(1.3), 30) for _ in range(CLIENTS)))
    clients = [
        (
            place_of(salt, str(k)) < percent,
            rng.expovariate(1 / 0.003),  # its share of errors
            rng.expovariate(1 / 0.002),  # of slow answers
            rng.betavariate(1, 60),  # of refusals
            rng.betavariate(1, 40),  # of false positives
        )
        for k in range(CLIENTS)
    ]
    worse = _Worse.draw(kind, rng)
    spell = 0.0
    for request in itertools.count():
        if request % A_LOOK == 0:
            spell = _spell(kind, spell, rng)
            grown = (request / 20_000 if kind == "leaking" else 0) * 2000
            evidence.memory((200 + grown + rng.gauss(0, 10)) * MEGABYTE, 200 * MEGABYTE)
            found = evidence.judge()
            if found.action != "wait":
                return Rollout(kind, found.action, found.trigger, evidence.answers)
        at = bisect.bisect(weights, rng.random() * weights[-1])
        candidate, error, slow, refused, positive = clients[min(at, CLIENTS - 1)]
        if kind in ("outage", "a little worse"):
            error += spell
        else:
            slow += spell
        if candidate:
            error, slow = error * worse.factor + worse.error, slow * worse.factor + worse.slow
            refused, positive = refused + worse.refused, positive + worse.positive
        evidence.seen(
            Seen(
                candidate,
                rng.random() < error,
                0.06 if rng.random() < slow else 0.01,
                rng.random() < refused,
            )
        )
        if rng.random() < LABELLED:
            evidence.labelled(candidate, rng.random() < positive, False)
    raise AssertionError


@dataclass(frozen=True)
class _Worse:
    """What a candidate adds to each share; `factor` below 1 makes it better."""

    error: float = 0.0
    slow: float = 0.0
    refused: float = 0.0
    positive: float = 0.0
    factor: float = 1.0

    @classmethod
    def draw(cls, kind: str, rng: random.Random) -> _Worse:
        match kind:
            case "erroring":
                return cls(error=rng.uniform(0.07, 0.30))
            case "slow":
                return cls(slow=rng.uniform(0.03, 0.15))
            case "refusing":
                return cls(refused=rng.uniform(0.16, 0.50))
            case "alarmist":
                return cls(positive=rng.uniform(0.08, 0.30))
            case "better":
                return cls(factor=0.5)
            case "a little worse":
                return cls(error=0.015, slow=0.002)
        return cls()


def _spell(kind: str, spell: float, rng: random.Random) -> float:
    """What the machine, or an outage, adds for the next requests: spells that come and go."""
    comes, strength = {
        "slow machine": (0.2, 0.5),
        "outage": (0.05, 0.6),
        "a little worse": (0.05, 0.6),
    }.get(kind, (0.005, 0.1))
    if spell:
        return spell if rng.random() < 0.7 else 0.0
    return strength * rng.random() if rng.random() < comes else 0.0


def run(rollouts: int, seed: int) -> list[Rollout]:
    """Half of them good, half bad, each kind in turn."""
    found = []
    for n in range(rollouts):
        kinds = GOOD if n % 2 == 0 else BAD
        found.append(simulate(seed * 1_000_003 + n, kinds[n // 2 % len(kinds)]))
    return found


def summary(found: list[Rollout]) -> dict[str, Any]:
    """Wrong rollbacks of good ones and missed bad ones, with exact 95% intervals; and each kind."""

    def share(of: tuple[str, ...]) -> dict[str, Any]:
        mine = [one for one in found if one.kind in of]
        wrong = sum(one.wrong for one in mine)
        low, high = clopper_pearson_interval(wrong, len(mine))
        answers = sorted(one.answers for one in mine)
        return {
            "n": len(mine),
            "wrong": wrong,
            "interval95": [round(low, 5), round(high, 5)],
            "actions": dict(Counter(f"{one.action} {one.trigger}" for one in mine)),
            "median_answers": answers[len(answers) // 2] if answers else 0,
        }

    return {
        "wrong_rollbacks": share(GOOD),
        "missed": share(BAD),
        "kinds": {kind: share((kind,)) for kind in (*GOOD, *BAD)},
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    told = summary(run(options.rollouts, options.seed))
    told["seed"] = options.seed
    told["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
