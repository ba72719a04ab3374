"""The rules of a route over a batch, one example each, and what holds whatever the steps do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count
from support.routes import CHECKED, Judge, Says

from interlock.errors import DeadlineError, InputError, TransientError
from interlock.kernel.batch import (
    ACCEPTED,
    FAILED,
    FLAGGED,
    NOT_ASKED,
    REFUSED,
    RESULT_CODE,
    Array,
    BatchOutcome,
)
from interlock.kernel.clock import Deadline, ManualClock
from interlock.kernel.limits import RetryPolicy
from interlock.kernel.outcome import Evidence, EvidenceKind, Status, StepResult
from interlock.kernel.route import BatchAnswer, BatchVerdict, Route, RouteStep

SECRET = "the prompt itself"
X = {"x": np.arange(4.0)}


def route(*steps: RouteStep, **more: Any) -> Route[Any, Any]:
    """A route on a clock that stands still."""
    return Route("arm", steps, "refuse", **{"clock": ManualClock(), **more})


def times(factor: float) -> Says:
    """An engine that answers `factor * x`."""
    return Says(lambda inputs: factor * inputs["x"])


def refuse_where(test: Callable[[Array], Array], reason: str = "no") -> Judge:
    """A guard that refuses the rows whose input passes `test`."""
    return Judge(lambda inputs, answer: BatchVerdict(refuse={reason: test(inputs["x"])}))


def flag_where(test: Callable[[Array], Array], reason: str = "near") -> Judge:
    """A guard that flags the rows whose input passes `test`."""
    return Judge(lambda inputs, answer: BatchVerdict(flag={reason: test(inputs["x"])}))


def results(outcome: BatchOutcome) -> list[list[str]]:
    """Of each step, each row's result."""
    names = {code: result.value for result, code in RESULT_CODE.items()} | {NOT_ASKED: "-"}
    return [[names[int(code)] for code in row] for row in outcome.results]


# Which rows go where


def test_only_rows_without_an_answer_go_on_to_the_next_step() -> None:
    second = times(10)
    outcome = route(
        RouteStep("model", times(1), (refuse_where(lambda x: x >= 2, "singular"),)),
        RouteStep("analytic", second),
    ).run_batch(X)
    assert outcome.value.tolist() == [0.0, 1.0, 20.0, 30.0]
    assert outcome.step.tolist() == [0, 0, 1, 1]
    assert results(outcome) == [
        ["accepted", "accepted", "refused", "refused"],
        ["-", "-", "accepted", "accepted"],
    ]
    assert second.asked[0]["x"].tolist() == [2.0, 3.0]
    assert outcome.row(3).reasons == ("model: singular",)


def test_a_fallback_answer_passes_its_own_guard() -> None:
    outcome = route(
        RouteStep("model", times(1), (refuse_where(lambda x: x >= 1),)),
        RouteStep("analytic", times(10), (refuse_where(lambda x: x >= 3, "unreachable"),)),
    ).run_batch(X)
    assert outcome.status.tolist() == [ACCEPTED, ACCEPTED, ACCEPTED, REFUSED]
    assert outcome.row(3).reasons == ("model: no", "analytic: unreachable")
    assert outcome.row(3).action == "refuse"


def test_rows_that_nothing_answered_are_failed_and_hold_nan() -> None:
    outcome = route(RouteStep("model", Says(RuntimeError(SECRET)))).run_batch(X)
    assert outcome.status.tolist() == [FAILED] * 4
    assert np.isnan(outcome.value).all()
    assert outcome.counts() == {
        Status.ACCEPTED: 0,
        Status.FLAGGED: 0,
        Status.REFUSED: 0,
        Status.FAILED: 4,
    }


def test_a_step_that_raises_costs_its_rows_one_step_not_the_batch() -> None:
    seen: list[str] = []
    outcome = route(
        RouteStep("model", Says(RuntimeError(SECRET))),
        RouteStep("analytic", times(10)),
        on_error=lambda step, error: seen.append(f"{step}: {error}"),
    ).run_batch(X)
    assert outcome.status.tolist() == [ACCEPTED] * 4
    assert outcome.row(0).reasons == ("model: raised RuntimeError",)
    assert seen == [f"model: {SECRET}"]
    assert SECRET not in outcome.to_json().decode()


