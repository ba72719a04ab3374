"""What is planned for a slice, before anything is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.models import FLOAT, build, constant, tensor
from support.networks import dense, residual, shipped

from interlock.verified.cost import BLINDING, LEAST_LOGROWS, cost_of
from interlock.verified.directory import Cuts, cut
from interlock.verified.planner import combined, plan_slice, tiling_of
from interlock.verified.prover import Limits
from interlock.verified.slices import Slice
from interlock.verified.tiling import problem_of

LAPTOP = Limits(key_bytes=300_000_000, memory_bytes=1_500_000_000)


def slices(name: str) -> tuple[Slice, ...]:
    return cut(shipped(name), Cuts()).slices


@pytest.mark.parametrize("name", ["net", "doom"])
def test_shipped_models_are_planned_within_the_limits(name: str) -> None:
    for part in slices(name):
        planned = plan_slice(part, LAPTOP)
        assert planned.plan.decision in ("prove", "tile")
        assert planned.plan.key_bytes <= 300_000_000
        assert planned.plan.memory_bytes <= 1_500_000_000
        assert planned.tiling is not None
        assert problem_of(planned.tiling.geometry, list(planned.tiling.pieces)) is None
        assert planned.plan.pieces == len(planned.tiling.pieces)
        assert planned.plan.circuits == len(planned.tiling.circuits)


def test_a_slice_that_fits_stays_in_one_piece() -> None:
    plan = plan_slice(slices("net")[4], LAPTOP).plan
    assert (plan.decision, plan.pieces, plan.logrows) == ("prove", 1, 10)


def test_a_slice_that_does_not_fit_is_cut() -> None:
    part = slices("net")[1]
    assert plan_slice(part, Limits()).plan.decision == "prove"
    assert plan_slice(part, Limits()).plan.key_bytes > 300_000_000
    plan = plan_slice(part, LAPTOP).plan
    assert plan.decision == "tile"
    assert plan.circuits < plan.pieces  # bands of the same channels share one


def test_smaller_limits_give_smaller_pieces() -> None:
    part = slices("net")[0]
    sizes = []
    for megabytes in (300, 140, 70, 35):
        plan = plan_slice(part, Limits(key_bytes=megabytes * 1_000_000)).plan
        assert plan.decision == "tile"
        assert plan.key_bytes <= megabytes * 1_000_000
        sizes.append(plan.pieces)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(key_bytes=1_000_000), "proving key"),
        (Limits(memory_bytes=50_000_000), "memory"),
        (Limits(seconds=0.1), "time"),
        (Limits(circuit_bytes=100), "compiled circuits"),
    ],
)
def test_a_fallback_names_the_limit(limits: Limits, named: str) -> None:
    plan = plan_slice(slices("net")[2], limits).plan
    assert plan.decision == "fallback"
    assert named in plan.reason
    assert "limit" in plan.reason


def test_an_operator_without_circuit_is_named() -> None:
    model = build(
        [helper.make_node("Sigmoid", ["x"], ["y"])],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2])],
        [],
    )
    plan = plan_slice(cut(model, Cuts()).slices[0], LAPTOP).plan
    assert (plan.decision, plan.reason) == (
        "fallback",
        "no circuit is made for the operator Sigmoid",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_left_to_onnx(value: float) -> None:
    """A circuit would take NaN for zero, and prove what the model does not give."""
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", FLOAT, [1, 2])],
        [tensor("y", FLOAT, [1, 2])],
        [constant("w", [[1, 0], [0, value]], np.float32)],
    )
    plan = plan_slice(cut(model, Cuts()).slices[0], Limits()).plan
    assert (plan.decision, plan.reason) == ("fallback", "the weight 'w' is not finite")


def test_a_product_of_activations_is_left_to_onnx() -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Transpose", ["h"], ["t"]),
            helper.make_node("MatMul", ["h", "t"], ["y"]),
        ],
        [tensor("x", FLOAT, [2, 2])],
        [tensor("y", FLOAT, [2, 2])],
        [constant("w", np.eye(2), np.float32)],
    )
    plan = plan_slice(cut(model, Cuts()).slices[0], LAPTOP).plan
    assert plan.decision == "fallback"
    assert "two activations" in plan.reason


def test_a_residual_block_is_proved_whole_where_it_fits() -> None:
    decisions = [plan_slice(part, LAPTOP).plan.decision for part in cut(residual(), Cuts()).slices]
    assert decisions == ["prove"] * len(decisions)


def test_a_residual_block_that_does_not_fit_says_that_it_is_no_single_layer() -> None:
    parts = cut(residual(), Cuts()).slices
    block = next(part for part in parts if len(part.parameterised) > 1)
    plan = plan_slice(block, Limits(key_bytes=3_000_000)).plan
    assert plan.decision == "fallback"
    assert "no single layer" in plan.reason


def test_the_graphs_of_a_tiling_are_sound() -> None:
    tiling, graphs = tiling_of(slices("doom")[2], (16, 2))
    assert len(graphs) == len(tiling.circuits) == 2
    for graph in graphs:
        onnx.checker.check_model(graph, full_check=True)


def test_the_stricter_limit_counts() -> None:
    found = combined(Limits(key_bytes=5, seconds=2.0), Limits(key_bytes=7, memory_bytes=3))
    assert found == Limits(key_bytes=5, memory_bytes=3, seconds=2.0)


@pytest.mark.parametrize("logrows", [9, 12, 16])
def test_rows_that_fill_a_circuit_leave_room_for_blinding(logrows: int) -> None:
    full = (1 << logrows) - BLINDING
    assert cost_of(full).logrows == logrows
    assert cost_of(full + 1).logrows == logrows + 1
    assert cost_of(1).logrows == LEAST_LOGROWS
    assert cost_of(1, instances=full + 1).logrows == logrows + 1


def test_planning_needs_neither_keys_nor_files(tmp_path: Path) -> None:
    part = cut(dense([4, 3, 2]), Cuts()).slices[0]
    plan_slice(part, LAPTOP)
    assert list(tmp_path.iterdir()) == []
