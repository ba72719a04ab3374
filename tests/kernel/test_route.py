"""The rules of a route, one example each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count
from support.routes import CHECKED, Judge, Says, accept, flag, refuse

from interlock.errors import (
    ConfigError,
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InputError,
    TransientError,
)
from interlock.kernel.clock import Deadline, ManualClock
from interlock.kernel.limits import RetryPolicy
from interlock.kernel.outcome import (
    NO_EVIDENCE,
    Evidence,
    EvidenceKind,
    Outcome,
    Status,
    StepResult,
)
from interlock.kernel.route import (
    OTHERWISE,
    BatchAnswer,
    BatchVerdict,
    Otherwise,
    Route,
    RouteStep,
    Verdict,
    finite,
)

SECRET = "the prompt itself"


class Scored(msgspec.Struct):
    """An answer with a number in it, as a classifier gives."""

    label: str
    score: float


def route(*steps: RouteStep, otherwise: Otherwise = "refuse", **more: Any) -> Route[Any, Any]:
    """A route on a clock that stands still."""
    return Route("arm", steps, otherwise, **{"clock": ManualClock(), **more})


def results(outcome: Outcome[Any]) -> list[tuple[str, str, str]]:
    """Name, result and reason of every step taken."""
    return [(step.name, step.result.value, step.reason) for step in outcome.steps]


# What an outcome says


def test_the_first_step_that_answers_gives_the_value() -> None:
    second = Says(2.0)
    outcome = route(RouteStep("model", Says(1.0)), RouteStep("analytic", second)).run("item")
    assert (outcome.status, outcome.value, outcome.action) == (Status.ACCEPTED, 1.0, None)
    assert results(outcome) == [("model", "accepted", "")]
    assert second.asked == []


def test_a_refused_answer_hands_over_and_stays_visible() -> None:
    outcome = route(
        RouteStep("model", Says(1.0), (refuse("near a singularity"),)),
        RouteStep("analytic", Says(2.0)),
    ).run("item")
    assert outcome.value == 2.0
    assert outcome.reasons == ("model: near a singularity",)
    assert results(outcome)[-1] == ("analytic", "accepted", "")


@pytest.mark.parametrize("otherwise", OTHERWISE)
def test_an_item_without_an_answer_carries_the_routes_action(otherwise: Otherwise) -> None:
    refusing = route(RouteStep("model", Says(1.0), (refuse("no"),)), otherwise=otherwise)
    outcome = refusing.run("item")
    assert (outcome.status, outcome.value, outcome.action) == (Status.REFUSED, None, otherwise)
    broken = route(RouteStep("model", Says(EngineError("down"))), otherwise=otherwise)
    outcome = broken.run("item")
    assert (outcome.status, outcome.value, outcome.action) == (Status.FAILED, None, otherwise)


def test_one_refusal_makes_an_unanswered_item_refused_even_if_later_steps_fail() -> None:
    outcome = route(
        RouteStep("model", Says(1.0), (refuse("no"),)),
        RouteStep("analytic", Says(EngineError("down"))),
    ).run("item")
    assert outcome.status is Status.REFUSED


# Guards


def test_all_guards_must_agree_and_the_first_refusal_wins() -> None:
    step = RouteStep("model", Says(1.0), (accept(CHECKED), refuse("first"), refuse("second")))
    assert results(route(step).run("item")) == [("model", "refused", "first")]


def test_flags_add_up_and_the_answer_stays_usable() -> None:
    step = RouteStep("model", Says(1.0), (flag("near"), accept(), flag("slow")))
    outcome = route(step).run("item")
    assert (outcome.status, outcome.value) == (Status.FLAGGED, 1.0)
    assert results(outcome) == [("model", "flagged", "near; slow")]


def test_each_steps_answer_passes_its_own_guards_not_those_of_another() -> None:
    small = Judge(
        lambda item, answer: (
            Verdict() if answer < 5 else Verdict(StepResult.REFUSED, f"{answer} is too big")
        )
    )
    outcome = route(
        RouteStep("model", Says(9.0), (small,)),
        RouteStep("analytic", Says(8.0), (small,)),
        RouteStep("table", Says(7.0)),
    ).run("item")
    assert outcome.value == 7.0
    assert outcome.reasons == ("model: 9.0 is too big", "analytic: 8.0 is too big")


@pytest.mark.parametrize(
    "verdict",
    [
        None,
        "accepted",
        Verdict(StepResult.UNAVAILABLE),
        Verdict(StepResult.FLAGGED, 5),  # type: ignore[arg-type]
        Verdict(StepResult.FLAGGED, None),  # type: ignore[arg-type]
        Verdict(evidence=("forward kinematics",)),  # type: ignore[arg-type]
        Verdict(evidence=CHECKED),  # type: ignore[arg-type]
    ],
)
def test_a_guard_that_answers_nonsense_does_not_let_the_answer_pass(verdict: Any) -> None:
    step = RouteStep("model", Says(1.0), (Judge(lambda item, answer: verdict),))
    outcome = route(step).run("item")
    assert not outcome.status.usable
    assert outcome.reasons
    assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize("guard", [flag(""), refuse("")])
def test_a_guard_without_a_reason_is_told_on(guard: Judge) -> None:
    outcome = route(RouteStep("model", Says(1.0), (guard,))).run("item")
    assert outcome.reasons == ("model: no reason given",)


def test_a_guard_that_raises_costs_the_answer() -> None:
    def broken(item: Any, answer: Any) -> Verdict:
        raise KeyError(SECRET)

    outcome = route(
        RouteStep("model", Says(1.0), (Judge(broken),)), RouteStep("analytic", Says(2.0))
    ).run("item")
    assert outcome.value == 2.0
    assert results(outcome)[0] == ("model", "error", "raised KeyError")


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.inf,
        complex(1, math.nan),
        np.float32("nan"),
        np.array([1.0, math.inf]),
        [1.0, (2.0, math.nan)],
        {"label": "benign", "scores": {"attack": math.nan}},
        Scored("benign", math.nan),
        None,
    ],
)
def test_what_is_not_a_value_is_refused_and_no_guard_can_change_that(value: Any) -> None:
    outcome = route(RouteStep("model", Says(value), (accept(CHECKED),))).run("item")
    assert outcome.status is Status.REFUSED
    assert outcome.value is None


def test_finite_looks_at_numbers_only() -> None:
    assert finite("nan")
    assert finite({math.inf: "a key", "score": 1.0})
    assert finite(Scored("nan", 1.0))
    assert finite(np.array(["nan"]))
    assert finite(10**400)


def test_a_guard_cannot_change_the_answer_or_the_input_behind_the_others_back() -> None:
    def zero_answer(item: Any, answer: Any) -> Verdict:
        answer[:] = 0
        return Verdict()

    def zero_item(item: Any, answer: Any) -> Verdict:
        item[:] = 0
        return Verdict()

    item = np.ones(2)
    for guard in (Judge(zero_answer), Judge(zero_item)):
        outcome = route(RouteStep("model", Says(np.ones(2)), (guard,))).run(item)
        assert results(outcome) == [("model", "error", "raised ValueError")]
    assert item.tolist() == [1.0, 1.0]


def test_an_engine_may_reuse_its_buffer() -> None:
    buffer = np.zeros(2)

    def answer(item: float) -> np.ndarray[Any, Any]:
        buffer[:] = item
        return buffer

    reusing = route(RouteStep("model", Says(answer)))
    first, second = reusing.run(1.0), reusing.run(2.0)
    assert first.value is not None
    assert second.value is not None
    assert (first.value.tolist(), second.value.tolist()) == ([1.0, 1.0], [2.0, 2.0])


# Evidence


def test_evidence_backs_the_answer_that_is_used_and_no_other() -> None:
    attested = Evidence(EvidenceKind.ATTESTED, "bundle")
    outcome = route(
        RouteStep("model", Says(1.0), (accept(CHECKED), refuse("no")), evidence=(attested,)),
        RouteStep("analytic", Says(2.0), evidence=(attested,)),
    ).run("item")
    assert outcome.evidence == attested
    assert [step.evidence for step in outcome.steps] == [(), (attested,)]


def test_the_strongest_evidence_stands_for_the_outcome() -> None:
    attested = Evidence(EvidenceKind.ATTESTED, "bundle")
    step = RouteStep("model", Says(1.0), (accept(CHECKED),), evidence=(attested,))
    outcome = route(step).run("item")
    assert outcome.evidence == CHECKED
    assert outcome.steps[0].evidence == (CHECKED, attested)
    assert route(RouteStep("model", Says(1.0))).run("item").evidence == NO_EVIDENCE


# Steps that are not asked


def test_an_unavailable_step_is_not_asked() -> None:
    engine = Says(1.0)
    outcome = route(RouteStep("gpu", engine, available=lambda: "no GPU")).run("item")
    assert results(outcome) == [("gpu", "unavailable", "no GPU")]
    assert (engine.asked, outcome.steps[0].attempts) == ([], 0)


def test_a_step_that_gives_no_text_for_why_it_cannot_run_is_not_asked() -> None:
    engine, answers = Says(1.0), (True, False, "")
    for answer in answers:
        probe: Any = lambda answer=answer: answer  # noqa: E731
        outcome = route(RouteStep("gpu", engine, available=probe)).run("item")
        assert results(outcome)[0][1] == "unavailable"
        assert Outcome.from_json(outcome.to_json()) == outcome
    assert engine.asked == []


def test_a_step_is_not_asked_above_its_size_limit() -> None:
    step = RouteStep("prove", Says(1.0), size=len, size_limit=3)
    assert route(step).run("abc").status is Status.ACCEPTED
    assert results(route(step).run("abcd")) == [("prove", "over_size", "size 4 is above 3")]


@pytest.mark.parametrize(("step_limit", "caller_limit"), [(2.0, None), (None, 2.0), (9.0, 2.0)])
def test_a_step_is_not_asked_where_the_forecast_is_above_the_time_left(
    step_limit: float | None, caller_limit: float | None
) -> None:
    clock = ManualClock()
    step = RouteStep("prove", Says(1.0), predicted_seconds=lambda item: item, time_limit=step_limit)
    timed = route(step, clock=clock)
    deadline = Deadline.after(caller_limit, clock)
    assert timed.run(2.0, deadline=deadline).status is Status.ACCEPTED
    outcome = timed.run(2.5, deadline=deadline)
    assert results(outcome) == [("prove", "over_time", "predicted 2.5 s, 2 s left")]
    assert not timed.run(math.nan, deadline=deadline).status.usable


@pytest.mark.parametrize("probe", ["available", "size", "predicted_seconds"])
def test_a_probe_that_raises_makes_its_step_unavailable_only(probe: str) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    seen: list[Exception] = []
    fields: dict[str, Any] = {"size": len, "size_limit": 9, "time_limit": 9.0, probe: broken}
    outcome = route(
        RouteStep("model", Says(1.0), **fields),
        RouteStep("analytic", Says(2.0)),
        on_error=lambda step, error: seen.append(error),
    ).run("item")
    assert outcome.value == 2.0
    assert results(outcome)[0] == ("model", "unavailable", "its check: raised RuntimeError")
    assert [str(error) for error in seen] == [SECRET]


def test_after_the_deadline_no_step_is_asked() -> None:
    clock = ManualClock()
    late = Says(1.0)
    outcome = route(
        RouteStep("slow", Says(EngineError("gave up"), takes=5, clock=clock)),
        RouteStep("late", late),
        clock=clock,
    ).run("item", deadline=Deadline.after(5, clock))
    assert outcome.status is Status.FAILED
    assert results(outcome)[1] == ("late", "over_time", "the deadline has passed")
    assert late.asked == []


# Time


@pytest.mark.parametrize("taken", [2.0, 3.0])
def test_a_late_answer_is_not_used(taken: float) -> None:
    clock = ManualClock()
    outcome = route(
        RouteStep("slow", Says(1.0, taken, clock), (accept(CHECKED),), time_limit=2.0),
        RouteStep("analytic", Says(2.0)),
        clock=clock,
    ).run("item")
    assert outcome.value == 2.0
    first = outcome.steps[0]
    assert (first.result, first.seconds, first.evidence) == (StepResult.OVER_TIME, taken, ())


def test_guards_count_towards_the_time_limit() -> None:
    clock = ManualClock()

    def slow(item: Any, answer: Any) -> Verdict:
        clock.advance(3)
        return Verdict()

    step = RouteStep("model", Says(1.0), (Judge(slow),), time_limit=2.0)
    assert results(route(step, clock=clock).run("item"))[0][1] == "over_time"


def test_a_deadline_on_another_clock_is_read_on_that_clock() -> None:
    steps_clock, callers_clock = ManualClock(), ManualClock()
    step = RouteStep("model", Says(1.0, takes=1, clock=callers_clock))
    outcome = route(step, clock=steps_clock).run("item", deadline=Deadline.after(1, callers_clock))
    assert results(outcome)[0][1] == "over_time"


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (DeadlineError("stopped"), StepResult.OVER_TIME),
        (EngineUnavailableError("no provider"), StepResult.UNAVAILABLE),
        (EngineError("wrong"), StepResult.ERROR),
        (ValueError(SECRET), StepResult.ERROR),
    ],
)
def test_an_engines_error_says_which_kind_of_result_it_is(
    error: Exception, result: StepResult
) -> None:
    outcome = route(RouteStep("model", Says(error)), RouteStep("analytic", Says(2.0))).run("item")
    assert outcome.value == 2.0
    assert outcome.steps[0].result is result
    assert SECRET not in outcome.to_json().decode()


# Retries


def test_a_retry_repeats_the_step_and_a_fallback_takes_another() -> None:
    answers: Iterator[Any] = iter([TransientError("busy"), TransientError("busy"), 1.0])

    def flaky(item: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    retry = RetryPolicy(retries=2, first=1.0)
    outcome = route(RouteStep("api", Says(flaky), retry=retry), RouteStep("local", Says(2.0))).run(
        "item"
    )
    assert outcome.value == 1.0
    assert [(step.name, step.attempts) for step in outcome.steps] == [("api", 3)]


def test_when_the_retries_are_used_up_the_next_step_answers() -> None:
    engine = Says(TransientError("busy"))
    outcome = route(
        RouteStep("api", engine, retry=RetryPolicy(retries=2)), RouteStep("local", Says(2.0))
    ).run("item")
    assert [(step.name, step.attempts) for step in outcome.steps] == [("api", 3), ("local", 1)]
    assert outcome.reasons == ("api: transient: busy",)


def test_retries_end_with_the_steps_time_limit() -> None:
    clock = ManualClock()
    engine = Says(TransientError("busy", wait_seconds=4.0), clock=clock)
    step = RouteStep("api", engine, retry=RetryPolicy(retries=9), time_limit=10.0)
    outcome = route(step, clock=clock).run("item")
    assert (outcome.steps[0].attempts, outcome.steps[0].seconds) == (3, 8.0)


# Errors


def test_on_error_sees_what_the_outcome_must_not_quote() -> None:
    seen: list[tuple[str, str]] = []
    outcome = route(
        RouteStep("model", Says(ValueError(SECRET))),
        on_error=lambda step, error: seen.append((step, str(error))),
    ).run("item")
    assert seen == [("model", SECRET)]
    assert results(outcome) == [("model", "error", "raised ValueError")]


def test_an_interrupt_is_not_an_answer() -> None:
    def interrupt(item: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        route(RouteStep("model", Says(interrupt)), RouteStep("other", Says(1))).run("item")


@pytest.mark.parametrize(
    "make",
    [
        lambda: route(),
        lambda: route(RouteStep("a", Says(1)), RouteStep("a", Says(2))),
        lambda: route(RouteStep("a", Says(1)), otherwise="ignore"),  # type: ignore[arg-type]
        lambda: route(*(RouteStep(f"s{k}", Says(1)) for k in range(128))),
        lambda: RouteStep("", Says(1)),
        lambda: RouteStep("a", object()),
        lambda: RouteStep("a", Says(1), time_limit=-1),
        lambda: RouteStep("a", Says(1), time_limit=math.nan),
        lambda: RouteStep("a", Says(1), size_limit=3),
        lambda: RouteStep("a", Says(1), evidence=("text",)),  # type: ignore[arg-type]
    ],
)
def test_a_route_that_could_never_work_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        make()


# Whatever the steps do

BEHAVIOURS: dict[str, Callable[[ManualClock], RouteStep]] = {
    "accepts": lambda clock: RouteStep("x", Says(1.0), (accept(CHECKED),)),
    "flags": lambda clock: RouteStep("x", Says(2.0), (flag("near"),)),
    "refuses": lambda clock: RouteStep("x", Says(3.0), (refuse("no"),)),
    "raises": lambda clock: RouteStep("x", Says(RuntimeError(SECRET))),
    "guard raises": lambda clock: RouteStep("x", Says(4.0), (Judge(lambda i, a: 1 / 0),)),
    "is nan": lambda clock: RouteStep("x", Says(math.nan)),
    "is late": lambda clock: RouteStep("x", Says(5.0, 2.0, clock), time_limit=1.0),
    "is unavailable": lambda clock: RouteStep("x", Says(6.0), available=lambda: "gone"),
    "is flaky": lambda clock: RouteStep(
        "x", Says(TransientError("busy")), retry=RetryPolicy(retries=1)
    ),
}


@settings(max_examples=count(200, 3_000), deadline=None)
@given(st.lists(st.sampled_from(sorted(BEHAVIOURS)), min_size=1, max_size=5))
def test_an_item_ends_in_one_status_with_a_reason_for_every_step(behaviours: list[str]) -> None:
    clock = ManualClock()
    steps = [
        replace(BEHAVIOURS[behaviour](clock), name=f"{k}") for k, behaviour in enumerate(behaviours)
    ]
    outcome = route(*steps, clock=clock).run("item")
    answering = [k for k, b in enumerate(behaviours) if b in ("accepts", "flags")]
    if answering:
        first = answering[0]
        assert (
            outcome.status.value == {"accepts": "accepted", "flags": "flagged"}[behaviours[first]]
        )
        assert outcome.value == {"accepts": 1.0, "flags": 2.0}[behaviours[first]]
        assert len(outcome.steps) == first + 1
    else:
        refused = {"refuses", "is nan"} & set(behaviours)
        assert outcome.status is (Status.REFUSED if refused else Status.FAILED)
        assert (outcome.value, outcome.action) == (None, "refuse")
        assert len(outcome.steps) == len(steps)
    assert all(step.reason for step in outcome.steps if step.result is not StepResult.ACCEPTED)
    assert SECRET not in outcome.to_json().decode()
    assert Outcome.from_json(outcome.to_json()) == outcome


class BatchOnly:
    def answer_batch(self, inputs: Any, *, deadline: Deadline) -> BatchAnswer:
        return BatchAnswer(inputs["x"])


class BatchCheck:
    def check_batch(self, inputs: Any, answer: BatchAnswer) -> BatchVerdict:
        return BatchVerdict()


class SingleCheck:
    def check(self, item: Any, answer: Any) -> Verdict:
        return Verdict()


def test_parts_that_do_not_fit_each_other_are_refused_when_the_route_is_made() -> None:
    """The likeliest mistake of all: a guard with the wrong method, or none."""
    with pytest.raises(ConfigError, match=r"guard SingleCheck has no check_batch\(\)"):
        RouteStep("m", BatchOnly(), guards=(SingleCheck(),))
    with pytest.raises(ConfigError, match=r"guard function has no"):
        RouteStep("m", BatchOnly(), guards=(lambda inputs, answer: None,))
    step = RouteStep("m", BatchOnly(), guards=(BatchCheck(),))
    with pytest.raises(ConfigError, match="steps must be a tuple of RouteStep"):
        Route("r", steps=("m",), otherwise="refuse")  # type: ignore[arg-type]
    route: Route[Any, Any] = Route("r", steps=(step,), otherwise="refuse")
    with pytest.raises(ConfigError, match=r"engine has no answer\(\)") as caught:
        route.run(1.0)
    assert caught.value.hint == "call run_batch()"
    with pytest.raises(InputError, match="inputs is of type ndarray"):
        route.run_batch(np.zeros(3))  # type: ignore[arg-type]