def test_a_refused_row_stays_refused_when_later_steps_break() -> None:
    outcome = route(
        RouteStep("model", times(1), (refuse_where(lambda x: x >= 2),)),
        RouteStep("analytic", Says(RuntimeError("down"))),
    ).run_batch(X)
    assert outcome.status.tolist() == [ACCEPTED, ACCEPTED, REFUSED, REFUSED]


def test_later_steps_are_not_asked_when_every_row_has_an_answer() -> None:
    second = times(10)
    outcome = route(RouteStep("model", times(1)), RouteStep("analytic", second)).run_batch(X)
    assert second.asked == []
    assert (outcome.steps[1].rows, outcome.steps[1].attempts) == (0, 0)


def test_a_batch_without_rows_asks_nobody() -> None:
    engine = times(1)
    outcome = route(RouteStep("model", engine)).run_batch({"x": np.empty((0, 3))})
    assert (len(outcome), engine.asked, outcome.value.shape) == (0, [], (0,))
    assert outcome.summary().status is Status.ACCEPTED


# Guards


def test_a_refusal_beats_a_flag_and_the_first_reason_wins() -> None:
    guards = (
        flag_where(lambda x: x >= 1, "near"),
        refuse_where(lambda x: x >= 2, "first"),
        refuse_where(lambda x: x >= 3, "second"),
        flag_where(lambda x: x >= 0, "slow"),
    )
    outcome = route(RouteStep("model", times(1), guards)).run_batch(X)
    assert outcome.status.tolist() == [FLAGGED, FLAGGED, REFUSED, REFUSED]
    assert [outcome.row(k).steps[0].reason for k in range(4)] == ["slow", "near", "first", "first"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_though_no_mask_says_so(bad: float) -> None:
    value = np.array([[1.0, 2.0], [1.0, bad], [bad, bad], [3.0, 4.0]])
    outcome = route(RouteStep("model", Says(value))).run_batch(X)
    assert outcome.status.tolist() == [ACCEPTED, REFUSED, REFUSED, ACCEPTED]
    assert outcome.row(1).reasons == ("model: the value is not finite",)
    assert np.isnan(outcome.value[1]).all()


@pytest.mark.parametrize(
    "mask", [np.ones(3, bool), np.ones((4, 1), bool), np.ones(4), np.array(True), [True] * 4]
)
def test_a_mask_of_the_wrong_shape_or_dtype_lets_nothing_pass(mask: Any) -> None:
    for verdict in (BatchVerdict(refuse={"no": mask}), BatchVerdict(flag={"near": mask})):
        judge = Judge(lambda inputs, answer, verdict=verdict: verdict)  # type: ignore[misc]
        outcome = route(RouteStep("model", times(1), (judge,))).run_batch(X)
        assert outcome.status.tolist() == [FAILED] * 4


@pytest.mark.parametrize(
    "verdict",
    [
        None,
        BatchVerdict(refuse={5: np.zeros(4, bool)}),  # type: ignore[dict-item]
        BatchVerdict(flag={None: np.zeros(4, bool)}),  # type: ignore[dict-item]
        BatchVerdict(evidence=("forward kinematics",)),  # type: ignore[arg-type]
        BatchVerdict(evidence=None),  # type: ignore[arg-type]
    ],
)
def test_a_guard_that_answers_nonsense_lets_nothing_pass(verdict: Any) -> None:
    step = RouteStep("model", times(1), (Judge(lambda inputs, answer: verdict),))
    outcome = route(step).run_batch(X)
    assert outcome.status.tolist() == [FAILED] * 4
    assert BatchOutcome.from_json(outcome.to_json()).row(0).reasons


@pytest.mark.parametrize(
    "guard", [refuse_where(lambda x: x >= 0, ""), flag_where(lambda x: x >= 0, "")]
)
def test_a_guard_without_a_reason_is_told_on(guard: Judge) -> None:
    outcome = route(RouteStep("model", times(1), (guard,))).run_batch(X)
    assert outcome.row(0).reasons == ("model: no reason given",)


def test_neither_engine_nor_guard_can_change_what_the_others_see() -> None:
    def spoil(inputs: Mapping[str, Array]) -> Array:
        inputs["x"][:] = 0
        return np.zeros(4)

    def spoil_input(inputs: Any, answer: BatchAnswer) -> BatchVerdict:
        inputs["x"][:] = 0
        return BatchVerdict()

    def spoil_answer(inputs: Any, answer: BatchAnswer) -> BatchVerdict:
        answer.value[:] = 0
        return BatchVerdict()

    x = np.arange(4.0)
    for step in (
        RouteStep("model", Says(spoil)),
        RouteStep("model", times(1), (Judge(spoil_input),)),
        RouteStep("model", times(1), (Judge(spoil_answer),)),
    ):
        outcome = route(step).run_batch({"x": x})
        assert results(outcome) == [["error"] * 4]
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert x.flags.writeable


def test_the_outcome_shares_no_memory_with_inputs_or_engines() -> None:
    buffer = np.zeros(4)
    echo = Says(lambda inputs: BatchAnswer(inputs["x"], {"raw": buffer}))
    outcome = route(RouteStep("model", echo)).run_batch(X)
    assert not np.shares_memory(outcome.value, X["x"])
    assert not np.shares_memory(outcome.fields["model.raw"], buffer)
    outcome.value[:] = -1


def test_a_guard_may_word_every_row_differently() -> None:
    rows = 2**15 + 100
    masks = dict(zip((f"row {k}" for k in range(rows)), np.eye(1, rows, dtype=bool), strict=False))
    rest = {f"text {k}": np.zeros(rows, dtype=bool) for k in range(rows)}
    last = {"the last": np.ones(rows, dtype=bool)}
    judge = Judge(lambda inputs, answer: BatchVerdict(refuse={**masks, **rest, **last}))
    step = RouteStep("model", times(1), (judge,))
    outcome = route(step).run_batch({"x": np.zeros(rows)})
    assert outcome.status.tolist() == [REFUSED] * rows
    assert outcome.row(0).reasons == ("model: row 0",)
    assert outcome.row(rows - 1).reasons == ("model: another reason",)


# Answers that fit neither the rows nor one another


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros(3),
        np.float64(1.0),
        np.array(1.0),
        [0.0] * 4,
        None,
        BatchAnswer(np.zeros(5), {"value": np.zeros(4)}),
        BatchAnswer(np.zeros(4), {"mask": np.zeros(3, dtype=bool)}),
        BatchAnswer([0.0] * 4),  # type: ignore[arg-type]
        np.array([None] * 4),
        np.array(["1"] * 4),
        np.zeros(4, dtype=[("a", "f4")]),
        np.zeros(4, dtype="M8[s]"),
        np.ma.masked_array(np.zeros(4), mask=[True] * 4),
    ],
    ids=repr,
)
def test_an_answer_that_does_not_fit_the_rows_is_not_used(answer: Any) -> None:
    outcome = route(RouteStep("model", Says(answer)), RouteStep("analytic", times(10))).run_batch(X)
    assert results(outcome) == [["error"] * 4, ["accepted"] * 4]


