"""How a route runs over a batch: rows that a step did not answer go on to the next one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.batch import (
    ACCEPTED,
    FAILED,
    FLAGGED,
    NOT_ASKED,
    REFUSED,
    RESULT_CODE,
    Array,
    BatchOutcome,
    BatchStep,
    counted,
    not_finite,
    read_only,
    rows_of,
)
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import EngineError
from interlock.kernel.limits import call_with_retry
from interlock.kernel.outcome import Evidence, StepResult
from interlock.kernel.route import (
    NO_REASON,
    BatchAnswer,
    BatchVerdict,
    Route,
    RouteStep,
    checked_evidence,
    checked_text,
    late,
)

_ACCEPTED, _FLAGGED = RESULT_CODE[StepResult.ACCEPTED], RESULT_CODE[StepResult.FLAGGED]
_REFUSED = RESULT_CODE[StepResult.REFUSED]
_CODES = {code: str(result) for result, code in RESULT_CODE.items()}

# `BatchOutcome.reasons` are int16; a guard that words every row differently must not break it.
_MOST_REASONS = int(np.iinfo(np.int16).max)
_FURTHER_REASON = "another reason"


class _Collector:
    """The arrays of the outcome under construction."""

    def __init__(self, rows: int, steps: int) -> None:
        self.rows = rows
        self.value: Array | None = None
        self.like: Array | None = None
        self.status = np.full(rows, FAILED, dtype=np.uint8)
        self.step = np.full(rows, -1, dtype=np.int8)
        self.results = np.full((steps, rows), NOT_ASKED, dtype=np.int8)
        self.reasons = np.full((steps, rows), NOT_ASKED, dtype=np.int16)
        self.texts: dict[str, int] = {"": 0}
        self.fields: dict[str, Array] = {}
        self.steps: list[BatchStep] = []

    def text(self, reason: str) -> int:
        """The index of `reason` among the texts."""
        if len(self.texts) >= _MOST_REASONS and reason not in self.texts:
            reason = _FURTHER_REASON
        return self.texts.setdefault(reason, len(self.texts))

    def put(self, asked: npt.NDArray[np.intp], name: str, answer: BatchAnswer) -> None:
        """Keep the engine's further arrays, for the rows that it was asked about."""
        self.like = answer.value[:0] if self.like is None else self.like
        for key, array in answer.fields.items():
            whole = np.zeros((self.rows, *array.shape[1:]), dtype=array.dtype)
            whole[asked] = array
            self.fields[f"{name}.{key}"] = whole

    def take(self, rows: npt.NDArray[np.intp], answers: Array) -> None:
        """Copy the answers of `rows`, widening the dtype where a later engine needs it."""
        if self.value is None:
            self.value = _blank(self.rows, answers)
        elif self.value.dtype != answers.dtype:
            self.value = self.value.astype(np.result_type(self.value.dtype, answers.dtype))
        self.value[rows] = answers


def run_batch(
    route: Route[Any, Any], inputs: Mapping[str, Array], deadline: Deadline
) -> BatchOutcome:
    """See `Route.run_batch`."""
    rows = rows_of(inputs)
    out = _Collector(rows, len(route.steps))
    waiting = np.arange(rows)
    for index, step in enumerate(route.steps):
        if waiting.size == 0:
            out.steps.append(BatchStep(step.name, 0, 0.0, 0, {}, {}))
            continue
        waiting = _run_step(route, step, index, inputs, waiting, deadline, out)
    value = out.value
    if value is None:
        value = _blank(rows, np.empty(0) if out.like is None else out.like)
    return BatchOutcome(
        value=value,
        status=out.status,
        step=out.step,
        results=out.results,
        reasons=out.reasons,
        reason_texts=tuple(out.texts),
        steps=tuple(out.steps),
        fields=out.fields,
        route=route.name,
        action=route.otherwise,
    )


def _run_step(
    route: Route[Any, Any],
    step: RouteStep,
    index: int,
    inputs: Mapping[str, Array],
    waiting: npt.NDArray[np.intp],
    deadline: Deadline,
    out: _Collector,
) -> npt.NDArray[np.intp]:
    """Ask `step` about the `waiting` rows, record what came of each, return those that go on."""
    whole = waiting.size == out.rows
    given = {name: read_only(array if whole else array[waiting]) for name, array in inputs.items()}
    started = route.clock.monotonic()
    attempts = 0
    evidence: tuple[Evidence, ...] = ()
    barred = route.gate(step, given, deadline)
    answer: BatchAnswer | None = None
    if barred is None:
        due = step.due(deadline, route.clock)

        def ask() -> BatchAnswer:
            nonlocal attempts
            attempts += 1
            return _checked(step.engine.answer_batch(given, deadline=due), waiting.size, out)

        try:
            answer = call_with_retry(
                ask, step.retry, clock=route.clock, deadline=due, rng=route.rng
            )
            codes, reasons, evidence = _judge(route, step, given, answer, out)
        except Exception as error:  # noqa: BLE001 - a broken step must hand over its rows
            answer = None
            barred = route.judge_error(step.name, error)
        else:
            seconds = route.clock.monotonic() - started
            if late(step, due, seconds):
                answer, evidence = None, ()
                unused = _answered(codes)
                codes[unused] = RESULT_CODE[StepResult.OVER_TIME]
                reasons[unused] = out.text(f"the answer took {seconds:.3g} s")
    if barred is not None:
        codes = np.full(waiting.size, RESULT_CODE[barred[0]], dtype=np.int8)
        reasons = np.full(waiting.size, out.text(barred[1]), dtype=np.int16)
    seconds = route.clock.monotonic() - started

    answered = _answered(codes)
    some = bool(answered.any())
    if answer is not None:
        out.put(waiting, step.name, answer)
        if some:
            out.take(waiting[answered], answer.value[answered])
    out.results[index, waiting] = codes
    out.reasons[index, waiting] = reasons
    out.step[waiting[answered]] = index
    _set_status(out, waiting, codes)
    texts = tuple(out.texts)
    out.steps.append(
        BatchStep(
            name=step.name,
            rows=int(waiting.size),
            seconds=seconds,
            attempts=attempts,
            counts={_CODES[code]: rows for code, rows in counted(codes)},
            reasons={texts[reason]: rows for reason, rows in counted(reasons)},
            evidence=evidence + step.evidence if some else (),
        )
    )
    return waiting[~answered]


