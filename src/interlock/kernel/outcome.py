"""What an answer is: status, the steps taken for it, and the evidence that backs it.

`Outcome` describes one answer; a batch of numeric answers is a `BatchOutcome`
(`interlock.kernel.batch`), whose summary is an `Outcome`. Both are written as versioned JSON.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from interlock.kernel.errors import InputError

OUTCOME_SCHEMA = 1

T = TypeVar("T")


class Status(StrEnum):
    """How an item ended. Exactly one of the four."""

    ACCEPTED = "accepted"
    """Usable."""
    FLAGGED = "flagged"
    """Usable, but near a limit."""
    REFUSED = "refused"
    """An engine answered and a guard refused every answer; there is no value."""
    FAILED = "failed"
    """Nothing could answer; there is no value."""

    @property
    def usable(self) -> bool:
        """Whether there is a value to use."""
        return self in (Status.ACCEPTED, Status.FLAGGED)


class EvidenceKind(StrEnum):
    """What backs an answer, strongest first."""

    PROVED = "proved"
    """A proof that a third party verifies without the model."""
    REPLAYED = "replayed"
    """The verifier ran it again and agreed."""
    CHECKED = "checked"
    """An independent check passed, such as forward kinematics."""
    ATTESTED = "attested"
    """Digests and signatures of what ran."""
    NONE = "none"
    """Nothing."""

    @property
    def strength(self) -> int:
        """4 for `proved` down to 0 for `none`."""
        return _STRENGTH[self]


_STRENGTH = {kind: len(EvidenceKind) - 1 - rank for rank, kind in enumerate(EvidenceKind)}


class Evidence(msgspec.Struct, frozen=True):
    """One piece of evidence: its kind, who stands behind it, and what someone needs to check it.

    `detail` holds plain JSON values such as digests, tolerances and counts.
    """

    kind: EvidenceKind = EvidenceKind.NONE
    by: str = ""
    detail: dict[str, str | int | float | bool | None] = {}


NO_EVIDENCE = Evidence()


def strongest(evidence: Iterable[Evidence]) -> Evidence:
    """The strongest piece; the earlier of two equals; `NO_EVIDENCE` where there is none."""
    return max(evidence, key=lambda piece: piece.kind.strength, default=NO_EVIDENCE)


class StepResult(StrEnum):
    """What one step of a route came to."""

    ACCEPTED = "accepted"
    FLAGGED = "flagged"
    REFUSED = "refused"
    """A guard refused the answer."""
    UNAVAILABLE = "unavailable"
    """The engine cannot run here; it was not asked."""
    OVER_SIZE = "over_size"
    """Above the step's size limit; it was not asked."""
    OVER_TIME = "over_time"
    """Above the step's time limit, predicted or measured."""
    ERROR = "error"
    """The engine or a guard raised."""

    @property
    def answered(self) -> bool:
        """Whether this step gave the answer that is used."""
        return self in (StepResult.ACCEPTED, StepResult.FLAGGED)


class Step(msgspec.Struct, frozen=True):
    """One step that was tried: its result, the reason for it, and the time it took.

    `seconds` covers the engine, its retries and its guards; `attempts` is 0 where the engine was
    not asked. A retry repeats this step; a fallback is the next `Step`.
    """

    name: str
    result: StepResult
    reason: str = ""
    seconds: float = 0.0
    attempts: int = 1
    evidence: tuple[Evidence, ...] = ()


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """One answer and how it came about.

    `value` is None unless the status is usable. `action` is what the route prescribes for an item
    without an answer (`refuse`, `block`, `escalate`, `record`), None for a usable one.
    """

    status: Status
    value: T | None = None
    steps: tuple[Step, ...] = ()
    evidence: Evidence = NO_EVIDENCE
    route: str = ""
    action: str | None = None
    schema: int = OUTCOME_SCHEMA

    def __post_init__(self) -> None:
        """Refuse a contradiction: a value without a usable status, or the other way about."""
        if not self.status.usable and self.value is not None:
            raise ValueError(f"an outcome that is {self.status} must not carry a value")
        if not self.status.usable and self.evidence.kind is not EvidenceKind.NONE:
            raise ValueError(f"an outcome that is {self.status} has no answer to back")
        if self.status.usable and self.steps and not self.steps[-1].result.answered:
            raise ValueError(f"an outcome that is {self.status} must end in a step that answered")

    @property
    def reasons(self) -> tuple[str, ...]:
        """`step: reason` for every step that gave a reason, in order."""
        return tuple(f"{step.name}: {step.reason}" for step in self.steps if step.reason)

    def to_json(self) -> bytes:
        """Versioned JSON. Arrays keep dtype and bits; non-finite floats survive."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["value"] = to_plain(self.value)
        return msgspec.json.encode(fields)

    @classmethod
    def from_json(cls, data: bytes | str) -> Outcome[Any]:
        """Read what `to_json` wrote; raises InputError for anything else or a newer schema."""
        try:
            probe = msgspec.json.decode(data, type=_Versioned)
            if probe.schema > OUTCOME_SCHEMA:
                raise InputError(
                    f"outcome schema is {probe.schema}, this release reads up to {OUTCOME_SCHEMA}",
                    hint="install a newer release of interlock",
                )
            outcome = msgspec.json.decode(data, type=Outcome[Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"not an outcome: {error}") from None
        return msgspec.structs.replace(outcome, value=from_plain(outcome.value))


class _Versioned(msgspec.Struct):
    schema: int


def to_plain(value: Any) -> Any:
    """`value` in JSON's own types. Arrays become `{"$array": …}`, non-finite floats `{"$float"}`.

    Raises InputError for a type that JSON cannot carry.
    """
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case np.ndarray():
            return _array_to_plain(value)
        case np.generic():
            return to_plain(value.item())
        case dict():
            if any(not isinstance(key, str) or key.startswith("$") for key in value):
                raise InputError("a mapping's keys must be strings that do not start with '$'")
            return {key: to_plain(item) for key, item in value.items()}
        case list() | tuple():
            return [to_plain(item) for item in value]
        case msgspec.Struct():
            return to_plain(msgspec.to_builtins(value))
    raise InputError(f"a value of type {type(value).__name__} cannot be written as JSON")


def from_plain(value: Any) -> Any:
    """Undo `to_plain`; tuples come back as lists."""
    match value:
        case {"$float": str(text)}:
            return float(text)
        case {"$array": {"dtype": str(dtype), "shape": list(shape), "base64": str(data)}}:
            return _array_from_plain(dtype, shape, data)
        case dict():
            return {key: from_plain(item) for key, item in value.items()}
        case list():
            return [from_plain(item) for item in value]
    return value


def _array_to_plain(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.kind not in "biufc":
        raise InputError(f"an array of dtype {array.dtype} cannot be written as JSON")
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {
        "$array": {
            "dtype": little.dtype.str,
            "shape": list(array.shape),
            "base64": base64.b64encode(little.tobytes()).decode("ascii"),
        }
    }


def _array_from_plain(dtype: str, shape: list[Any], data: str) -> np.ndarray[Any, Any]:
    try:
        parsed = np.dtype(dtype)
        if parsed.kind not in "biufc":
            raise ValueError(f"dtype {dtype}")
        raw = base64.b64decode(data, validate=True)
        return np.frombuffer(raw, dtype=parsed).reshape(tuple(int(n) for n in shape)).copy()
    except (TypeError, ValueError) as error:
        raise InputError(f"not an array: {error}") from None
