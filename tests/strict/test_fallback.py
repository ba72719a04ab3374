"""Rejecting what must not be used, and asking an analytic solver instead; NumPy arrays."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.masked import Array, Masked, as_bits, masked, rows_with
from support.projective import columns_model, pairs

from interlock.errors import ConfigError, InputError
from interlock.kernel.outcome import EvidenceKind, Status
from interlock.kernel.route import BatchAnswer, BatchVerdict
from interlock.strict import (
    InferenceConfig,
    export_bundle,
    load_onnx_runtime_bundle,
    reject_on_bottom,
    reject_on_gap,
    route_to_analytic_solver,
)
from interlock.strict.arm.kinematics import ARM, damped_rates
from interlock.strict.arm.route import JacobianGuard

NAN = np.nan
DECODED = np.array([[1.0, 2.0], [NAN, 4.0], [5.0, 6.0], [NAN, NAN]])
BOTTOM = np.isnan(DECODED)
X = np.arange(12.0).reshape(4, 3)


def answer(x: Array) -> Array:
    """A solver: 10 times the first two inputs."""
    return 10 * x[:, :2]


# Rejection


@given(masked(("float16", "float32", "float64")), st.booleans())
def test_accepted_means_finite_and_unmasked(case: Masked, with_gap: bool) -> None:
    before = case.decoded.copy()
    if with_gap:
        safe, accept = reject_on_gap(*case)
    else:
        safe, accept = reject_on_bottom(case.decoded, case.bottom)
    assert as_bits(case.decoded).tolist() == as_bits(before).tolist()
    assert (safe.dtype, safe.shape) == (case.decoded.dtype, case.decoded.shape)
    assert (accept.dtype, accept.shape) == (np.bool_, case.bottom.shape)
    whole = np.broadcast_to(
        accept.reshape(accept.shape + (1,) * (safe.ndim - accept.ndim)), safe.shape
    )
    assert np.array_equal(np.isfinite(safe), whole)
    assert np.array_equal(np.isnan(safe), ~whole)
    assert np.array_equal(as_bits(safe)[whole], as_bits(case.decoded)[whole])
    assert not (accept & case.bottom).any()
    if with_gap:
        assert not (accept & case.gap).any()


def test_nothing_usable_is_rejected() -> None:
    safe, accept = reject_on_bottom(DECODED, BOTTOM)
    assert np.array_equal(accept, ~BOTTOM)
    assert safe[1, 1] == 4.0


def test_a_row_mask_takes_its_row_along() -> None:
    safe, accept = reject_on_bottom(DECODED, BOTTOM[:, 0])
    assert accept.tolist() == [True, False, True, False]
    assert np.isnan(safe[1]).all()


def test_a_payload_that_is_not_finite_is_refused_whatever_its_mask_says() -> None:
    lies = np.zeros_like(BOTTOM)
    assert np.array_equal(reject_on_bottom(DECODED, lies).accept_mask, ~BOTTOM)
    assert reject_on_bottom(np.array([np.inf]), np.array([False])).accept_mask.tolist() == [False]


def test_subclasses_are_read_as_plain_arrays_and_single_numbers_work() -> None:
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(DECODED)
    safe, accept = reject_on_bottom(matrix, BOTTOM[:, 0])
    assert type(safe) is type(accept) is np.ndarray
    assert accept.tolist() == [True, False, True, False]
    safe, accept = reject_on_bottom(np.array(2.0), np.array(False))
    assert (safe.shape, accept.shape, bool(accept)) == ((), (), True)


@pytest.mark.parametrize("dtype", [">f4", "float16", "longdouble", "complex64"])
def test_other_number_formats_are_routed_too(dtype: str) -> None:
    decoded = DECODED.astype(dtype)
    resolved, route_mask = route_to_analytic_solver(
        decoded, bottom_mask=BOTTOM, analytic_solver=answer, inputs=X
    )
    assert resolved.dtype == decoded.dtype
    assert resolved.tolist() == [[1, 2], [30, 40], [5, 6], [90, 100]]
    assert route_mask.tolist() == [False, True, False, True]


def test_complex_answers() -> None:
    decoded = np.array([1 + 1j, complex(NAN, 0), complex(0, np.inf), 2j])
    safe, accept = reject_on_bottom(decoded, np.array([False, False, False, True]))
    assert accept.tolist() == [True, False, False, False]
    assert np.isnan(safe.real[1:]).all()
    assert np.isnan(safe.imag[1:]).all()


@pytest.mark.parametrize(
    ("decoded", "mask"),
    [
        (np.ones(3), np.zeros(3)),
        (np.ones(3), np.zeros(3, np.uint8)),
        (np.ones(3, np.int64), np.zeros(3, bool)),
        (np.ones(3), np.zeros((3, 1), bool)),
        (np.ones((3, 2)), np.zeros(2, bool)),
        (np.ones((3, 2)), np.zeros((1, 2), bool)),
        (np.ones((3, 2)), np.zeros((), bool)),
        (np.ones((3, 2)), np.zeros((3, 2, 1), bool)),
        (np.ma.masked_invalid(np.ones(3)), np.zeros(3, bool)),
        (np.ones(3), [False, False, False]),
        ([1.0], np.zeros(1, bool)),
    ],
)
def test_what_does_not_belong_together_is_an_input_error(decoded: Any, mask: Any) -> None:
    with pytest.raises(InputError, match=r"decoded|bottom_mask"):
        reject_on_bottom(decoded, mask)


def test_masks_of_two_shapes_are_an_input_error() -> None:
    with pytest.raises(InputError, match="gap_mask"):
        reject_on_gap(DECODED, BOTTOM, BOTTOM[:, 0])


def test_what_a_runtime_gives_goes_straight_in(tmp_path: Path) -> None:
    """The masks of P (B, 2) with Q (B, 1) are (B, 2)."""
    config = InferenceConfig(1e-4, 1e-2)
    x = pairs(200, 3)
    export_bundle(columns_model(), tmp_path / "b", example_inputs=(x,), config=config)
    decoded, bottom_mask, gap_mask = load_onnx_runtime_bundle(tmp_path / "b").run(x)
    assert 0 < bottom_mask.sum() < bottom_mask.size
    assert gap_mask.sum() > 0
    assert np.array_equal(reject_on_bottom(decoded, bottom_mask).accept_mask, ~bottom_mask)
    _, accept = reject_on_gap(decoded, bottom_mask, gap_mask)
    assert np.array_equal(accept, ~(bottom_mask | gap_mask))
    resolved, route_mask = route_to_analytic_solver(
        decoded, bottom_mask=bottom_mask, analytic_solver=lambda rows: rows[:, :2], inputs=x
    )
    assert np.array_equal(route_mask, bottom_mask.any(axis=1))
    assert np.array_equal(resolved, np.where(route_mask[:, None], x[:, :2], decoded))


# Routing


@given(masked(), st.booleans(), st.data())
def test_only_what_must_not_be_used_is_routed(
    case: Masked, with_gap: bool, data: st.DataObject
) -> None:
    """With a solver that answers some rows, refuses some with NaN and raises for some."""
    decoded, count = case.decoded, len(case.decoded)
    kinds = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), int)
    asked_of: list[int] = []

    def solver(x: Array) -> Array:
        if (kinds[x] == 2).any():
            raise ArithmeticError
        asked_of.extend(x)
        values = np.full((len(x), *decoded.shape[1:]), 7.0, decoded.dtype)
        values[kinds[x] == 1] = NAN
        return values

    result = route_to_analytic_solver(
        decoded,
        bottom_mask=case.bottom,
        gap_mask=case.gap if with_gap else None,
        analytic_solver=solver,
        inputs=np.arange(count),
    )
    resolved, route_mask = result
    wanted = rows_with(case.bottom) | rows_with(~np.isfinite(decoded))
    if with_gap:
        wanted |= rows_with(case.gap)
    assert np.array_equal(route_mask, wanted)
    assert (resolved.dtype, resolved.shape) == (decoded.dtype, decoded.shape)
    assert np.array_equal(as_bits(resolved[~wanted]), as_bits(decoded[~wanted]))
    assert (resolved[wanted & (kinds == 0)] == 7).all()
    assert np.isnan(resolved[wanted & (kinds > 0)]).all()
    assert sorted(asked_of) == np.flatnonzero(wanted & (kinds < 2)).tolist()
    assert result.outcome is not None
    answered = ~wanted | (kinds == 0)
    assert np.array_equal(result.outcome.answered, answered)
    assert np.array_equal(~rows_with(~np.isfinite(resolved)), answered)


def test_the_solver_sees_the_routed_rows_only() -> None:
    seen: list[Array] = []

    def solver(x: Array) -> Array:
        seen.append(x)
        return answer(x)

    resolved, route_mask = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X
    )
    assert route_mask.tolist() == [False, True, False, True]
    assert [x.tolist() for x in seen] == [X[[1, 3]].tolist()]
    assert resolved.tolist() == [[1, 2], [30, 40], [5, 6], [90, 100]]


def test_a_solver_is_not_called_without_need() -> None:
    def solver(x: Array) -> Array:
        raise AssertionError

    resolved, route_mask = route_to_analytic_solver(
        np.ones((4, 2)), bottom_mask=np.zeros(4, bool), analytic_solver=solver, inputs=X
    )
    assert resolved.tolist() == np.ones((4, 2)).tolist()
    assert not route_mask.any()


@pytest.mark.parametrize("container", [tuple, list])
def test_several_inputs_come_as_they_were_given(container: Any) -> None:
    def solver(rows: Any) -> Any:
        assert type(rows) is container
        return rows[0][:, :2] + rows[1][:, None]

    inputs = container((X, np.arange(4.0)))
    resolved, _ = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=inputs
    )
    assert resolved[1].tolist() == [4, 5]


def test_named_inputs_come_as_a_dict_of_rows() -> None:
    resolved, _ = route_to_analytic_solver(
        DECODED,
        bottom_mask=BOTTOM,
        analytic_solver=lambda rows: rows["x"][:, :2] * rows["scale"][:, None],
        inputs={"x": X, "scale": np.full(4, 2.0)},
    )
    assert resolved[3].tolist() == [18, 20]


def test_the_outcome_tells_each_row_why() -> None:
    def solver(x: Array) -> Array:
        if x[0, 0] == 3 and len(x) == 1:
            raise ValueError("a message that quotes the input")
        if len(x) > 1:
            raise RuntimeError
        return answer(x) * np.nan

    result = route_to_analytic_solver(DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X)
    assert result.outcome is not None
    assert result.outcome.mask(Status.REFUSED).tolist() == [False, True, False, True]
    reasons = [[step.reason for step in result.outcome.row(row).steps] for row in (0, 1, 3)]
    bottom = "bottom: |Q| is below tau_infer, or P / Q is not finite"
    assert reasons == [
        [""],
        [bottom, "raised ValueError"],
        [bottom, "the value is not finite"],
    ]
    assert result.outcome.action == "refuse"


def test_what_a_solver_raises_reaches_on_error() -> None:
    errors: list[tuple[str, Exception]] = []

    def solver(x: Array) -> Array:
        raise KeyError(len(x))

    route_to_analytic_solver(
        DECODED,
        bottom_mask=BOTTOM,
        analytic_solver=solver,
        inputs=X,
        on_error=lambda step, error: errors.append((step, error)),
    )
    assert [(step, error.args) for step, error in errors] == [("analytic", (1,))] * 2


@given(st.integers(1, 40), st.data())
def test_a_row_that_makes_the_solver_raise_costs_that_row(count: int, data: st.DataObject) -> None:
    bad = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    calls = 0

    def solver(x: Array) -> Array:
        nonlocal calls
        calls += 1
        if bad[x].any():
            raise ArithmeticError
        return x.astype(float)

    resolved, _ = route_to_analytic_solver(
        np.full(count, NAN),
        bottom_mask=np.ones(count, bool),
        analytic_solver=solver,
        inputs=np.arange(count),
    )
    assert np.array_equal(np.isnan(resolved), bad)
    assert resolved[~bad].tolist() == np.flatnonzero(~bad).tolist()
    assert calls <= 2 * count - 1


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (np.ones((1, 2)), "shape"),
        (np.ones((2, 2, 1)), "shape"),
        (np.ones((2, 2), np.int64), "dtype"),
        (np.ones((2, 2), complex), "dtype"),
        (np.ones((2, 2), bool), "dtype"),
        (np.ma.masked_invalid(np.ones((2, 2))), "masked"),
        ([[1.0, 2.0], [3.0, 4.0]], "list"),
        (None, "NoneType"),
    ],
)
def test_an_answer_that_does_not_fit_is_never_spliced_in(found: Any, reason: str) -> None:
    result = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=lambda x: found, inputs=X
    )
    assert np.isnan(result.resolved[[1, 3]]).all()
    assert result.outcome is not None
    assert reason in result.outcome.row(1).steps[1].reason


def test_a_wider_answer_is_rounded_and_refused_where_it_overflows() -> None:
    wide = np.array([[1 / 3, 1.0], [1e300, 1.0]])
    resolved, _ = route_to_analytic_solver(
        DECODED.astype(np.float32), bottom_mask=BOTTOM, analytic_solver=lambda x: wide, inputs=X
    )
    assert resolved.dtype == np.float32
    assert resolved[1].tolist() == [np.float32(1 / 3), 1.0]
    assert np.isnan(resolved[3]).all()


def test_a_solver_that_reuses_its_buffer_is_no_concern() -> None:
    buffer = np.empty((1, 2))

    def solver(x: Array) -> Array:
        if len(x) > 1:
            raise ValueError
        buffer[:] = answer(x)
        return buffer

    resolved, _ = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X
    )
    assert resolved[[1, 3]].tolist() == [[30, 40], [90, 100]]


def test_neither_inputs_nor_answers_can_be_changed_by_the_solver() -> None:
    x, decoded = X.copy(), DECODED.copy()

    def solver(rows: Array) -> Array:
        rows *= 0
        return rows[:, :2]

    result = route_to_analytic_solver(decoded, bottom_mask=BOTTOM, analytic_solver=solver, inputs=x)
    result.resolved[:] = 9
    assert np.array_equal(x, X)
    assert np.array_equal(decoded, DECODED, equal_nan=True)
    assert result.outcome is not None
    assert not (result.outcome.value == 9).any()


class Between:
    """A guard that accepts values in 0 … 50."""

    def check_batch(self, inputs: Any, answer: BatchAnswer) -> BatchVerdict:
        assert inputs["x"].shape == (len(answer.value), 3)
        return BatchVerdict(refuse={"out of range": np.abs(answer.value).max(axis=1) > 50})


class Broken:
    """A guard that raises."""

    def check_batch(self, inputs: Any, answer: BatchAnswer) -> BatchVerdict:
        raise ZeroDivisionError


def test_the_check_refuses_answers() -> None:
    result = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=answer, inputs=X, check=Between()
    )
    assert result.resolved[1].tolist() == [30, 40]
    assert np.isnan(result.resolved[3]).all()
    assert result.outcome is not None
    assert result.outcome.row(3).steps[1].reason == "out of range"


def test_a_check_that_raises_costs_the_routed_rows() -> None:
    result = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=answer, inputs=X, check=Broken()
    )
    assert np.isnan(result.resolved[[1, 3]]).all()
    assert result.resolved[0].tolist() == [1, 2]


def test_the_arms_guard_is_evidence() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    decoded = np.full((50, 2), NAN, np.float32)

    def solver(rows: Array) -> Array:
        return damped_rates(ARM, rows[:, :2], rows[:, 2:])

    result = route_to_analytic_solver(
        decoded,
        bottom_mask=np.isnan(decoded),
        analytic_solver=solver,
        inputs=x,
        check=JacobianGuard(),
    )
    assert result.outcome is not None
    answered = result.outcome.answered
    assert answered.sum() > 40
    row = result.outcome.row(int(np.flatnonzero(answered)[0]))
    assert row.evidence.kind is EvidenceKind.CHECKED


def test_an_answer_after_the_time_limit_is_not_used() -> None:
    def solver(x: Array) -> Array:
        time.sleep(0.02)
        return answer(x)

    resolved, route_mask = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X, time_limit=0.001
    )
    assert route_mask.sum() == 2
    assert np.isnan(resolved[route_mask]).all()
    assert resolved[0].tolist() == [1, 2]
    with pytest.raises(ConfigError, match="time_limit"):
        route_to_analytic_solver(
            DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X, time_limit=-1
        )


def test_a_solver_is_not_asked_again_after_the_time_limit() -> None:
    calls = 0

    def solver(x: Array) -> Array:
        nonlocal calls
        calls += 1
        time.sleep(0.01)
        raise ValueError

    result = route_to_analytic_solver(
        DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X, time_limit=0.005
    )
    assert calls == 1
    assert result.outcome is not None
    assert result.outcome.steps[1].counts == {"over_time": 2}


@pytest.mark.parametrize(
    "inputs", [X[:3], (), {}, (X, X[:1]), np.float64(1), "text", [[1.0], [2.0]], {"x": None}]
)
def test_inputs_that_do_not_match_are_an_input_error(inputs: Any) -> None:
    with pytest.raises(InputError, match="inputs"):
        route_to_analytic_solver(DECODED, bottom_mask=BOTTOM, analytic_solver=answer, inputs=inputs)


def test_a_scalar_has_no_rows() -> None:
    with pytest.raises(InputError, match="scalar"):
        route_to_analytic_solver(
            np.array(NAN), bottom_mask=np.array(True), analytic_solver=answer, inputs=X
        )


def test_an_interrupt_is_not_swallowed() -> None:
    def solver(x: Array) -> Array:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        route_to_analytic_solver(DECODED, bottom_mask=BOTTOM, analytic_solver=solver, inputs=X)


def test_a_result_is_a_pair_that_can_be_kept() -> None:
    result = route_to_analytic_solver(DECODED, bottom_mask=BOTTOM, analytic_solver=answer, inputs=X)
    assert len(result) == 2
    assert result.outcome is not None
    again: Any
    for again in (pickle.loads(pickle.dumps(result)), copy.copy(result)):
        assert np.array_equal(again.resolved, result.resolved)
        assert again.outcome.to_json() == result.outcome.to_json()