@pytest.mark.parametrize(
    "later", [np.zeros((2, 3)), np.zeros((2, 1)), np.zeros(2, dtype=np.int64), np.zeros(2, "c16")]
)
def test_a_later_answer_of_another_shape_or_kind_is_not_mixed_in(later: Array) -> None:
    outcome = route(
        RouteStep("model", times(1), (refuse_where(lambda x: x >= 2),)),
        RouteStep("other", Says(later)),
    ).run_batch(X)
    assert outcome.status.tolist() == [ACCEPTED, ACCEPTED, REFUSED, REFUSED]
    assert results(outcome)[1] == ["-", "-", "error", "error"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("f2", "f4"), ("f4", "f8"), ("f8", "f4"), (">f8", "<f4"), ("i1", "i8"), ("c8", "c16")],
)
def test_a_dtype_widens_so_that_no_answer_is_rounded(first: str, second: str) -> None:
    one = np.ones(4, dtype=first)
    one[0] = 100
    other = np.full(2, 3, dtype=second) / np.array(1, dtype=second)
    other = other.astype(second)
    outcome = route(
        RouteStep("model", Says(one), (refuse_where(lambda x: x >= 2),)),
        RouteStep("other", Says(other)),
    ).run_batch(X)
    assert outcome.value.dtype.itemsize == max(np.dtype(first).itemsize, np.dtype(second).itemsize)
    assert outcome.value.tolist() == [100, 1, 3, 3]


