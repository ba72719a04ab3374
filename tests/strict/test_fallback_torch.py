"""Rejection and routing of torch tensors: the same as for NumPy arrays, and bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.masked import Masked, assert_same_numbers, masked

from interlock.errors import InputError
from interlock.strict import reject_on_bottom, reject_on_gap, route_to_analytic_solver

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

DECODED = torch.tensor([[1.0, 2.0], [torch.nan, 4.0], [5.0, 6.0]])
BOTTOM = torch.isnan(DECODED)
X = torch.arange(6.0).reshape(3, 2)


@given(masked(("float16", "float32", "float64")), st.booleans())
def test_rejection_is_that_of_numpy(case: Masked, with_gap: bool) -> None:
    tensors = [torch.from_numpy(array.copy()) for array in case]
    if with_gap:
        found, expected = reject_on_gap(*tensors), reject_on_gap(*case)
    else:
        found, expected = reject_on_bottom(*tensors[:2]), reject_on_bottom(*case[:2])
    assert_same_numbers(found[0].numpy(), expected[0])
    assert np.array_equal(found[1].numpy(), expected[1])


@given(masked(("float16", "float32", "float64")), st.booleans())
def test_routing_is_that_of_numpy(case: Masked, with_gap: bool) -> None:
    def solver(x: Any) -> Any:
        """Works on both: NaN for every third row, an error for every fifth."""
        if (x % 5 == 4).any():
            raise ArithmeticError
        shape = (-1, *(1 for _ in case.decoded.shape[1:]))
        values = (x / (x % 3)).reshape(shape)
        like = case.decoded[: len(x)]
        if isinstance(x, torch.Tensor):
            return values + torch.zeros(like.shape, dtype=torch.float64)
        return values + np.zeros(like.shape)

    def route(decoded: Any, bottom: Any, gap: Any, x: Any) -> Any:
        gap = gap if with_gap else None
        return route_to_analytic_solver(
            decoded, bottom_mask=bottom, gap_mask=gap, analytic_solver=solver, inputs=x
        )

    x = np.arange(1.0, len(case.decoded) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = route(*case, x)
    found = route(*(torch.from_numpy(array.copy()) for array in (*case, x)))
    assert_same_numbers(found[0].numpy(), expected[0])
    assert np.array_equal(found[1].numpy(), expected[1])


def test_bfloat16_keeps_its_bits() -> None:
    decoded = DECODED.to(torch.bfloat16)
    safe, accept = reject_on_bottom(decoded, BOTTOM)
    assert safe.dtype == torch.bfloat16
    assert torch.equal(accept, ~BOTTOM)
    resolved, route_mask = route_to_analytic_solver(
        decoded, bottom_mask=BOTTOM, analytic_solver=lambda x: x + 1 / 3, inputs=X
    )
    assert resolved.dtype == torch.bfloat16
    assert route_mask.tolist() == [False, True, False]
    assert torch.equal(resolved[[0, 2]], decoded[[0, 2]])
    assert torch.equal(resolved[1], (X[1] + 1 / 3).to(torch.bfloat16))


def test_tensors_and_arrays_may_differ_between_answers_inputs_and_solver() -> None:
    """A runtime answers tensors with arrays, and solvers are often written for arrays."""
    arrays = DECODED.numpy(), BOTTOM.numpy()
    expected = [[1, 2], [2, 3], [5, 6]]
    for decoded, bottom in ((DECODED, BOTTOM), arrays):
        for x in (X, X.numpy()):
            for convert in (torch.as_tensor, np.asarray):
                resolved, _ = route_to_analytic_solver(
                    decoded,
                    bottom_mask=bottom,
                    analytic_solver=convert,
                    inputs=x,
                )
                assert type(resolved) is type(decoded)
                assert resolved.tolist() == expected


def test_results_carry_no_gradient() -> None:
    decoded = DECODED.clone().requires_grad_()
    assert not reject_on_bottom(decoded, BOTTOM).decoded_safe.requires_grad
    inputs = X.clone().requires_grad_()
    resolved, _ = route_to_analytic_solver(
        decoded, bottom_mask=BOTTOM, analytic_solver=lambda x: x * 2, inputs=inputs
    )
    assert not resolved.requires_grad
    assert resolved[1].tolist() == [4, 6]


def test_kinds_must_agree() -> None:
    with pytest.raises(InputError, match="both"):
        reject_on_bottom(DECODED, BOTTOM.numpy())
    with pytest.raises(InputError, match="both"):
        reject_on_bottom(DECODED.numpy(), BOTTOM)
    with pytest.raises(InputError, match="bool"):
        reject_on_bottom(DECODED, BOTTOM.to(torch.uint8))
    with pytest.raises(InputError, match="dense"):
        reject_on_bottom(DECODED, BOTTOM.to_sparse())
    with pytest.raises(InputError, match="dtype"):
        reject_on_bottom(torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))


def test_complex_tensors() -> None:
    decoded = torch.tensor([1 + 1j, complex(0, torch.inf)])
    safe, accept = reject_on_bottom(decoded, torch.tensor([False, False]))
    assert accept.tolist() == [True, False]
    assert torch.isnan(torch.view_as_real(safe)[1]).all()
