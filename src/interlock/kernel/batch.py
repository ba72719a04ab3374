"""Many numeric answers at once, as a struct of arrays: no object per row on the hot path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.kernel.errors import InputError
from interlock.kernel.outcome import (
    NO_EVIDENCE,
    OUTCOME_SCHEMA,
    Evidence,
    Outcome,
    Status,
    Step,
    StepResult,
    decode_json,
    encode_json,
    strongest,
    struct_from_plain,
)

Array = npt.NDArray[Any]

# Memory that was never written must read as "no answer", so zero is FAILED.
FAILED, REFUSED, FLAGGED, ACCEPTED = range(4)

STATUS_OF_CODE = (Status.FAILED, Status.REFUSED, Status.FLAGGED, Status.ACCEPTED)

NOT_ASKED = -1
"""In `BatchOutcome.results` and `.reasons`: the step did not see this row."""

_FEW = 64

_RESULTS = tuple(StepResult)
RESULT_CODE = {result: code for code, result in enumerate(_RESULTS)}


class BatchStep(msgspec.Struct, frozen=True):
    """One step as the batch saw it: rows given to it, rows it answered, time, evidence.

    `counts` holds the rows by `StepResult`, `reasons` the rows by reason.
    """

    name: str
    rows: int
    seconds: float
    attempts: int
    counts: dict[str, int]
    reasons: dict[str, int]
    evidence: tuple[Evidence, ...] = ()


class BatchOutcome(msgspec.Struct, frozen=True, eq=False):
    """The answers to `n` rows.

    value    (n, …)        NaN in rows without an answer, zero where the dtype has no NaN;
                           (n,) where no step gave any answer
    status   (n,) uint8    FAILED, REFUSED, FLAGGED or ACCEPTED
    step     (n,) int8     index into `steps` of the step that answered, -1 where none did
    results  (s, n) int8   code of each step's StepResult for each row, -1 where it was not asked
    reasons  (s, n) int16  index into `reason_texts`, -1 where the step was not asked
    fields   `step.name` -> (n, …) what the engines gave beside the value, such as masks; zero in
             rows that the step was not asked about
    action   what the route prescribes for the rows without an answer
    """

    value: Array
    status: npt.NDArray[np.uint8]
    step: npt.NDArray[np.int8]
    results: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int16]
    reason_texts: tuple[str, ...]
    steps: tuple[BatchStep, ...]
    fields: dict[str, Array] = {}
    route: str = ""
    action: str | None = None
    schema: int = OUTCOME_SCHEMA

    def __post_init__(self) -> None:
        """Raise InputError where shapes or dtypes disagree."""
        rows = self.status.shape[:1]
        steps = (len(self.steps), *rows)
        for name, dtype, shape in (
            ("status", np.uint8, rows),
            ("step", np.int8, rows),
            ("results", np.int8, steps),
            ("reasons", np.int16, steps),
        ):
            array: Array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape or not rows:
                raise InputError(
                    f"'{name}' has dtype {array.dtype} and shape {array.shape} "
                    f"for {len(self.steps)} steps, it must be {np.dtype(dtype)} and {shape}"
                )
        for name, array in {**self.fields, "value": self.value}.items():
            if array.shape[:1] != rows:
                raise InputError(f"'{name}' has shape {array.shape} for {rows[0]} rows")

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.status.shape[0])

    def mask(self, status: Status) -> npt.NDArray[np.bool_]:
        """(n,) bool: the rows that ended in `status`."""
        return np.equal(self.status, STATUS_OF_CODE.index(status))

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: the rows with a usable value."""
        return np.greater_equal(self.status, FLAGGED)

    def counts(self) -> dict[Status, int]:
        """Rows by status; the four counts add up to `len(self)`."""
        found = dict(counted(self.status))
        return {status: found.get(code, 0) for code, status in enumerate(STATUS_OF_CODE)}

    def row(self, index: int) -> Outcome[Array]:
        """Row `index` as a single outcome. Step times are the batch's, shared by its rows."""
        status = STATUS_OF_CODE[int(self.status[index])]
        steps = tuple(
            Step(
                name=step.name,
                result=_RESULTS[int(self.results[k, index])],
                reason=self.reason_texts[int(self.reasons[k, index])],
                seconds=step.seconds,
                attempts=step.attempts,
                evidence=step.evidence if k == int(self.step[index]) else (),
            )
            for k, step in enumerate(self.steps)
            if self.results[k, index] != NOT_ASKED
        )
        if not status.usable:
            return Outcome(status=status, steps=steps, route=self.route, action=self.action)
        return Outcome(
            status=status,
            value=np.array(self.value[index]),
            steps=steps,
            evidence=strongest(steps[-1].evidence),
            route=self.route,
        )

    def part(self, start: int, stop: int) -> BatchOutcome:
        """Rows `start` to `stop - 1` as an outcome of their own. Step times stay the batch's."""
        rows = slice(start, stop)
        results, reasons = self.results[:, rows], self.reasons[:, rows]
        return BatchOutcome(
            value=self.value[rows],
            status=self.status[rows],
            step=self.step[rows],
            results=results,
            reasons=reasons,
            reason_texts=self.reason_texts,
            steps=tuple(
                _part_of_step(step, results[k], reasons[k], self.reason_texts)
                for k, step in enumerate(self.steps)
            ),
            fields={name: array[rows] for name, array in self.fields.items()},
            route=self.route,
            action=self.action,
        )

    def summary(self) -> Outcome[dict[str, Any]]:
        """The whole batch as one outcome: the worst status of any row, counts as the value.

        A batch without rows is accepted, having refused nothing, and backed by nothing. A batch
        with refused or failed rows has no value of its own; see `counts()`.
        """
        counts = self.counts()
        steps = tuple(
            Step(
                name=step.name,
                result=_summary_result(step),
                reason=", ".join(f"{text} ({rows})" for text, rows in step.reasons.items() if text),
                seconds=step.seconds,
                attempts=step.attempts,
                evidence=step.evidence,
            )
            for step in self.steps
            if step.rows
        )
        worst = next((s for s in STATUS_OF_CODE if counts[s]), Status.ACCEPTED)
        if not worst.usable:
            return Outcome(status=worst, steps=steps, route=self.route, action=self.action)
        used = [
            s.evidence for s in self.steps if s.counts.get("accepted") or s.counts.get("flagged")
        ]
        weakest = min(
            (strongest(pieces) for pieces in used),
            key=lambda piece: piece.kind.strength,
            default=NO_EVIDENCE,
        )
        return Outcome(
            status=worst,
            value={str(status): rows for status, rows in counts.items()},
            steps=steps,
            evidence=weakest,
            route=self.route,
        )

    def to_json(self) -> bytes:
        """Versioned JSON; arrays keep dtype and bits."""
        return encode_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> BatchOutcome:
        """Read what `to_json` wrote; raises InputError for anything else or a newer schema."""
        plain = decode_json(data, "a batch outcome", newest=OUTCOME_SCHEMA)
        try:
            outcome = struct_from_plain(plain, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"not a batch outcome: {error}") from None
        _check_codes(outcome)
        return outcome