def test_a_dtype_without_nan_holds_zero_where_there_is_no_answer() -> None:
    step = RouteStep("model", Says(np.arange(1, 5)), (refuse_where(lambda x: x >= 2),))
    outcome = route(step).run_batch(X)
    assert outcome.value.tolist() == [1, 2, 0, 0]
    assert outcome.answered.tolist() == [True, True, False, False]


def test_the_shape_of_a_row_is_kept_though_every_row_is_refused() -> None:
    step = RouteStep("model", Says(np.ones((4, 2), "f4")), (refuse_where(lambda x: x >= 0),))
    outcome = route(step).run_batch(X)
    assert (outcome.value.shape, outcome.value.dtype) == ((4, 2), np.dtype("f4"))
    assert np.isnan(outcome.value).all()


def test_fields_carry_what_each_engine_gave_beside_the_value() -> None:
    first = Says(BatchAnswer(np.zeros(4), {"gap": np.array([True, False, True, True])}))
    second = Says(BatchAnswer(np.zeros(2), {"residual": np.array([0.5, 0.25])}))
    outcome = route(
        RouteStep("model", first, (refuse_where(lambda x: x >= 2),)), RouteStep("analytic", second)
    ).run_batch(X)
    assert outcome.fields["model.gap"].tolist() == [True, False, True, True]
    assert outcome.fields["analytic.residual"].tolist() == [0.0, 0.0, 0.5, 0.25]


# Time, retries, evidence


def test_late_answers_are_not_used_and_refused_rows_stay_refused() -> None:
    clock = ManualClock()
    slow = Says(np.ones(4), takes=3, clock=clock)
    step = RouteStep(
        "model", slow, (refuse_where(lambda x: x >= 3),), time_limit=2.0, evidence=(CHECKED,)
    )
    outcome = route(step, clock=clock).run_batch(X)
    assert results(outcome) == [["over_time"] * 3 + ["refused"]]
    assert outcome.status.tolist() == [FAILED] * 3 + [REFUSED]
    assert outcome.steps[0].evidence == ()
    assert np.isnan(outcome.value).all()


def test_an_engine_stopped_at_its_deadline_is_over_time() -> None:
    outcome = route(RouteStep("model", Says(DeadlineError("stopped")))).run_batch(X)
    assert results(outcome) == [["over_time"] * 4]


def test_after_the_deadline_no_step_is_asked() -> None:
    clock = ManualClock()
    engine = times(1)
    outcome = route(RouteStep("model", engine), clock=clock).run_batch(
        X, deadline=Deadline.after(0, clock)
    )
    assert (engine.asked, outcome.row(0).reasons) == ([], ("model: the deadline has passed",))


def test_a_retry_repeats_the_step_for_the_same_rows() -> None:
    engine = Says(TransientError("busy"))
    outcome = route(
        RouteStep("api", engine, retry=RetryPolicy(retries=2)), RouteStep("local", times(1))
    ).run_batch(X)
    assert [step.attempts for step in outcome.steps] == [3, 1]
    assert outcome.status.tolist() == [ACCEPTED] * 4


def test_evidence_backs_the_rows_that_the_step_answered() -> None:
    attested = Evidence(EvidenceKind.ATTESTED, "bundle")
    check = Judge(
        lambda inputs, answer: BatchVerdict({"no": inputs["x"] >= 2}, evidence=(CHECKED,))
    )
    outcome = route(
        RouteStep("model", times(1), (check,), evidence=(attested,)),
        RouteStep("analytic", times(10), (refuse_where(lambda x: x >= 3),), evidence=(attested,)),
    ).run_batch(X)
    assert outcome.row(0).evidence == CHECKED
    assert outcome.row(2).evidence == attested
    assert outcome.row(2).steps[0].evidence == ()
    assert outcome.row(3).evidence.kind is EvidenceKind.NONE


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.zeros(3), "v": np.zeros(4)},
        {"x": np.array(1.0)},
        {"x": [1.0, 2.0]},
    ],
)
def test_inputs_that_are_no_batch_are_refused(inputs: Any) -> None:
    with pytest.raises(InputError):
        route(RouteStep("model", times(1))).run_batch(inputs)


