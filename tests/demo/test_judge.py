"""The demo's judge agrees with the true kinematics, without sharing code with the route's guard."""

import ast
import inspect

import numpy as np
import pytest

from interlock.demo import judge
from interlock.strict.arm.kinematics import ARM, damped_rates, tracking_error
from interlock.strict.arm.requests import sample_requests

LINKS = (ARM.first, ARM.second)


def test_exact_and_wrong_rates_are_told_apart() -> None:
    requests = sample_requests(2000, seed=1)
    exact = damped_rates(ARM, requests.theta, requests.v)
    for rates in (exact, 1.1 * exact, np.zeros_like(exact)):
        expected = tracking_error(ARM, requests.theta, requests.v, rates)
        found = judge.tip_velocity_error(LINKS, requests.x, rates)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_rates_that_are_not_finite_are_unsafe() -> None:
    requests = sample_requests(3, seed=1)
    rates = np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0]])
    assert judge.tip_velocity_error(LINKS, requests.x, rates).tolist() == [np.inf, np.inf, 1.0]


def test_the_judge_imports_nothing_of_ours() -> None:
    tree = ast.parse(inspect.getsource(judge))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module and module.startswith("interlock") for module in modules)
