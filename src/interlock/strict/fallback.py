"""What to do with strict answers that must not be used: reject them, or ask an analytic solver.

A mask has the shape of `decoded` (element mask), or its leading axes (row mask), or its shape with
a last axis of 1. An answer that is not finite is refused whatever its mask says. NumPy arrays give
NumPy arrays; torch tensors give torch tensors on their own device, without gradients. Nothing
given is modified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from interlock.kernel.batch import NOT_ASKED, Array, BatchOutcome
from interlock.kernel.errors import InputError
from interlock.kernel.route import BatchGuard, Route, RouteStep
from interlock.strict.solver import (
    SOLVER_STEP,
    GivenEngine,
    MasksGuard,
    Rows,
    RowsGuard,
    Solver,
    SolverEngine,
    SolverGuard,
)
from interlock.strict.tensors import floating_kind, is_tensor, plain, to_numpy, values_of

MODEL_STEP = "model"
"""The name of the first step in the outcome of `route_to_analytic_solver`; then SOLVER_STEP."""


class Rejection(NamedTuple):
    """Answers with the rejected ones blanked; unpacks as `decoded_safe, accept_mask`.

    decoded_safe  shape and dtype of `decoded`: its own bits where accepted, NaN where rejected
    accept_mask   bool, shape of the bottom mask: true exactly where `decoded_safe` is finite
    """

    decoded_safe: Any
    accept_mask: Any


class _Pair(NamedTuple):
    resolved: Any
    route_mask: Any


class RoutedResult(_Pair):
    """Answers after routing; unpacks as `resolved, route_mask`.

    resolved    shape and dtype of `decoded`: its own bits where not routed, the solver's answer
                where routed and accepted, NaN in every row that nothing answered
    route_mask  (B,) bool: the rows that the solver was asked about
    outcome     the route's BatchOutcome: status, reasons and time of both steps, for the logs
    """

    outcome: BatchOutcome | None

    def __new__(
        cls, resolved: Any, route_mask: Any, outcome: BatchOutcome | None = None
    ) -> RoutedResult:
        """The pair, with the outcome beside it."""
        self = super().__new__(cls, resolved, route_mask)
        self.outcome = outcome
        return self


def reject_on_bottom(decoded: Any, bottom_mask: Any) -> Rejection:
    """Blank every answer that is bottom or not finite.

    With a row mask, a row is accepted as a whole or not at all. Raises InputError for an array that
    is not floating-point or complex, a mask that is not bool, and shapes that do not belong
    together.
    """
    return _reject(decoded, {"bottom_mask": bottom_mask})


def reject_on_gap(decoded: Any, bottom_mask: Any, gap_mask: Any) -> Rejection:
    """Blank every answer that is bottom, in the gap or not finite; see `reject_on_bottom`."""
    return _reject(decoded, {"bottom_mask": bottom_mask, "gap_mask": gap_mask})


def route_to_analytic_solver(
    decoded: Any,
    *,
    bottom_mask: Any,
    analytic_solver: Solver,
    inputs: Any,
    gap_mask: Any = None,
    check: BatchGuard | None = None,
    time_limit: float | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
) -> RoutedResult:
    """Ask `analytic_solver` about the rows that are bottom, in the gap if given, or not finite.

    decoded, bottom_mask, gap_mask
                     what strict inference gave, first axis the rows; where masks are per element,
                     one element is enough to send its whole row
    analytic_solver  called as `solver(rows)` with `inputs` cut to the routed rows, of the same kind
                     as `inputs`; returns (rows, …) as `decoded` has it. It never sees the others.
    inputs           an array or tensor, or a tuple, list or mapping of them, first axis the rows
    check            a guard for the solver's answers, which sees NumPy arrays: `inputs` by name, by
                     position ("0", "1", …), or as "x" where it is a single array
    time_limit       seconds for all calls of the solver together; a later answer is not used
    on_error         called with "analytic" and each exception of the solver or of the check, whose
                     messages the outcome does not keep

    The solver's answer must be real floating-point (or complex, where `decoded` is); it is rounded
    to the dtype of `decoded`, then checked. A row whose answer is not finite or does not pass stays
    NaN, and the outcome says why. Where the solver raises for a batch, it is asked about each half
    on its own, so that only the rows that make it raise are lost: at most 2n - 1 calls for n rows.
    An answer of the wrong type or shape costs all rows of its call, and a check that raises costs
    all routed rows.

    Raises InputError for what `decoded`, the masks and `inputs` may not be, before the solver is
    called; never for what the solver or the check does.
    """
    given: dict[str, Any] = {"bottom_mask": bottom_mask}
    if gap_mask is not None:
        given["gap_mask"] = gap_mask
    decoded, masks = _checked(decoded, given)
    if decoded.ndim == 0:
        raise InputError("decoded is a scalar; it needs a first axis of rows")
    rows = Rows.of(inputs, int(decoded.shape[0]))
    values = values_of("decoded", decoded)
    model = GivenEngine(values, {name: to_numpy(name, mask) for name, mask in masks.items()})
    solver = SolverEngine(rows, analytic_solver, decoded, on_error)
    checks: tuple[BatchGuard, ...] = () if check is None else (RowsGuard(check, rows),)
    route: Route[Mapping[str, Array], Array] = Route(
        name="strict",
        steps=(
            RouteStep(MODEL_STEP, model, guards=(MasksGuard(),)),
            RouteStep(
                SOLVER_STEP, solver, guards=(SolverGuard(solver), *checks), time_limit=time_limit
            ),
        ),
        otherwise="refuse",
        on_error=on_error,
    )
    outcome = route.run_batch({"row": np.arange(len(values))})
    # Without rows no step runs, so the outcome does not know the shape of a row.
    resolved = outcome.value.copy() if len(values) else values.copy()
    asked = np.not_equal(outcome.results[1], NOT_ASKED)
    if not is_tensor(decoded):
        return RoutedResult(resolved, asked, outcome)
    import torch

    return RoutedResult(
        torch.from_numpy(resolved).to(dtype=decoded.dtype, device=decoded.device),
        torch.from_numpy(asked).to(decoded.device),
        outcome,
    )


def _reject(decoded: Any, masks: dict[str, Any]) -> Rejection:
    decoded, masks = _checked(decoded, masks)
    shape = tuple(masks["bottom_mask"].shape)
    xp: Any = np
    if is_tensor(decoded):
        import torch

        xp = torch
    accept = _fold(xp.isfinite(decoded), shape)
    for mask in masks.values():
        accept = accept & ~mask
    rejected = ~accept[(..., *(None for _ in range(decoded.ndim - len(shape))))]
    nan = complex(math.nan, math.nan) if floating_kind(decoded) == "c" else math.nan
    if is_tensor(decoded):
        return Rejection(decoded.masked_fill(rejected, nan), accept)
    safe = decoded.copy()
    np.copyto(safe, nan, where=rejected)
    return Rejection(safe, np.asarray(accept))


def _fold(flags: Any, shape: tuple[int, ...]) -> Any:
    """`flags`, an array or tensor, as a mask of `shape`: true where all that it stands for are."""
    if tuple(flags.shape) == shape:
        return flags
    width = flags.shape[-1] if len(shape) == flags.ndim else math.prod(flags.shape[len(shape) :])
    return flags.reshape((*shape, width)).all(-1)


def _checked(decoded: Any, masks: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """All of them as plain arrays or tensors; raises InputError unless they belong together."""
    decoded = plain("decoded", decoded)
    if floating_kind(decoded) is None:
        raise InputError(f"decoded has dtype {decoded.dtype}; it must be floating-point or complex")
    masks = {name: plain(name, mask) for name, mask in masks.items()}
    full, first = tuple(decoded.shape), tuple(masks["bottom_mask"].shape)
    for name, mask in masks.items():
        if is_tensor(mask) != is_tensor(decoded):
            raise InputError(
                f"{name} is a {type(mask).__name__} and decoded a {type(decoded).__name__}; they "
                "must both be NumPy arrays or both torch tensors"
            )
        if is_tensor(mask) and mask.device != decoded.device:
            raise InputError(f"{name} is on {mask.device} and decoded on {decoded.device}")
        if str(mask.dtype).removeprefix("torch.") != "bool":
            raise InputError(f"{name} has dtype {mask.dtype}; it must be bool")
        shape = tuple(mask.shape)
        leading = full[: len(shape)] == shape and (len(shape) > 0 or not full)
        if not (leading or (len(shape) > 1 and shape == (*full[:-1], 1))):
            raise InputError(
                f"{name} has shape {shape} for decoded of shape {full}",
                hint="a mask has decoded's shape, its leading axes only, or 1 as its last axis",
            )
        if shape != first:
            raise InputError(f"{name} has shape {shape} and bottom_mask {first}; they must agree")
    return decoded, masks
