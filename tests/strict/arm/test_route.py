"""The arm's guard and route, with engines that answer rightly, wrongly, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from support.arm_judge import relative_error

from interlock.errors import EngineCrashError
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.outcome import Evidence, EvidenceKind, Status
from interlock.kernel.route import BatchAnswer
from interlock.strict.arm.kinematics import ARM, damped_rates
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.route import AnalyticEngine, JacobianGuard, arm_route

REQUESTS = sample_requests(500, 21)
INPUTS = {"x": REQUESTS.x}


@dataclass(frozen=True)
class Model:
    """Answers with given rates and masks; raises where it has none."""

    rates: Array | None
    bottom: Array | None = None
    gap: Array | None = None

    def answer_batch(self, inputs: Mapping[str, Array], *, deadline: Deadline) -> BatchAnswer:
        if self.rates is None:
            raise EngineCrashError("gone")
        none = np.zeros(self.rates.shape, np.bool_)
        bottom = none if self.bottom is None else self.bottom
        gap = none if self.gap is None else self.gap
        return BatchAnswer(self.rates, {"bottom_mask": bottom, "gap_mask": gap})


def right() -> Array:
    return damped_rates(ARM, REQUESTS.theta, REQUESTS.v)


def followed() -> Array:
    """The rows in which the analytic solver follows the wanted velocity."""
    return np.asarray(relative_error(REQUESTS.theta, REQUESTS.v, right()) <= 0.05)


def test_the_guard_refuses_what_misses_the_velocity_or_the_drives_limit() -> None:
    answers = right()
    answers[0] *= 1.1
    answers[1] = np.nan
    answers[2] = [np.inf, 0.0]
    answers[3] = [100.0, 0.0]
    verdict = JacobianGuard().check_batch(INPUTS, BatchAnswer(answers))
    off_track, too_fast = verdict.refuse.values()
    assert off_track[:4].all()
    assert too_fast[1:4].all()
    np.testing.assert_array_equal(off_track[4:], ~followed()[4:])
    assert not too_fast[4:].any()
    assert [evidence.kind for evidence in verdict.evidence] == [EvidenceKind.CHECKED]


def test_the_guard_passes_what_is_off_by_less_than_its_tolerance() -> None:
    slower = BatchAnswer(right() * 0.96)
    off_track, _ = JacobianGuard(tolerance=0.05).check_batch(INPUTS, slower).refuse.values()
    exact = relative_error(REQUESTS.theta, REQUESTS.v, right()) < 1e-6
    assert exact.any()
    assert not off_track[exact].any()


def test_the_analytic_engine_answers_every_row() -> None:
    answer = AnalyticEngine().answer_batch(INPUTS, deadline=NO_DEADLINE)
    assert answer.value.shape == (500, 2)
    np.testing.assert_array_equal(answer.value, right())


def test_a_model_that_fails_leaves_every_row_to_the_solver() -> None:
    outcome = arm_route(Model(None)).run_batch(INPUTS)
    np.testing.assert_array_equal(outcome.answered, followed())
    assert set(outcome.step[outcome.answered].tolist()) == {1}
    assert outcome.steps[0].counts == {"error": 500}
    assert outcome.counts()[Status.REFUSED] == int((~followed()).sum())


def test_wrong_rates_that_the_masks_let_pass_are_caught_and_routed() -> None:
    wrong = right()
    wrong[::2] *= -1
    outcome = arm_route(Model(wrong)).run_batch(INPUTS)
    assert not (outcome.step[::2] == 0).any()
    np.testing.assert_array_equal(outcome.answered, followed())
    error = relative_error(REQUESTS.theta, REQUESTS.v, outcome.value)
    assert (error[outcome.answered] <= 0.05).all()


def test_a_bottom_row_is_routed_and_a_gap_row_flagged() -> None:
    bottom, gap = np.zeros((2, 500, 2), np.bool_)
    rows = np.flatnonzero(followed())
    bottom[rows[0], 1], gap[rows[1], 0] = True, True
    rates = right()
    rates[rows[0], 1] = np.nan
    outcome = arm_route(Model(rates, bottom, gap)).run_batch(INPUTS)
    assert outcome.row(int(rows[0])).status is Status.ACCEPTED
    assert outcome.step[rows[0]] == 1
    assert outcome.row(int(rows[1])).status is Status.FLAGGED
    assert outcome.step[rows[1]] == 0


def test_the_models_evidence_stands_behind_its_rows_only() -> None:
    attested = Evidence(EvidenceKind.ATTESTED, "bundle", {"bundle": "sha256:0"})
    outcome = arm_route(Model(right()), evidence=(attested,)).run_batch(INPUTS)
    assert attested in outcome.steps[0].evidence
    assert attested not in outcome.steps[1].evidence