def _set_status(
    out: _Collector, waiting: npt.NDArray[np.intp], codes: npt.NDArray[np.int8]
) -> None:
    # A row that any guard refused stays refused, even if later engines break on it.
    for code, status in ((_ACCEPTED, ACCEPTED), (_FLAGGED, FLAGGED), (_REFUSED, REFUSED)):
        out.status[waiting[codes == code]] = status


def _checked(answer: BatchAnswer, rows: int, out: _Collector) -> BatchAnswer:
    """`answer` with read-only arrays, so that each guard sees what the engine gave.

    Raises EngineError where an array does not fit the rows or the earlier engines' answers.
    """
    if not isinstance(answer, BatchAnswer):
        raise EngineError(f"the answer is of type {type(answer).__name__}, not BatchAnswer")
    for name, array in [("value", answer.value), *answer.fields.items()]:
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            raise EngineError(f"'{name}' of the answer is of type {type(array).__name__}")
        if array.dtype.kind not in "biufc":
            raise EngineError(f"'{name}' of the answer has dtype {array.dtype}")
        if array.shape[:1] != (rows,):
            raise EngineError(f"'{name}' of the answer has shape {array.shape} for {rows} rows")
    value = answer.value
    if out.value is not None:
        if out.value.shape[1:] != value.shape[1:]:
            raise EngineError(
                f"a row of the answer has shape {value.shape[1:]}, "
                f"the earlier engines' rows have {out.value.shape[1:]}"
            )
        # Within a kind a dtype widens exactly; int64 to float64 would round accepted answers.
        if out.value.dtype.kind != value.dtype.kind:
            raise EngineError(
                f"the answer has dtype {value.dtype}, the earlier engines' have {out.value.dtype}"
            )
    fields = {name: read_only(array) for name, array in answer.fields.items()}
    return dataclasses.replace(answer, value=read_only(value), fields=fields)


def _judge(
    route: Route[Any, Any],
    step: RouteStep,
    given: Mapping[str, Array],
    answer: BatchAnswer,
    out: _Collector,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int16], tuple[Evidence, ...]]:
    """Result code and reason of each row, and the guards' evidence for the rows that passed."""
    rows = answer.value.shape[0]
    refused = np.zeros(rows, dtype=np.bool_)
    flagged = np.zeros(rows, dtype=np.bool_)
    reasons = np.zeros(rows, dtype=np.int16)
    evidence: tuple[Evidence, ...] = ()
    verdicts: list[BatchVerdict] = []
    for guard in step.guards:
        verdict: BatchVerdict = guard.check_batch(given, answer)
        verdicts.append(verdict)
        evidence += checked_evidence(verdict.evidence)
    for verdict in verdicts:
        for reason, mask in verdict.refuse.items():
            hit = _row_mask(mask, rows) & ~refused
            reasons[hit] = out.text(checked_text(reason) or NO_REASON)
            refused |= hit
    unfinished = not_finite(answer.value) & ~refused
    if unfinished.any():
        reasons[unfinished] = out.text("the value is not finite")
        refused |= unfinished
    for verdict in verdicts:
        for reason, mask in verdict.flag.items():
            hit = _row_mask(mask, rows) & ~refused & ~flagged
            reasons[hit] = out.text(checked_text(reason) or NO_REASON)
            flagged |= hit
    codes = np.full(rows, _ACCEPTED, dtype=np.int8)
    codes[flagged] = _FLAGGED
    codes[refused] = _REFUSED
    return codes, reasons, evidence


def _answered(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    # Two comparisons: np.isin costs a small batch ten times as much.
    found: npt.NDArray[np.bool_] = (codes == _ACCEPTED) | (codes == _FLAGGED)
    return found


def _row_mask(mask: Array, rows: int) -> npt.NDArray[np.bool_]:
    if mask.dtype != np.bool_ or mask.shape != (rows,):
        raise EngineError(
            f"a guard's mask has dtype {mask.dtype} and shape {mask.shape}, "
            f"it must be bool and ({rows},)"
        )
    return mask


def _blank(rows: int, answers: Array) -> Array:
    """Rows without an answer: NaN where the dtype has it, else zero (their status says so)."""
    fill = np.nan if answers.dtype.kind in "fc" else 0
    return np.full((rows, *answers.shape[1:]), fill, dtype=answers.dtype)
