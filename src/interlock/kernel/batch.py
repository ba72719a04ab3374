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
    from_plain,
    strongest,
    to_plain,
)

Array = npt.NDArray[Any]

# Memory that was never written must read as "no answer", so zero is FAILED.
FAILED, REFUSED, FLAGGED, ACCEPTED = range(4)

STATUS_OF_CODE = (Status.FAILED, Status.REFUSED, Status.FLAGGED, Status.ACCEPTED)

NOT_ASKED = -1
"""In `BatchOutcome.results` and `.reasons`: the step did not see this row."""

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


class BatchOutcome(msgspec.Struct, frozen=True):
    """The answers to `n` rows.

    value    (n, …)        NaN (or `fill` of the route) in rows without an answer
    status   (n,) uint8    FAILED, REFUSED, FLAGGED or ACCEPTED
    step     (n,) int8     index into `steps` of the step that answered, -1 where none did
    results  (s, n) int8   code of each step's StepResult for each row, -1 where it was not asked
    reasons  (s, n) int16  index into `reason_texts`, -1 where the step was not asked
    fields   name -> (n, …) what the answering engines gave beside the value, such as masks
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
        found = np.bincount(self.status, minlength=len(STATUS_OF_CODE))
        return {status: int(found[code]) for code, status in enumerate(STATUS_OF_CODE)}

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

    def summary(self) -> Outcome[dict[str, Any]]:
        """The whole batch as one outcome: the worst status of any row, counts as the value.

        A batch with refused or failed rows has no value of its own; see `counts()`.
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
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("value", "status", "step", "results", "reasons", "fields"):
            fields[name] = to_plain(fields[name])
        return msgspec.json.encode(fields)

    @classmethod
    def from_json(cls, data: bytes | str) -> BatchOutcome:
        """Read what `to_json` wrote; raises InputError for anything else or a newer schema."""
        try:
            plain = msgspec.json.decode(data)
            if not isinstance(plain, dict) or not isinstance(plain.get("schema"), int):
                raise InputError("not a batch outcome: no schema")
            if plain["schema"] > OUTCOME_SCHEMA:
                raise InputError(
                    f"outcome schema is {plain['schema']}, this release reads up to "
                    f"{OUTCOME_SCHEMA}",
                    hint="install a newer release of interlock",
                )
            steps = msgspec.convert(plain["steps"], tuple[BatchStep, ...])
            arrays = {
                name: from_plain(plain[name])
                for name in ("value", "status", "step", "results", "reasons", "fields")
            }
            return cls(
                **arrays,
                reason_texts=tuple(plain["reason_texts"]),
                steps=steps,
                route=plain["route"],
                action=plain["action"],
                schema=plain["schema"],
            )
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise InputError(f"not a batch outcome: {error!r}") from None


def _summary_result(step: BatchStep) -> StepResult:
    """The one result that stands for a batch step: the best of its rows, for the step answered."""
    for result in _RESULTS:
        if step.counts.get(str(result)):
            return result
    return StepResult.UNAVAILABLE


def rows_of(inputs: Mapping[str, Array]) -> int:
    """The common length of the first axis; raises InputError where the inputs disagree."""
    if not inputs:
        raise InputError("a batch needs at least one input")
    lengths = {}
    for name, array in inputs.items():
        if array.ndim == 0:
            raise InputError(f"input '{name}' is a scalar; a batch needs a first axis of rows")
        lengths[name] = int(array.shape[0])
    if len(set(lengths.values())) > 1:
        raise InputError(f"inputs differ in their number of rows: {lengths}")
    return next(iter(lengths.values()))
