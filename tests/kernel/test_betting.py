"""Evidence by betting: seldom where the mean is within the bound, soon where it is not."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import ConfigError, InputError
from interlock.kernel.betting import MeanTest
from interlock.kernel.intervals import clopper_pearson_upper

NEEDED = math.log(20)


def stream(rng: np.random.Generator, share: float, test: MeanTest, steps: int) -> bool:
    """Whether the evidence ever reaches 20 within `steps` batches of 20 draws."""
    for _ in range(steps):
        test.add(rng.random(20) < share)
        if test.log_e >= NEEDED:
            return True
    return False


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.01])
def test_a_mean_at_the_bound_is_rejected_no_more_often_than_promised(
    share: float, restarts: bool
) -> None:
    """Looked at after every batch; the promise is 5%."""
    rng = np.random.default_rng(5)
    trials = count(300, 4000)
    wrong = sum(
        stream(rng, share, MeanTest(0.05, 0, 1, restarts=restarts), 100) for _ in range(trials)
    )
    # A true rate of 5% is seen above this with a probability of one in a million.
    assert wrong <= 0.05 * trials + 5 * math.sqrt(0.05 * 0.95 * trials)


def test_a_mean_above_the_bound_is_found() -> None:
    rng = np.random.default_rng(6)
    found = sum(stream(rng, 0.15, MeanTest(0.05, 0, 1), 50) for _ in range(100))
    assert clopper_pearson_upper(100 - found, 100, 0.95) < 0.05


def test_with_restarts_a_change_that_comes_late_is_found_sooner() -> None:
    took: dict[bool, int] = {}
    for restarts in (False, True):
        test = MeanTest(0.05, 0, 1, restarts=restarts)
        rng = np.random.default_rng(7)
        stream(rng, 0.0, test, 200)
        took[restarts] = 0
        while test.log_e < NEEDED:
            test.add(rng.random(20) < 0.15)
            took[restarts] += 1
    assert took[True] < took[False] / 2


@given(
    values=st.lists(st.floats(-1, 1), max_size=60),
    cut=st.integers(0, 60),
    restarts=st.booleans(),
)
def test_a_state_goes_on_where_it_was_taken(values: list[float], cut: int, restarts: bool) -> None:
    whole, first = (MeanTest(0.1, -1, 1, restarts=restarts) for _ in range(2))
    second = MeanTest(0.1, -1, 1, restarts=restarts)
    for part in (values[:cut], values[cut:]):
        whole.add(part)
    first.add(values[:cut])
    second.restore(first.state())
    second.add(values[cut:])
    assert second.state() == whole.state()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_the_evidence_is_a_number_whatever_the_values(values: list[float]) -> None:
    test = MeanTest(0.5, 0, 1, restarts=True)
    test.add(values)
    assert math.isfinite(test.log_e)
    assert test.peak >= 0


def test_the_mean_of_all_futures_is_one() -> None:
    """Over every outcome of 10 throws of a coin at the bound: a martingale, exactly."""
    total = 0.0
    for outcome in range(1 << 10):
        test = MeanTest(0.5, 0, 1, restarts=True)
        for throw in range(10):
            test.add([outcome >> throw & 1])
        total += math.exp(test.log_e) / (1 << 10)
    assert total == pytest.approx(1.0, abs=1e-9)


def test_bad_input_is_told() -> None:
    for bound in (0.0, 1.0, -1, math.nan):
        with pytest.raises(ConfigError, match="bound is"):
            MeanTest(bound, 0, 1)
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="outside"):
            MeanTest(0.5, 0, 1).add([0.2, value])
    with pytest.raises(InputError, match="not the state"):
        MeanTest(0.5, 0, 1).restore(MeanTest(0.5, 0, 1, restarts=True).state())


def test_the_order_within_a_batch_does_not_matter() -> None:
    values = [random.Random(1).random() for _ in range(50)]
    found = []
    for order in (values, sorted(values)):
        test = MeanTest(0.4, 0, 1)
        test.add(order)
        found.append(test.log_e)
    assert found[0] == pytest.approx(found[1])
