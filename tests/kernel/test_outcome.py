"""Outcomes: what contradicts itself is refused, and JSON carries every bit there and back."""

from __future__ import annotations

import json
import math
from enum import IntEnum, StrEnum
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.counts import count

from interlock.errors import InputError
from interlock.kernel.outcome import (
    NO_EVIDENCE,
    OUTCOME_SCHEMA,
    Evidence,
    EvidenceKind,
    Outcome,
    Status,
    Step,
    StepResult,
    from_plain,
    strongest,
    to_plain,
)

EXAMPLES = settings(max_examples=count(150, 2_000), deadline=None)

DTYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")


def arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Arrays of every dtype and byte order, any bits (NaN payloads too), any shape."""

    def of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
        size = dtype.itemsize * math.prod(shape)
        if dtype.kind == "b":
            return hnp.arrays(dtype, shape)
        return st.binary(min_size=size, max_size=size).map(
            lambda raw: np.frombuffer(raw, dtype=dtype).reshape(shape)
        )

    return st.tuples(
        st.sampled_from(DTYPES),
        st.sampled_from(ORDERS),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ).flatmap(lambda drawn: of(np.dtype(drawn[0]).newbyteorder(drawn[1]), drawn[2]))


def values() -> st.SearchStrategy[Any]:
    """Everything that a value may hold, nested."""
    keys = st.text(max_size=5).filter(lambda key: not key.startswith("$"))
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(min_value=2**63, max_value=2**300)
        | st.floats()
        | st.complex_numbers()
        | st.text(max_size=5)
        | arrays()
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )


def same(a: Any, b: Any) -> bool:
    """Equal to the bit; NaN equals NaN, -0.0 does not equal 0.0, byte order does not matter."""
    if isinstance(a, np.ndarray):
        little = a.astype(a.dtype.newbyteorder("<"))
        return (
            isinstance(b, np.ndarray)
            and b.dtype == little.dtype
            and b.shape == a.shape
            and b.tobytes() == little.tobytes()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and repr(a) == repr(b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@EXAMPLES
@given(values())
def test_json_carries_every_value_to_the_bit(value: Any) -> None:
    outcome = Outcome(Status.ACCEPTED, value=value)
    assert same(value, Outcome.from_json(outcome.to_json()).value)


@EXAMPLES
@given(
    st.lists(
        st.builds(
            Step,
            name=st.text(max_size=5),
            result=st.sampled_from(StepResult),
            reason=st.text(max_size=5),
            seconds=st.floats(0, 1e9),
            attempts=st.integers(0, 9),
            evidence=st.lists(
                st.builds(
                    Evidence,
                    kind=st.sampled_from(EvidenceKind),
                    by=st.text(max_size=5),
                    detail=st.dictionaries(
                        st.sampled_from(["tolerance", "count"]), st.floats(allow_nan=False)
                    ),
                ),
                max_size=2,
            ).map(tuple),
        ),
        max_size=3,
    ).map(tuple)
)
def test_json_carries_steps_and_their_evidence(steps: tuple[Step, ...]) -> None:
    outcome: Outcome[Any] = Outcome(
        Status.REFUSED, steps=steps, route="arm", action="escalate", evidence=NO_EVIDENCE
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_not_a_number_in_evidence_survives() -> None:
    """NaN must not turn into null: "not measured" and "measured as NaN" differ."""
    evidence = Evidence(EvidenceKind.CHECKED, "kinematics", {"worst": math.nan, "rows": None})
    back = Outcome.from_json(Outcome(Status.ACCEPTED, value=1, evidence=evidence).to_json())
    assert math.isnan(back.evidence.detail["worst"])  # type: ignore[arg-type]
    assert back.evidence.detail["rows"] is None


def test_numpy_numbers_become_plain_numbers() -> None:
    numbers = [np.float64(math.nan), np.float32(0.5), np.int64(-3), np.bool_(True), np.complex64(2)]
    back = from_plain(to_plain(numbers))
    assert same([math.nan, 0.5, -3, True, 2 + 0j], back)


def test_a_struct_becomes_a_mapping_with_its_arrays() -> None:
    class Pair(msgspec.Struct):
        q: Any
        note: str

    back = from_plain(to_plain(Pair(np.array([1.5, math.nan]), "x")))
    assert same({"q": np.array([1.5, math.nan]), "note": "x"}, back)


class Text(str):
    """A text of a library's own type."""


class Colour(StrEnum):
    """A text with a name."""

    RED = "red"


class Size(IntEnum):
    """A number with a name."""

    LARGE = 3


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.str_("a"), "a"),
        (Text("a"), "a"),
        (Colour.RED, "red"),
        (Size.LARGE, 3),
        ({np.str_("a"): Size.LARGE, Text("b"): [Text("c")], Colour.RED: True}, None),
    ],
)
def test_subclasses_of_text_and_int_are_written_as_what_they_hold(value: Any, plain: Any) -> None:
    plain = {"a": 3, "b": ["c"], "red": True} if plain is None else plain
    found = Outcome.from_json(Outcome(Status.ACCEPTED, value=value).to_json()).value
    assert same(plain, found)


