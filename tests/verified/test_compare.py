"""The comparison's figures, from circuits and ONNX side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.networks import examples
from support.provers import FixedPointProver

from interlock.verified import NoProver, Runner
from interlock.verified.compare import compare, differ, over_many


def test_without_circuits_there_is_nothing_to_compare_with_onnx(net: Path) -> None:
    found = compare(Runner(net, prover=NoProver("none")), examples("net", 2))
    assert [row.method for row in found.rows] == ["Whole Model", "Sliced ONNX", "Sliced Auto"]
    assert found.differences is None
    assert found.many is None
    assert [row.security for row in found.rows] == [0, 0, 0]
    assert [row.same_class for row in found.rows] == [None, True, True]
    assert found.rows[0].circuit_sizes == []
    assert found.rows[2].circuit_sizes == [None] * 5


def test_circuits_are_measured_against_onnx(net: Path) -> None:
    prover = FixedPointProver(keys={f"slice_{k}" for k in range(4)})
    found = compare(Runner(net, prover=prover), examples("net", 5))
    assert [row.method for row in found.rows][2:] == ["Sliced Witness", "Sliced Auto"]
    witness, auto = found.rows[2:]
    # The circuit that was missing was compiled; it still has no key.
    assert (witness.security, witness.onnx) == (0, 0)
    assert witness.circuit_sizes == [1000] * 5
    assert (auto.security, auto.security_gain, auto.proved, auto.onnx) == (80, 80, 4, 1)
    assert auto.overhead == pytest.approx(100 * (auto.seconds / found.rows[0].seconds - 1))
    assert found.differences is not None
    assert (found.differences.circuits, found.differences.onnx) == (5, 0)
    assert found.many is not None
    assert (found.many.inputs, found.many.same_class, found.many.refused) == (5, 5, 0)
    assert 0 < found.many.worst < 1e-2


def test_what_stands_against_the_proofs_is_told(net: Path) -> None:
    prover = FixedPointProver(warning="development SRS")
    assert compare(Runner(net, prover=prover)).weaknesses == ("development SRS",)
    assert compare(Runner(net, prover=prover), prove=False).weaknesses == ()


def test_without_proofs_no_row_claims_any(net: Path) -> None:
    found = compare(Runner(net, prover=FixedPointProver()), prove=False)
    assert [row.method for row in found.rows] == ["Whole Model", "Sliced ONNX", "Sliced Witness"]
    assert {row.security for row in found.rows} == {0}


def test_the_differences_are_the_formulas(net: Path) -> None:
    runner = Runner(net, prover=FixedPointProver(scale=4))
    onnx = runner.infer("onnx_only").logits
    circuits = runner.infer("auto")
    found = differ(onnx, circuits)
    distance = np.abs(circuits.logits.astype(np.float64) - onnx).ravel()
    assert found.maximum == distance.max()
    assert found.mean == pytest.approx(distance.mean(), rel=1e-12)
    assert found.total == pytest.approx(distance.sum(), rel=1e-12)
    norms = np.linalg.norm(circuits.logits.astype(np.float64) - onnx), np.linalg.norm(onnx)
    assert found.relative == pytest.approx(norms[0] / norms[1], rel=1e-6)
    assert [one.difference for one in found.largest] == sorted(distance)[:-4:-1]
    for one in found.largest:
        assert one.onnx == onnx.ravel()[one.index]
        assert one.circuit == circuits.logits.ravel()[one.index]


def test_inputs_out_of_range_are_counted(net: Path) -> None:
    found = over_many(Runner(net, prover=FixedPointProver(reach=0.5)), examples("net", 3))
    assert found.refused == 3


@pytest.mark.parametrize("prover", [FixedPointProver(reach=0.5), FixedPointProver(scale=3)])
def test_what_onnx_answered_is_no_agreement_of_circuits(
    net: Path, prover: FixedPointProver
) -> None:
    found = over_many(Runner(net, prover=prover), examples("net", 3))
    assert found.same_class <= found.inputs - found.refused
    assert (found.worst == 0) == (found.refused == found.inputs)


def test_a_model_that_is_not_sliced_has_one_row(unsliced: Path) -> None:
    with pytest.warns(UserWarning, match="not sliced"):
        runner = Runner(unsliced, prover=NoProver("none"))
    assert [row.method for row in compare(runner).rows] == ["Whole Model"]
