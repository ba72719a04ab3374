"""A batch outcome as a document: bits survive, contradictions and garbage are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count
from support.routes import CHECKED, Judge, Says

from interlock.errors import InputError
from interlock.kernel.batch import BatchOutcome, rows_of
from interlock.kernel.clock import ManualClock
from interlock.kernel.outcome import (
    OUTCOME_SCHEMA,
    Evidence,
    EvidenceKind,
    Outcome,
    Status,
    to_plain,
)
from interlock.kernel.route import BatchAnswer, BatchVerdict, Route, RouteStep


def outcome(dtype: str = "f8") -> BatchOutcome:
    """Row 0 accepted by the model, row 1 flagged by the solver, row 2 refused by both."""
    model = Judge(
        lambda inputs, answer: BatchVerdict({"singular": inputs["x"] >= 1}, evidence=(CHECKED,))
    )
    solver = Judge(
        lambda inputs, answer: BatchVerdict(
            {"out of reach": inputs["x"] >= 2}, {"near": inputs["x"] >= 1}
        )
    )
    attested = Evidence(EvidenceKind.ATTESTED, "bundle", {"tolerance": 1e-9})
    value = np.array([[-0.0, 1.5], [2.5, 3.5], [4.5, 5.5]], dtype=dtype)
    gap = np.array([False, True, False])
    route: Route[Any, Any] = Route(
        "arm",
        (
            RouteStep("model", Says(BatchAnswer(value, {"gap": gap})), (model,)),
            RouteStep("solver", Says(lambda given: 2 * value[1:]), (solver,), evidence=(attested,)),
        ),
        "escalate",
        clock=ManualClock(),
    )
    return route.run_batch({"x": np.arange(3.0)})


def document() -> dict[str, Any]:
    """A valid outcome as a document, for tests to spoil."""
    parsed: dict[str, Any] = json.loads(outcome().to_json())
    return parsed


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", "i8", "u1", ">f4"])
def test_json_carries_every_array_to_the_bit(dtype: str) -> None:
    before = outcome(dtype)
    after = BatchOutcome.from_json(before.to_json())
    for name in ("value", "status", "step", "results", "reasons"):
        wanted, found = getattr(before, name), getattr(after, name)
        assert found.dtype == wanted.dtype.newbyteorder("<")
        assert found.tobytes() == wanted.astype(found.dtype).tobytes()
    assert after.fields["model.gap"].tolist() == [False, True, False]
    assert (after.steps, after.reason_texts) == (before.steps, before.reason_texts)
    assert (after.route, after.action) == ("arm", "escalate")


def test_a_row_reads_like_a_single_outcome() -> None:
    rows = [outcome().row(k) for k in range(3)]
    assert [row.status.value for row in rows] == ["accepted", "flagged", "refused"]
    assert [row.evidence.kind.value for row in rows] == ["checked", "attested", "none"]
    assert [row.action for row in rows] == [None, None, "escalate"]
    assert rows[1].reasons == ("model: singular", "solver: near")
    assert rows[2].reasons == ("model: singular", "solver: out of reach")
    assert rows[1].value is not None
    assert rows[1].value.tolist() == [5.0, 7.0]
    assert np.signbit(np.asarray(rows[0].value)[0])
    for row in rows:
        assert Outcome.from_json(row.to_json()).status is row.status
    with pytest.raises(IndexError):
        outcome().row(3)


def test_a_rows_value_is_its_own_copy() -> None:
    batch = outcome()
    value = batch.row(0).value
    assert value is not None
    value[:] = 9
    assert batch.value[0].tolist() == [0.0, 1.5]


def test_the_summary_is_as_bad_as_the_worst_row() -> None:
    summary = outcome().summary()
    assert (summary.status, summary.value, summary.action) == (Status.REFUSED, None, "escalate")
    assert summary.steps[0].reason == "singular (2)"


def test_the_summary_of_a_usable_batch_counts_its_rows_and_claims_the_weakest_evidence() -> None:
    attested = Evidence(EvidenceKind.ATTESTED, "bundle")
    check = Judge(
        lambda inputs, answer: BatchVerdict({"no": inputs["x"] >= 1}, evidence=(CHECKED,))
    )
    route: Route[Any, Any] = Route(
        "arm",
        (
            RouteStep("model", Says(np.ones(3)), (check,)),
            RouteStep("solver", Says(np.ones(2)), evidence=(attested,)),
        ),
        "refuse",
    )
    summary = route.run_batch({"x": np.arange(3)}).summary()
    assert summary.value == {"accepted": 3, "flagged": 0, "refused": 0, "failed": 0}
    assert summary.evidence == attested
    assert summary.action is None


def test_a_newer_schema_is_refused_whatever_else_it_holds() -> None:
    with pytest.raises(InputError, match=f"schema {OUTCOME_SCHEMA + 1}"):
        BatchOutcome.from_json(json.dumps({"schema": OUTCOME_SCHEMA + 1}))


def spoil(**fields: Any) -> str:
    """A valid document with these fields replaced."""
    return json.dumps(document() | {name: to_plain(value) for name, value in fields.items()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", np.zeros((2, 2))),
        ("value", np.zeros((3, 2))),
        ("value", np.array(1.0)),
        ("value", [1.0, 2.0, 3.0]),
        ("status", np.zeros(3, np.int64)),
        ("status", np.zeros(2, np.uint8)),
        ("status", np.array(0, np.uint8)),
        ("status", np.array([3, 2, 9], np.uint8)),
        ("status", np.array([3, 3, 3], np.uint8)),
        ("status", None),
        ("step", np.zeros(3, np.int8)),
        ("step", np.array([0, 5, -1], np.int8)),
        ("step", np.array([0, 0, -1], np.int8)),
        ("results", np.zeros((1, 3), np.int8)),
        ("results", np.full((2, 3), 99, np.int8)),
        ("results", np.full((2, 3), -2, np.int8)),
        ("results", np.zeros((2, 3), np.int8)),
        ("results", np.full((2, 3), -1, np.int8)),
        ("reasons", np.full((2, 3), 99, np.int16)),
        ("reasons", np.full((2, 3), -1, np.int16)),
        ("reasons", np.zeros((2, 3), np.int16)),
        ("reason_texts", []),
        ("reason_texts", [1, 2]),
        ("reason_texts", "text"),
        ("steps", []),
        ("steps", [{"name": 1}]),
        ("fields", {"gap": np.zeros(2)}),
        ("fields", {"gap": [1, 2, 3]}),
        ("fields", []),
        ("fields", np.zeros(3)),
        ("route", 3),
        ("action", 3),
        ("schema", "1"),
        ("schema", True),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError):
        BatchOutcome.from_json(spoil(**{name: value}))


@pytest.mark.parametrize("name", sorted(document()))
def test_a_document_that_lacks_a_field_is_refused_or_complete(name: str) -> None:
    spoiled = document()
    del spoiled[name]
    if name in ("fields", "route", "action"):
        assert len(BatchOutcome.from_json(json.dumps(spoiled))) == 3
        return
    with pytest.raises(InputError):
        BatchOutcome.from_json(json.dumps(spoiled))


@settings(max_examples=count(150, 3_000), deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60), st.integers(0, 10**4))
def test_garbage_raises_nothing_but_an_input_error(junk: bytes | str, position: int) -> None:
    with pytest.raises(InputError):
        BatchOutcome.from_json(junk)
    whole = outcome().to_json()
    raw = junk if isinstance(junk, bytes) else junk.encode("utf-8", "replace")
    at = position % len(whole)
    try:
        BatchOutcome.from_json(whole[:at] + raw + whole[at + len(raw) :]).row(0)
    except InputError:
        return


def test_shapes_are_checked_when_an_outcome_is_made() -> None:
    good = outcome()
    fields = {name: getattr(good, name) for name in good.__struct_fields__}
    with pytest.raises(InputError, match="status"):
        BatchOutcome(**(fields | {"status": good.status.astype(np.int64)}))
    with pytest.raises(InputError, match="value"):
        BatchOutcome(**(fields | {"value": good.value[:2]}))


def test_rows_are_the_common_length_of_the_first_axes() -> None:
    assert rows_of({"x": np.zeros((5, 2)), "v": np.zeros(5)}) == 5
    with pytest.raises(InputError, match=r"'x': 5.*'v': 4"):
        rows_of({"x": np.zeros(5), "v": np.zeros(4)})


def test_a_masked_input_is_refused_since_an_engine_may_not_see_the_mask() -> None:
    with pytest.raises(InputError, match="'x' is of type MaskedArray"):
        rows_of({"x": np.ma.masked_array([1.0, 2.0], mask=[False, True])})


@settings(max_examples=count(50, 1000), deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=12), st.data())
def test_a_part_is_what_its_rows_alone_would_have_come_to(
    rows: list[float], data: st.DataObject
) -> None:
    """Counts, reasons and evidence of each step, not of the rows beside them."""
    x = np.array(rows, dtype=np.float32)
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    whole = _two_steps().run_batch({"x": x})
    part, alone = whole.part(start, stop), _two_steps().run_batch({"x": x[start:stop]})
    assert part.counts() == alone.counts()
    assert part.status.tolist() == alone.status.tolist()
    assert np.array_equal(part.value, alone.value, equal_nan=True)
    for mine, theirs in zip(part.steps, alone.steps, strict=True):
        assert (mine.rows, mine.counts, mine.reasons) == (
            theirs.rows,
            theirs.counts,
            theirs.reasons,
        )
        assert mine.evidence == theirs.evidence
    assert BatchOutcome.from_json(part.to_json()).summary().status == alone.summary().status


def _two_steps() -> Route[Any, Any]:
    """Roots of what is not negative, flagged below 1; then of the size, refused above 2."""

    class Root:
        def answer_batch(self, inputs: Any, *, deadline: Any) -> BatchAnswer:
            with np.errstate(invalid="ignore"):
                return BatchAnswer(np.sqrt(inputs["x"]))

    class Size:
        def answer_batch(self, inputs: Any, *, deadline: Any) -> BatchAnswer:
            return BatchAnswer(np.sqrt(np.abs(inputs["x"])))

    class Small:
        def check_batch(self, inputs: Any, answer: BatchAnswer) -> BatchVerdict:
            return BatchVerdict(
                refuse={"above 2": np.abs(inputs["x"]) > 2}, flag={"below 1": inputs["x"] < 1}
            )

    evidence = (Evidence(EvidenceKind.CHECKED, "test"),)
    steps = (RouteStep("root", Root(), (Small(),), evidence=evidence),)
    return Route("roots", (*steps, RouteStep("size", Size(), (Small(),))), "refuse")