def nested(depth: int) -> list[Any]:
    """A list inside a list, `depth` times."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"bytes",
        {1: "key"},
        {"$float": "nan"},
        np.array([object()]),
        np.array(["text"]),
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.datetime64(1, "ns"),
        np.longdouble(1),
        np.zeros(2, dtype=np.longdouble),
        np.ma.masked_array([1.0, 2.0], mask=[True, False]),
        np.zeros(2, dtype=[("a", "f4")]),
        "\ud800",
        10**5000,
        nested(100_000),
        cyclic(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(InputError):
        Outcome(Status.ACCEPTED, value=value).to_json()


def valid() -> dict[str, Any]:
    """A valid outcome as a document, for tests to spoil."""
    step = Step("model", StepResult.ACCEPTED)
    document: dict[str, Any] = json.loads(
        Outcome(Status.ACCEPTED, value=np.arange(3.0), steps=(step,)).to_json()
    )
    return document


def test_a_newer_schema_is_refused_and_says_what_to_do() -> None:
    document = {"schema": OUTCOME_SCHEMA + 1, "kind of thing": "unknown"}
    with pytest.raises(InputError, match=f"schema {OUTCOME_SCHEMA + 1}") as caught:
        Outcome.from_json(json.dumps(document))
    assert "newer release" in caught.value.hint


@pytest.mark.parametrize(
    "value",
    [
        {"$float": "1.0"},
        {"$float": "n_a_n"},
        {"$float": "nan", "more": 1},
        {"$unknown": 1},
        {"$complex": [1]},
        {"$complex": ["1", 2]},
        {"$complex": [10**400, 0]},
        {"$array": {}},
        {"$array": {"dtype": "|O", "shape": [1], "base64": "AAAAAAAAAAA="}},
        {"$array": {"dtype": "(1+f4", "shape": [1], "base64": "AAAA"}},
        {"$array": {"dtype": "<f4", "shape": [-1], "base64": "AAAAAA=="}},
        {"$array": {"dtype": "<f4", "shape": ["1"], "base64": "AAAAAA=="}},
        {"$array": {"dtype": "<f4", "shape": [1.5], "base64": "AAAAAA=="}},
        {"$array": {"dtype": "<f4", "shape": [True], "base64": "AAAAAA=="}},
        {"$array": {"dtype": "<f4", "shape": [2], "base64": "AAAAAA=="}},
        {"$array": {"dtype": "<f4", "shape": [1], "base64": "AAA"}},
        {"$array": {"dtype": "<f4", "shape": [1], "base64": "é"}},
        {"$array": {"dtype": "<f4", "shape": [0, 2**70], "base64": ""}},
        {"$array": {"dtype": "<f4", "shape": [0, 2**62, 2**62], "base64": ""}},
        {"$array": {"dtype": "<f4", "shape": [1] * 65, "base64": "AAAAAA=="}},
        {"$array": {"dtype": "|b1", "shape": [1], "base64": "Bw=="}},
    ],
)
def test_a_malformed_value_is_refused(value: Any) -> None:
    document = valid()
    document["value"] = value
    with pytest.raises(InputError):
        Outcome.from_json(json.dumps(document))


def test_an_array_in_a_mappings_place_is_refused() -> None:
    document = valid()
    array = {"$array": {"dtype": "<f4", "shape": [0], "base64": ""}}
    document["evidence"] = {"kind": "checked", "by": "", "detail": array}
    with pytest.raises(InputError, match="Expected `object`, got an array"):
        Outcome.from_json(json.dumps(document))


@EXAMPLES
@given(st.binary(max_size=80) | st.text(max_size=80))
def test_garbage_raises_nothing_but_an_input_error(data: bytes | str) -> None:
    with pytest.raises(InputError):
        Outcome.from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"schema": 1, "status": "accepted", "value": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"schema": 1, "status": "accepted", "value": ' + b"9" * 5000 + b"}",
        b'{"schema": 1, "status": "accepted", "value": 1e999}',
        b'{"schema": true, "status": "accepted"}',
        b'{"schema": 0, "status": "accepted"}',
        b'{"status": "accepted"}',
        "\ud800",
    ],
)
def test_hostile_json_is_refused_or_read_never_a_crash(data: bytes | str) -> None:
    try:
        outcome = Outcome.from_json(data)
    except InputError:
        return
    assert outcome.status is Status.ACCEPTED


@EXAMPLES
@given(st.data())
def test_a_spoiled_document_is_refused_or_read(data: st.DataObject) -> None:
    document = valid()
    field = data.draw(st.sampled_from(sorted(document)))
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "$array"]), inner),
    )
    document[field] = data.draw(junk)
    try:
        outcome = Outcome.from_json(json.dumps(document))
    except InputError:
        return
    assert isinstance(outcome.status, Status)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.REFUSED, "value": 1},
        {"status": Status.FAILED, "value": 1},
        {"status": Status.REFUSED, "evidence": Evidence(EvidenceKind.CHECKED)},
        {"status": Status.ACCEPTED, "steps": (Step("a", StepResult.REFUSED),)},
        {"status": Status.ACCEPTED, "value": 1, "action": "block"},
    ],
)
def test_an_outcome_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Outcome(**fields)


def test_a_contradiction_in_json_is_refused_too() -> None:
    document = valid()
    document["status"] = "refused"
    with pytest.raises(InputError, match="must not carry a value"):
        Outcome.from_json(json.dumps(document))


def test_reasons_name_their_step() -> None:
    outcome: Outcome[float] = Outcome(
        Status.ACCEPTED,
        value=1.0,
        steps=(
            Step("model", StepResult.REFUSED, "near a singularity"),
            Step("analytic", StepResult.ACCEPTED),
        ),
    )
    assert outcome.reasons == ("model: near a singularity",)


def test_the_strongest_evidence_wins_and_the_earlier_of_two_equals() -> None:
    attested = Evidence(EvidenceKind.ATTESTED, "digest")
    first, second = (Evidence(EvidenceKind.CHECKED, by) for by in ("first", "second"))
    assert strongest([attested, first, second]) is first
    assert strongest([]) is NO_EVIDENCE
    assert [kind.strength for kind in EvidenceKind] == [4, 3, 2, 1, 0]
