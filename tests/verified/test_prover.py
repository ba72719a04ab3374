"""Where there is no prover, every question is answered with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.networks import shipped

from interlock.errors import ConfigError, EngineUnavailableError, MissingExtraError
from interlock.verified import CircuitProver, NoProver, Prover, slice_model
from interlock.verified.default_prover import default_prover, require_prover
from interlock.verified.prover import Limits

PART = slice_model(shipped("net")).slices[4]
INPUTS = {"fc2_relu": np.zeros((1, 84), np.float32)}


@pytest.mark.parametrize("name", ["key_bytes", "memory_bytes", "seconds", "circuit_bytes"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_limit_that_limits_nothing_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"the limit {name} is {value}"):
        Limits(**{name: value})
    assert getattr(Limits(**{name: 0}), name) == 0


def test_it_plans_a_fallback_and_knows_nothing() -> None:
    prover: Prover = NoProver("no circuit: why")
    plan = prover.plan(PART)
    assert (plan.slice, plan.decision, plan.reason) == ("slice_4", "fallback", "no circuit: why")
    assert prover.unavailable(PART) == "no circuit: why"
    assert prover.circuit_bytes(PART) is None
    assert prover.predicted_seconds(PART) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda prover: prover.setup(PART),
        lambda prover: prover.compile(PART),
        lambda prover: prover.witness(PART, INPUTS),
        lambda prover: prover.prove(PART, INPUTS),
    ],
    ids=["setup", "compile", "witness", "prove"],
)
def test_it_does_nothing(call: Callable[[Any], Any]) -> None:
    with pytest.raises(EngineUnavailableError, match="no circuit: why"):
        call(NoProver("no circuit: why"))


def test_without_the_extra_the_default_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = default_prover().unavailable(PART)
    assert reason == "no circuit: proving needs the extra 'zk' (pip install 'interlock[zk]')"
    with pytest.raises(MissingExtraError, match="making keys needs the extra 'zk'"):
        require_prover("making keys")


@pytest.mark.zk
def test_with_the_extra_the_default_is_ezkl(tmp_path: Any) -> None:
    prover = default_prover(cache=tmp_path)
    assert isinstance(prover, CircuitProver)
    assert prover.cache == tmp_path
    assert prover.unavailable(PART) == "no circuit: the slice is not set up"
