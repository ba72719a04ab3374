"""The risk-coverage curve and its area: by hand, by definition, and how often intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.counts import count
from support.populations import arm, falling

from interlock.errors import InputError
from interlock.kernel.batch import Array
from interlock.strict import risk_coverage


def test_a_curve_by_hand() -> None:
    found = risk_coverage(np.array([0.4, 0.3, 0.2, 0.1]), np.array([False, True, False, True]))
    assert found.tau.tolist() == [0.4, 0.3, 0.2, 0.1]
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert found.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_rows_of_equal_q_enter_together_and_those_never_accepted_last() -> None:
    found = risk_coverage(np.array([0.5, np.nan, 0.5, 0.0]), np.array([False, True, True, True]))
    assert found.tau.tolist() == [0.5, 0.0]
    assert found.risk.tolist() == [0.5, 0.75]
    assert found.area == pytest.approx((0.5 + 0.75) / 2)


@given(
    q=hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32)),
    seed=st.integers(0, 2**32),
)
def test_the_order_of_rows_does_not_matter_and_intervals_hold_the_risk(q: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unsafe = rng.random(len(q)) < 0.2
    found = risk_coverage(q, unsafe)
    order = rng.permutation(len(q))
    again = risk_coverage(q[order], unsafe[order])
    assert found.area == again.area
    assert found.risk.tolist() == again.risk.tolist()
    assert ((found.low <= found.risk) & (found.risk <= found.high)).all()
    assert 0 <= found.area_low <= found.area <= found.area_high <= 1
    assert found.coverage[-1] == 1.0
    assert found.risk[-1] == pytest.approx(unsafe.mean())
    assert (np.diff(found.coverage) > 0).all()


def test_the_best_and_the_worst_order_bound_the_area() -> None:
    unsafe = np.arange(1_000) < 100
    q = np.linspace(0.1, 1, 1_000)
    best, worst = risk_coverage(q, unsafe).area, risk_coverage(1.1 - q, unsafe).area
    other = risk_coverage(np.random.default_rng(0).permutation(q), unsafe).area
    assert best < other < worst


def test_many_rows_give_few_points_but_the_area_counts_all() -> None:
    q, unsafe = falling().draw(50_000, np.random.default_rng(0))
    found = risk_coverage(q, unsafe, points=50)
    assert len(found.tau) <= 50
    assert found.area == risk_coverage(q, unsafe, points=500).area
    assert found.area_high == pytest.approx(
        risk_coverage(q, unsafe, points=500).area_high, rel=0.05
    )


@pytest.mark.parametrize("make", [falling, arm])
def test_the_interval_of_the_area_covers_the_true_one(make: object) -> None:
    assert callable(make)
    population, rng = make(), np.random.default_rng(8)
    order = np.argsort(-population.q, kind="stable")
    true = float(np.mean(np.cumsum(population.risk[order]) / np.arange(1, len(order) + 1)))
    runs = count(60, 1_000)
    covered, widths = 0, []
    for _ in range(runs):
        found = risk_coverage(*population.draw(1_000, rng), points=60)
        covered += found.area_low <= true <= found.area_high
        widths.append(found.area_high - found.area_low)
    print(f"\n{covered} of {runs} cover {true:.5f}, mean width {np.mean(widths):.5f}")
    assert covered >= 0.95 * runs


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="q_abs is empty"):
        risk_coverage(np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="points is 1"):
        risk_coverage(np.ones(5), np.zeros(5), points=1)
    with pytest.raises(InputError, match="confidence is 1"):
        risk_coverage(np.ones(5), np.zeros(5), confidence=1.0)