def _check_codes(outcome: BatchOutcome) -> None:
    """Raise InputError where the codes of an outcome from outside contradict one another."""
    status, step, results, reasons = outcome.status, outcome.step, outcome.results, outcome.reasons
    answered = outcome.answered
    asked = results != NOT_ASKED
    order = np.arange(len(outcome.steps))[:, None]
    last = np.where(asked, order, -1).max(axis=0, initial=-1)
    passed = np.equal(results, RESULT_CODE[StepResult.ACCEPTED]) | np.equal(
        results, RESULT_CODE[StepResult.FLAGGED]
    )
    checks = {
        "status": status.max(initial=0) < len(STATUS_OF_CODE),
        "results": bool(np.all((results >= NOT_ASKED) & (results < len(_RESULTS)))),
        "reasons": bool(np.all((reasons >= 0) == asked))
        and reasons.max(initial=0) < max(1, len(outcome.reason_texts)),
        "step": np.array_equal(step, np.where(answered, last, -1))
        and np.array_equal(passed.sum(axis=0), answered)
        and (not answered.any() or bool((step[answered] >= 0).all())),
        "value": np.array_equal(not_finite(outcome.value), ~answered)
        or outcome.value.dtype.kind not in "fc"
        or outcome.value.size == 0,
    }
    for name, holds in checks.items():
        if not holds:
            raise InputError(f"not a batch outcome: '{name}' contradicts the rest")


def _part_of_step(
    step: BatchStep,
    results: npt.NDArray[np.int8],
    reasons: npt.NDArray[np.int16],
    texts: tuple[str, ...],
) -> BatchStep:
    """`step` as the rows with these results and reasons saw it."""
    asked = results[results != NOT_ASKED]
    if not asked.size:
        return BatchStep(step.name, 0, 0.0, 0, {}, {})
    counts = {str(_RESULTS[code]): rows for code, rows in counted(asked)}
    reasoned = reasons[reasons != NOT_ASKED]
    answered = any(StepResult(name).answered for name in counts)
    return BatchStep(
        name=step.name,
        rows=int(asked.size),
        seconds=step.seconds,
        attempts=step.attempts,
        counts=counts,
        reasons={texts[reason]: rows for reason, rows in counted(reasoned)},
        evidence=step.evidence if answered else (),
    )


def counted(codes: Array) -> list[tuple[int, int]]:
    """(code, rows with it) of every code that occurs, in order; codes are 0 or more."""
    if codes.size <= _FEW:
        # NumPy lets go of the interpreter for its count, and other threads may take it for long.
        found = codes.tolist()
        return [(code, found.count(code)) for code in sorted(set(found))]
    return [(code, rows) for code, rows in enumerate(np.bincount(codes).tolist()) if rows]


def _summary_result(step: BatchStep) -> StepResult:
    """The one result that stands for a batch step: the best of its rows, for the step answered."""
    for result in _RESULTS:
        if step.counts.get(str(result)):
            return result
    return StepResult.UNAVAILABLE


def rows_of(inputs: Mapping[str, Array]) -> int:
    """The common length of the first axis; raises InputError where the inputs disagree."""
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"inputs is of type {type(inputs).__name__}; a batch is a mapping from names to arrays"
        )
    if not inputs:
        raise InputError("a batch needs at least one input")
    lengths = {}
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            raise InputError(f"input '{name}' is of type {type(array).__name__}, not a plain array")
        if array.ndim == 0:
            raise InputError(f"input '{name}' is a scalar; a batch needs a first axis of rows")
        lengths[name] = int(array.shape[0])
    if len(set(lengths.values())) > 1:
        raise InputError(f"inputs differ in their number of rows: {lengths}")
    return next(iter(lengths.values()))


def not_finite(value: Array) -> npt.NDArray[np.bool_]:
    """(n,) bool: the rows of `value` (n, …) that hold NaN or an infinity."""
    if value.dtype.kind not in "fc":
        return np.zeros(value.shape[0], dtype=np.bool_)
    axes = tuple(range(1, value.ndim))
    return np.asarray(~np.isfinite(value).all(axis=axes), dtype=np.bool_)


def read_only(array: Array) -> Array:
    """A view that cannot be written through, so that no engine or guard changes what others see."""
    view = array.view()
    view.flags.writeable = False
    return view
