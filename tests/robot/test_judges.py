"""The reference deployment's joint rates before pinocchio and MuJoCo, which share none of our code.

`make test-robot` runs this. Requests come from a seed of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.counts import count
from support.robot_judges import Judge, mujoco_judge, pinocchio_judge

from interlock.kernel.intervals import wilson_interval
from interlock.strict.arm.kinematics import ARM, tracking_error
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.served import Served, serve
from interlock.strict.reference_robotics_deployment import (
    ReferenceRoboticsDeploymentConfig,
    run_reference_robotics_deployment,
)

pytestmark = pytest.mark.robot

N = count(10_000, 100_000)
SEED = 20_261_122
UNSAFE = 0.05
ALPHA = 0.005
"""Half of the bar below, so that the measured share and its interval lie under it."""

JUDGES = {"pin": ("pinocchio", pinocchio_judge), "mujoco": ("mujoco", mujoco_judge)}


@pytest.fixture(params=sorted(JUDGES))
def judge(request: pytest.FixtureRequest) -> Judge:
    module, make = JUDGES[request.param]
    pytest.importorskip(module, reason=f"needs {request.param} of the extra `robot`")
    return make(ARM.first, ARM.second)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The shipped weights, certified and bundled by the deployment, on requests of our own."""
    place: Path = tmp_path_factory.mktemp("deployed")
    artifacts = run_reference_robotics_deployment(
        ReferenceRoboticsDeploymentConfig(weights="shipped", alpha=ALPHA, output_dir=place)
    )
    assert artifacts.certified
    requests = sample_requests(N, SEED, near_singular=0.35)
    assert int(requests.near_singular.sum()) == round(0.35 * N)
    return serve(artifacts.bundle_dir, artifacts.bundle.digest, requests)


def unsafe(judge: Judge, served: Served, dq: Any, rows: Any) -> int:
    requests = served.requests
    error = judge(requests.theta[rows], requests.v[rows], dq[rows])
    return int((~(error <= UNSAFE)).sum())


def test_the_certified_masks_accept_enough_and_little_of_it_is_unsafe(
    judge: Judge, served: Served
) -> None:
    kept = served.accepted
    wrong = unsafe(judge, served, served.strict.decoded, kept)
    share, risk = wilson_interval(int(kept.sum()), N), wilson_interval(wrong, int(kept.sum()))
    print(f"n {N}: accepted {kept.sum()} {share}, unsafe {wrong} {risk}")
    assert share[0] >= 0.60
    assert risk[1] <= 0.01


def test_nothing_unsafe_leaves_the_route_and_the_model_gives_most_answers(
    judge: Judge, served: Served
) -> None:
    outcome = served.outcome
    answered = outcome.answered
    by_model = int((outcome.step == 0).sum())
    print(
        f"n {N}: answered {answered.sum()} {wilson_interval(int(answered.sum()), N)}, "
        f"by the model {by_model} {wilson_interval(by_model, N)}"
    )
    assert unsafe(judge, served, outcome.value, answered) == 0
    assert wilson_interval(int(answered.sum()), N)[0] >= 0.95
    assert wilson_interval(by_model, N)[0] >= 0.60


def test_the_judge_agrees_with_the_guard_where_both_can_tell(judge: Judge) -> None:
    requests = sample_requests(500, SEED + 1)
    dq = np.random.default_rng(5).normal(size=(500, 2))
    ours = tracking_error(ARM, requests.theta, requests.v, dq)
    np.testing.assert_allclose(judge(requests.theta, requests.v, dq), ours, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(JUDGES))
def test_a_judge_of_another_arm_objects(name: str, served: Served) -> None:
    module, make = JUDGES[name]
    pytest.importorskip(module, reason=f"needs {name} of the extra `robot`")
    rows = np.flatnonzero(served.outcome.answered)[:500]
    longer = make(ARM.first, 1.2 * ARM.second)
    assert unsafe(longer, served, served.outcome.value, rows) > 250
