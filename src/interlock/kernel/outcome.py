"""What an answer is: status, the steps taken for it, and the evidence that backs it.

`Outcome` describes one answer; a batch of numeric answers is a `BatchOutcome`
(`interlock.kernel.batch`), whose summary is an `Outcome`. Both are written as versioned JSON.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

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
    """The engine cannot run here."""
    OVER_SIZE = "over_size"
    """Above the step's size limit; it was not asked."""
    OVER_TIME = "over_time"
    """Above the step's time limit or the deadline, predicted or measured."""
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
        """Raise InputError for a contradiction between the status and the rest."""
        if self.status.usable:
            if self.action is not None:
                raise InputError(f"an outcome that is {self.status} prescribes no action")
            if self.steps and not self.steps[-1].result.answered:
                raise InputError(
                    f"an outcome that is {self.status} must end in a step that answered"
                )
            return
        if self.value is not None:
            raise InputError(f"an outcome that is {self.status} must not carry a value")
        if self.evidence.kind is not EvidenceKind.NONE:
            raise InputError(f"an outcome that is {self.status} has no answer to back")

    @property
    def reasons(self) -> tuple[str, ...]:
        """`step: reason` for every step that gave a reason, in order."""
        return tuple(f"{step.name}: {step.reason}" for step in self.steps if step.reason)

    def to_json(self) -> bytes:
        """Versioned JSON. Arrays keep dtype and bits; non-finite floats survive.

        Raises InputError for a value that `to_plain` refuses.
        """
        return encode_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Outcome[Any]:
        """Read what `to_json` wrote; raises InputError for anything else or a newer schema."""
        plain = decode_json(data, "an outcome", newest=OUTCOME_SCHEMA)
        try:
            return struct_from_plain(plain, Outcome[Any])
        except msgspec.ValidationError as error:
            raise InputError(f"not an outcome: {error}") from None


def encode_json(value: Any, *, order: Literal["sorted"] | None = None) -> bytes:
    """`value` as JSON by way of `to_plain`; raises InputError for what JSON cannot carry.

    Keys come in the order given, or sorted.
    """
    try:
        return msgspec.json.encode(to_plain(value), order=order)
    except RecursionError:
        raise InputError("the value is nested too deeply to be written as JSON") from None
    except UnicodeEncodeError:
        raise InputError("a text with a lone surrogate cannot be written as JSON") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("an integer is too long to be written as JSON") from None


def decode_json(data: bytes | str, what: str, *, newest: int) -> dict[str, Any]:
    """The JSON object in `data` with `from_plain` applied.

    Raises InputError where `data` is not `what` (such as "an outcome"), or where its `schema` is
    above `newest`. The schema is looked at first: a newer release may write what this one lacks.
    """
    try:
        plain = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not {what}: {error}") from None
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if type(schema) is not int or schema < 1:
        raise InputError(f"not {what}: it has no schema number")
    if schema > newest:
        raise InputError(
            f"this is {what} of schema {schema}, this release reads up to {newest}",
            hint="install a newer release of interlock",
        )
    try:
        decoded: dict[str, Any] = from_plain(plain)
    except RecursionError:
        raise InputError(f"not {what}: nested too deeply") from None
    return decoded


def struct_from_plain(plain: Any, kind: type[T]) -> T:
    """`plain`, as `decode_json` gives it, as a Struct; raises msgspec.ValidationError."""
    try:
        return msgspec.convert(plain, kind)
    except AttributeError:
        # msgspec asks an array that stands in a mapping's place for its keys.
        raise msgspec.ValidationError("Expected `object`, got an array") from None


def to_plain(value: Any) -> Any:
    """`value` in JSON's own types, for `from_plain` to undo.

    Arrays and NumPy's numbers become `{"$array": …}` and Python's, non-finite floats
    `{"$float": …}`, complex numbers `{"$complex": [re, im]}`, a Struct a mapping of its fields.
    Raises InputError for a type that JSON cannot carry, and for a masked array.
    """
    match value:
        case None | bool():
            return value
        # A subclass, such as NumPy's text or an enum's member, is written as what it holds.
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
        case complex():
            return {"$complex": [to_plain(value.real), to_plain(value.imag)]}
        case np.ndarray():
            return _array_to_plain(value)
        case np.generic() if value.dtype.str in _DTYPES:
            return to_plain(value.item())
        case dict():
            if any(not isinstance(key, str) or key.startswith("$") for key in value):
                raise InputError("a mapping's keys must be strings that do not start with '$'")
            return {str.__str__(key): to_plain(item) for key, item in value.items()}
        case list() | tuple():
            return [to_plain(item) for item in value]
        case msgspec.Struct():
            return {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
    raise InputError(f"a value of type {type(value).__name__} cannot be written as JSON")


def from_plain(value: Any) -> Any:
    """Undo `to_plain`; tuples and Structs come back as lists and mappings.

    Raises InputError for a malformed `$` form.
    """
    match value:
        case list():
            return [from_plain(item) for item in value]
        case dict():
            if any(isinstance(key, str) and key.startswith("$") for key in value):
                return _special_from_plain(value)
            return {key: from_plain(item) for key, item in value.items()}
    return value


def _special_from_plain(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        match value:
            case {"$float": "nan" | "inf" | "-inf" as text}:
                return float(text)
            case {"$complex": [re, im]}:
                parts = from_plain(re), from_plain(im)
                if all(isinstance(part, int | float) for part in parts):
                    try:
                        return complex(*parts)
                    except OverflowError:
                        raise InputError("not a value: a $complex beyond its range") from None
            case {"$array": {"dtype": str(dtype), "shape": list(shape), "base64": str(data)}}:
                return _array_from_plain(dtype, shape, data)
    raise InputError(f"not a value: a malformed {sorted(value)}")


# What an array may hold, little-endian. Extended precision is left out: its bits depend on the
# machine.
_DTYPES = frozenset(
    [
        "|b1",
        "|i1",
        "<i2",
        "<i4",
        "<i8",
        "|u1",
        "<u2",
        "<u4",
        "<u8",
        "<f2",
        "<f4",
        "<f8",
        "<c8",
        "<c16",
    ],
)


def _array_to_plain(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("a masked array cannot be written as JSON: its mask would be lost")
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES:
        raise InputError(f"an array of dtype {array.dtype} cannot be written as JSON")
    little = np.ascontiguousarray(array, dtype=dtype)
    return {
        "$array": {
            "dtype": dtype.str,
            "shape": list(array.shape),
            "base64": base64.b64encode(little.tobytes()).decode("ascii"),
        }
    }


def _array_from_plain(dtype: str, shape: list[Any], data: str) -> np.ndarray[Any, Any]:
    if dtype not in _DTYPES:
        raise InputError(f"not an array: dtype {dtype!r}")
    if any(type(length) is not int or length < 0 for length in shape):
        raise InputError(f"not an array: shape {shape}")
    try:
        raw = base64.b64decode(data, validate=True)
        array = np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape).copy()
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not an array: {error}") from None
    if dtype == "|b1" and array.view(np.uint8).max(initial=0) > 1:
        raise InputError("not an array: a truth value is neither 0 nor 1")
    return array
