"""Production validation: what passes, what is skipped, and that each check can fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.provers import FixedPointProver

from interlock.errors import InputError
from interlock.verified import NoProver, Runner
from interlock.verified.deployment import Check, deploy_production


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_sound_model_without_circuits_passes_what_can_be_checked(net: Path) -> None:
    found = by_name(deploy_production(Runner(net, prover=NoProver("no circuit")), inputs=4))
    assert {name for name, check in found.items() if check.result == "skipped"} == {
        "circuits' error"
    }
    assert {check.result for check in found.values()} == {"passed", "skipped"}
    assert "95% interval" in found["accuracy"].detail
    assert found["ezkl_only"].detail.startswith("refused, as it must be")


def test_a_sound_model_with_circuits_passes_everything(net: Path) -> None:
    found = deploy_production(Runner(net, prover=FixedPointProver()), inputs=4)
    assert {check.result for check in found} == {"passed"}


def test_what_stands_against_the_proofs_is_told(net: Path) -> None:
    prover = FixedPointProver(warning="development SRS")
    found = by_name(deploy_production(Runner(net, prover=prover), inputs=1))
    for name in ("auto", "ezkl_only"):
        assert found[name].result == "passed"
        assert found[name].detail.endswith("; development SRS")


def test_a_coarse_circuit_fails(net: Path) -> None:
    found = by_name(deploy_production(Runner(net, prover=FixedPointProver(scale=3)), inputs=4))
    assert found["circuits' error"].result == "failed"
    assert "of the largest logit" in found["circuits' error"].detail


def test_circuits_that_refuse_every_input_fail(net: Path) -> None:
    """ONNX answers in their place, which says nothing of their error."""
    prover = FixedPointProver(reach=0.5)
    found = by_name(deploy_production(Runner(net, prover=prover), inputs=4))
    assert found["circuits' error"].result == "failed"
    assert "on all 4 inputs" in found["circuits' error"].detail


class Careless(FixedPointProver):
    """Forecasts below zero and sizes of nothing, so that no limit stops it."""

    def predicted_seconds(self, part: object) -> float:
        return -1.0

    def circuit_bytes(self, part: object) -> int:
        return 0


def test_limits_that_are_not_heeded_fail(net: Path) -> None:
    found = by_name(deploy_production(Runner(net, prover=Careless()), inputs=2))
    assert found["size_limit 0"].result == "failed"
    # A proof that takes any time at all comes later than a limit of 0 allows.
    assert found["time_limit 0"].result == "passed"


def test_a_model_that_is_not_sliced_fails(unsliced: Path) -> None:
    with pytest.warns(UserWarning, match="not sliced"):
        runner = Runner(unsliced, prover=NoProver("none"))
    found = by_name(deploy_production(runner, inputs=2))
    assert found["files"].result == "failed"
    assert found["same bits in slices"].result == "skipped"


def test_without_labels_accuracy_is_skipped(net: Path) -> None:
    (net / "examples.npz").unlink()
    found = by_name(deploy_production(Runner(net, prover=NoProver("none")), inputs=2))
    assert found["accuracy"].result == "skipped"
    assert found["same bits in slices"].detail.startswith("1 of 1 inputs")


def test_broken_examples_are_named(net: Path) -> None:
    (net / "examples.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"examples\.npz cannot be read"):
        deploy_production(Runner(net, prover=NoProver("none")))
    np.savez(net / "examples.npz", other=np.zeros(3))
    with pytest.raises(InputError, match=r"examples\.npz cannot be read"):
        deploy_production(Runner(net, prover=NoProver("none")))
