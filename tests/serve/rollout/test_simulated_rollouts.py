"""Noise rolls back few good candidates, and hides few bad ones: simulated, from a seed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from support.counts import count

BENCH = Path(__file__).parents[3] / "bench" / "rollout_simulation.py"


def simulation() -> Any:
    spec = importlib.util.spec_from_file_location("rollout_simulation", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_wrong_rollbacks_and_missed_ones_stay_below_two_in_a_hundred() -> None:
    """At the full count, as the upper ends of the 95% intervals; else none in a few dozen."""
    rollouts = count(54, 2000)
    told = simulation().summary(simulation().run(rollouts, seed=1))
    for name in ("wrong_rollbacks", "missed"):
        assert told[name]["n"] == rollouts // 2
        if rollouts == 2000:
            assert told[name]["interval95"][1] <= 0.02, told
        else:
            assert told[name]["wrong"] == 0, told
    good, bad = told["wrong_rollbacks"]["actions"], told["missed"]["actions"]
    assert good["promote shown_good"] > rollouts * 0.3
    for trigger in ("errors", "p99", "refused", "false_positives", "memory"):
        assert bad[f"rollback {trigger}"] > rollouts * 0.05