# Whatever the steps do

KINDS = ("answers", "raises", "nan", "late", "unavailable", "wrong shape", "guard raises")
steps_strategy = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 2**8 - 1),
        st.integers(0, 2**8 - 1),
        st.sampled_from(["f2", "f4", "f8"]),
    ),
    min_size=1,
    max_size=4,
)


def bits(number: int, rows: int) -> Array:
    """(rows,) bool from the bits of `number`."""
    return np.array([bool(number >> k & 1) for k in range(rows)], dtype=bool)


def make_step(
    index: int, kind: str, refused: int, flagged: int, dtype: str, clock: ManualClock
) -> RouteStep:
    """Answers row i with 10 * index + i, and refuses and flags the rows whose bit is set."""

    def answer(inputs: Mapping[str, Array]) -> Array:
        rows = inputs["row"]
        value = (10 * index + rows).astype(dtype)
        if kind == "raises":
            raise RuntimeError(SECRET)
        if kind == "nan":
            value[rows % 2 == 0] = np.nan
        return value[:-1] if kind == "wrong shape" else value

    def judge(inputs: Mapping[str, Array], answer: BatchAnswer) -> BatchVerdict:
        if kind == "guard raises":
            raise KeyError(SECRET)
        rows = inputs["row"]
        return BatchVerdict(
            refuse={"no": bits(refused, 8)[rows]}, flag={"near": bits(flagged, 8)[rows]}
        )

    step = RouteStep(
        f"s{index}", Says(answer, 2.0 if kind == "late" else 0.0, clock), (Judge(judge),)
    )
    if kind == "late":
        step = replace(step, time_limit=1.0)
    if kind == "unavailable":
        step = replace(step, available=lambda: "gone")
    return step


@settings(max_examples=count(250, 5_000), deadline=None)
@given(st.integers(0, 8), steps_strategy)
def test_every_row_ends_in_one_status_and_nothing_slips_through(
    rows: int, drawn: list[tuple[str, int, int, str]]
) -> None:
    clock = ManualClock()
    steps = [make_step(k, *step, clock) for k, step in enumerate(drawn)]
    outcome = route(*steps, clock=clock).run_batch({"row": np.arange(rows)})

    # One status a row, and the counts add up.
    assert sum(outcome.counts().values()) == len(outcome) == rows
    for status in Status:
        assert outcome.mask(status).sum() == outcome.counts()[status]

    # A value exactly where there is an answer.
    answered = outcome.answered
    assert np.array_equal(~np.isnan(outcome.value), answered)
    assert np.array_equal(outcome.step >= 0, answered)

    for row in range(rows):
        single = outcome.row(row)
        wanted_status, wanted_value = expected(row, drawn)
        assert single.status is wanted_status
        if wanted_value is None:
            assert single.value is None
        else:
            assert single.value is not None
            assert single.value == wanted_value
        # A reason for every step that did not simply accept.
        assert all(s.reason for s in single.steps if s.result is not StepResult.ACCEPTED)

    # Each step saw the rows that no earlier one answered.
    waiting = rows
    for k, step in enumerate(outcome.steps):
        assert step.rows == waiting == sum(step.counts.values()) == sum(step.reasons.values())
        waiting -= int((outcome.step == k).sum())

    document = outcome.to_json()
    assert SECRET not in document.decode()
    assert BatchOutcome.from_json(document).to_json() == document
    assert outcome.summary().status.usable == bool(answered.all())


def expected(row: int, drawn: list[tuple[str, int, int, str]]) -> tuple[Status, float | None]:
    """The rules, applied to one row by itself."""
    refused_once = False
    for index, (kind, refused, flagged, _) in enumerate(drawn):
        if kind in ("raises", "unavailable", "wrong shape", "guard raises"):
            continue
        if refused >> row & 1 or (kind == "nan" and row % 2 == 0):
            refused_once = True
            continue
        if kind == "late":
            continue
        status = Status.FLAGGED if flagged >> row & 1 else Status.ACCEPTED
        return status, 10 * index + row
    return (Status.REFUSED if refused_once else Status.FAILED), None
