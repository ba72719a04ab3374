"""The parts of the route from strict answers to an analytic solver: engines and guards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.batch import Array
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError, InputError, InterlockError
from interlock.kernel.route import BatchAnswer, BatchGuard, BatchVerdict
from interlock.strict.guards import BOTTOM, GAP
from interlock.strict.tensors import floating_kind, is_tensor, to_numpy, values_of

Index = npt.NDArray[np.intp]
Solver = Callable[[Any], Any]

SOLVER_STEP = "analytic"
"""The name of the solver's step."""

_REASONS = {"bottom_mask": BOTTOM, "gap_mask": GAP}


@dataclass(frozen=True)
class Rows:
    """The solver's inputs by name, and the container that they came in: None for a bare array."""

    arrays: dict[Any, Any]
    container: type | None

    @classmethod
    def of(cls, inputs: Any, count: int) -> Rows:
        """`inputs`; raises InputError unless they are arrays or tensors of `count` rows."""
        if isinstance(inputs, Mapping):
            rows = cls(dict(inputs), dict)
        elif isinstance(inputs, tuple | list):
            container = tuple if isinstance(inputs, tuple) else list
            rows = cls({str(index): array for index, array in enumerate(inputs)}, container)
        else:
            rows = cls({"x": inputs}, None)
        if not rows.arrays:
            raise InputError("inputs is empty; the solver needs at least one array")
        for name, array in rows.arrays.items():
            what = "inputs" if rows.container is None else f"inputs[{name!r}]"
            if not is_tensor(array):
                to_numpy(what, array)
            if array.ndim == 0 or array.shape[0] != count:
                raise InputError(f"{what} has shape {tuple(array.shape)}; decoded has {count} rows")
        return rows

    def take(self, index: Index) -> Any:
        """The rows `index`, copied, in the container that the inputs came in."""
        taken = {name: _take(array, index) for name, array in self.arrays.items()}
        if self.container is dict:
            return taken
        return taken["x"] if self.container is None else self.container(taken.values())

    def named(self, index: Index) -> dict[str, Array]:
        """The rows `index` as NumPy arrays by name."""
        return {
            str(name): values_of(f"inputs[{name!r}]", _take(array, index))
            for name, array in self.arrays.items()
        }


def _take(array: Any, index: Index) -> Any:
    if not is_tensor(array):
        return array[index]
    import torch

    return array[torch.tensor(index, device=array.device)]


@dataclass(frozen=True)
class GivenEngine:
    """Answers that are there already, with their masks as fields."""

    values: Array
    masks: Mapping[str, Array]

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """All of them."""
        return BatchAnswer(self.values, self.masks)


class MasksGuard:
    """Refuses the rows with an element set in `bottom_mask` or, where given, in `gap_mask`."""

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """Bottom comes before gap among the reasons."""
        return BatchVerdict(
            refuse={
                reason: np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))
                for name, reason in _REASONS.items()
                if (mask := answer.fields.get(name)) is not None
            }
        )


@dataclass(frozen=True)
class SolverEngine:
    """`solver` on the rows of `rows` that the input `row` numbers; see `route_to_analytic_solver`.

    like  the array or tensor whose dtype and row shape the answers have
    lost  after a call, by reason: the positions that have no answer and hold NaN
    """

    rows: Rows
    solver: Solver
    like: Any
    on_error: Callable[[str, Exception], None] | None = None
    lost: dict[str, list[int]] = field(default_factory=dict)

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        """The solver's answers; raises DeadlineError between two of its calls."""
        index = inputs["row"]
        like = values_of("decoded", self.like[:0])
        answers = np.full((len(index), *like.shape[1:]), np.nan, dtype=like.dtype)
        waiting = [(0, len(index))]
        while waiting:
            start, stop = waiting.pop()
            deadline.check("analytic solver")
            try:
                found = self.solver(self.rows.take(index[start:stop]))
            except Exception as error:  # noqa: BLE001 - a broken solver costs its rows only
                if stop - start > 1:
                    middle = (start + stop) // 2
                    waiting += [(middle, stop), (start, middle)]
                else:
                    self._lose(start, stop, error)
                continue
            try:
                answers[start:stop] = self._fitted(found, (stop - start, *like.shape[1:]))
            except InterlockError as error:
                self._lose(start, stop, error)
        return BatchAnswer(answers)

    def _lose(self, start: int, stop: int, error: Exception) -> None:
        if self.on_error is not None:
            self.on_error(SOLVER_STEP, error)
        if isinstance(error, InterlockError):
            reason = f"{error.code}: {error.message}"
        else:
            # A foreign message may quote the input, so its type stands for it.
            reason = f"raised {type(error).__name__}"
        self.lost.setdefault(reason, []).extend(range(start, stop))

    def _fitted(self, found: Any, shape: tuple[int, ...]) -> Array:
        """The solver's answer as NumPy values of the dtype of `like`; raises unless it fits."""
        array: Any = found if is_tensor(found) else to_numpy("the solver's answer", found)
        kind = floating_kind(array)
        if kind is None or (kind == "c" and floating_kind(self.like) != "c"):
            raise EngineError(
                f"the solver's answer has dtype {array.dtype}; the model's has {self.like.dtype}"
            )
        if tuple(array.shape) != shape:
            raise EngineError(
                f"the solver's answer has shape {tuple(array.shape)}; it must be {shape}"
            )
        with np.errstate(all="ignore"):
            if not is_tensor(self.like):
                return values_of("the solver's answer", array).astype(self.like.dtype)
            import torch

            tensor = array if is_tensor(array) else torch.from_numpy(np.array(array))
            return values_of("the solver's answer", tensor.detach().to(self.like.dtype))


@dataclass(frozen=True)
class SolverGuard:
    """Refuses the rows for which the solver raised or whose answer did not fit."""

    engine: SolverEngine

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """The reasons are the engine's."""
        refuse = {}
        for reason, positions in self.engine.lost.items():
            refuse[reason] = np.zeros(len(answer.value), np.bool_)
            refuse[reason][positions] = True
        return BatchVerdict(refuse=refuse)


@dataclass(frozen=True)
class RowsGuard:
    """`check`, shown the solver's own inputs by name."""

    check: BatchGuard
    rows: Rows

    def check_batch(self, inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        """What `check` says."""
        return self.check.check_batch(self.rows.named(inputs["row"]), answer)
