"""How far the circuits' integers are from floats, and that they are the integers meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import fixed_point
from support.counts import count
from support.networks import examples, shipped

from interlock.engines.onnx import OnnxSession
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.directory import Cuts, cut
from interlock.verified.ezkl_backend import CircuitSettings

SCALE = CircuitSettings().scale


@pytest.mark.parametrize(("name", "inputs"), [("net", 200), ("doom", 200)])
def test_the_error_stays_below_a_thousandth_of_the_largest_logit(name: str, inputs: int) -> None:
    images = np.concatenate(examples(name, inputs))
    assert len(images) == inputs
    found = fixed_point.run(shipped(name), images, SCALE)
    session = OnnxSession(shipped(name))
    exact = np.concatenate([session.run({"input": image[None]})["logits"] for image in images])
    error = np.abs(found - exact).max(axis=1) / np.abs(exact).max(axis=1)
    assert error.max() <= 1e-3
    assert np.array_equal(found.argmax(axis=1), exact.argmax(axis=1))


FULL = pytest.mark.skipif(count(0, 1) == 0, reason="takes half a minute: `make test-full`")


@pytest.mark.zk
@pytest.mark.parametrize("name", ["net", pytest.param("doom", marks=FULL)])
def test_circuits_give_these_integers(name: str, tmp_path: Path) -> None:
    """Witnesses of the lowered circuits against the oracle, slice after slice."""
    images = examples(name, count(1, 20))
    with CircuitProver(tmp_path, workers=1) as prover:
        for image in images:
            tensors = {"input": image}
            for part in cut(shipped(name), Cuts()).slices:
                given = {spec.name: tensors[spec.name] for spec in part.inputs}
                tensors |= prover.witness(part, given)
            assert np.array_equal(
                tensors["logits"], fixed_point.run(shipped(name), image, SCALE).astype(np.float32)
            )
