"""Choosing tau: against an oracle in exact fractions, against the decode, and its properties."""

from __future__ import annotations

import re
from fractions import Fraction
from math import comb
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.populations import falling

from interlock.errors import ConfigError, InputError
from interlock.kernel.batch import Array
from interlock.strict import (
    Calibration,
    Certificate,
    InferenceConfig,
    calibrate_tau,
    check_certificate,
    strict_inference,
)

Q, UNSAFE = falling().draw(4_000, np.random.default_rng(3))
ALPHA, DELTA = 0.02, 0.1


def certified(found: Calibration) -> Certificate:
    assert found.certificate is not None, found.reason
    return found.certificate


def exact_cdf(k: int, n: int, share: Fraction) -> Fraction:
    return sum(
        (comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1)), start=Fraction(0)
    )


def oracle(q: Array, unsafe: Array, alpha: Fraction, delta: Fraction, start: float) -> float | None:
    """The definition, one threshold at a time, in exact fractions."""
    tau = None
    for candidate in [start, *sorted({float(v) for v in q if 0 < v < start}, reverse=True)]:
        accepted = q >= candidate
        if exact_cdf(int(unsafe[accepted].sum()), int(accepted.sum()), alpha) > delta:
            return tau
        tau = candidate
    return tau


ROWS = st.integers(1, 60)
LEVELS = st.sampled_from([0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0])


@st.composite
def small_data(draw: st.DrawFn) -> tuple[Array, Array]:
    """Few rows with many ties and mostly safe, so that certificates are found."""
    n = draw(ROWS)
    q = draw(hnp.arrays(np.float32, n, elements=LEVELS))
    unsafe = draw(hnp.arrays(np.bool_, n, elements=st.integers(0, 9).map(lambda v: v == 0)))
    return q, unsafe


@given(data=small_data(), start=LEVELS.filter(bool), levels=st.sampled_from([(1, 4), (1, 8)]))
def test_the_definition_in_exact_fractions_gives_the_same(
    data: tuple[Array, Array], start: float, levels: tuple[int, int]
) -> None:
    alpha, delta = Fraction(*levels), Fraction(1, 5)
    found = calibrate_tau(*data, float(alpha), float(delta), start=start)
    assert found.tau == oracle(*data, alpha, delta, start)


@given(data=small_data(), seed=st.integers(0, 2**32))
def test_with_a_start_the_order_of_rows_does_not_matter(
    data: tuple[Array, Array], seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(data[0]))
    found = calibrate_tau(*data, 0.25, 0.2, start=0.75)
    again = calibrate_tau(data[0][order], data[1][order], 0.25, 0.2, start=0.75)
    assert (found.tau, found.reason) == (again.tau, again.reason)


@given(data=small_data(), alphas=st.lists(st.floats(0.05, 0.9), min_size=2, max_size=2))
def test_a_weaker_promise_covers_no_less(data: tuple[Array, Array], alphas: list[float]) -> None:
    strict_tau, loose_tau = (
        calibrate_tau(*data, alpha, 0.2, start=0.5).tau for alpha in sorted(alphas)
    )
    if strict_tau is not None:
        assert loose_tau is not None
        assert loose_tau <= strict_tau
    share_of_all = calibrate_tau(*data, alphas[0], 0.2, rate="all").certificate
    accepted = calibrate_tau(*data, alphas[0], 0.2, start=0.5).certificate
    if accepted is not None:
        assert share_of_all is not None
        assert share_of_all.accepted >= accepted.accepted


@given(data=small_data(), row=st.integers(0, 59), delta=st.sampled_from([0.01, 0.2, 0.5, 0.9]))
def test_one_more_unsafe_row_never_widens_what_is_accepted(
    data: tuple[Array, Array], row: int, delta: float
) -> None:
    q, unsafe = data
    worse = unsafe.copy()
    worse[row % len(q)] = True
    before, after = (calibrate_tau(q, u, 0.3, delta, start=1.0).tau for u in (unsafe, worse))
    assert after is None or (before is not None and before <= after)


ANY_Q = st.one_of(
    st.sampled_from([0.0, float("nan"), float("inf"), 2.0**-24, 1e-5, 0.1, 65504.0]),
    st.floats(0, 2, width=16),
)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rate", ["accepted", "all"])
@given(data=st.data(), n=st.integers(20, 200), lowest=st.sampled_from([None, 2.0**-20, 0.1, 0.5]))
def test_the_decode_accepts_exactly_the_rows_that_were_counted(
    dtype: str, rate: Any, data: st.DataObject, n: int, lowest: float | None
) -> None:
    q = np.array(data.draw(st.lists(ANY_Q, min_size=n, max_size=n)), dtype=dtype)
    unsafe = np.arange(n) % 17 == 0
    start = 1.0 if rate == "accepted" else None
    found = calibrate_tau(q, unsafe, 0.3, 0.3, rate=rate, start=start, lowest=lowest)
    if found.certificate is None:
        return
    tau = found.certificate.tau
    assert float(np.dtype(dtype).type(tau)) == tau
    accepted = ~strict_inference(
        np.zeros_like(q), q, config=InferenceConfig(tau_infer=tau)
    ).bottom_mask
    assert found.certificate.accepted == int(accepted.sum())
    assert found.certificate.unsafe == int(unsafe[accepted].sum())


def test_a_row_that_no_threshold_accepts_is_not_counted_and_a_lost_loss_is_unsafe() -> None:
    q = np.array([0.5] * 100 + [0.0, np.nan, np.inf], dtype=np.float32)
    loss = np.array([0.01] * 99 + [np.nan] * 4)
    found = certified(calibrate_tau(q, loss, 0.1, 0.1, tolerance=0.05, start=0.5))
    assert (found.n, found.accepted, found.unsafe, found.tolerance) == (103, 100, 1, 0.05)
    zeros = np.where(np.isnan(loss), loss, 0.0)
    assert certified(calibrate_tau(q, zeros, 0.1, 0.1, start=0.5)).unsafe == 1


def test_losses_are_safe_up_to_the_tolerance_and_equal_to_it() -> None:
    q = np.full(200, 0.5)
    loss = np.where(np.arange(200) < 3, 0.2, 0.1)
    for tolerance, unsafe in ((0.1, 3), (0.2, 0)):
        found = calibrate_tau(q, loss, 0.1, 0.1, tolerance=tolerance, start=0.5)
        assert certified(found).unsafe == unsafe
    booleans = calibrate_tau(q, loss > 0.1, 0.1, 0.1, start=0.5)
    numbers = calibrate_tau(q, (loss > 0.1).astype(np.float32), 0.1, 0.1, start=0.5)
    assert certified(booleans).data == certified(numbers).data


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e6), (np.float32, 1e39)])
def test_an_infinite_loss_is_unsafe_whatever_the_tolerance(dtype: Any, tolerance: float) -> None:
    loss = np.zeros(200, dtype)
    loss[:3] = np.inf
    found = calibrate_tau(np.full(200, 0.5), loss, 0.1, 0.1, tolerance=tolerance, start=0.5)
    assert certified(found).unsafe == 3


def test_the_pilot_rows_are_not_tested_and_are_at_most_a_thousand() -> None:
    found = certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA))
    assert (found.pilot, found.n) == (400, 3_600)
    large = falling().draw(20_000, np.random.default_rng(0))
    assert certified(calibrate_tau(*large, ALPHA, DELTA)).pilot == 1_000
    assert certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA, rate="all")).pilot == 0


def test_losses_of_pilot_rows_change_nothing_but_the_digest() -> None:
    """Else the start would depend on what is tested: found by changing one row at a time."""
    wanted = certified(calibrate_tau(Q[:500], UNSAFE[:500], 0.1, DELTA))
    unchanged = 0
    for row in range(500):
        unsafe = UNSAFE[:500].copy()
        unsafe[row] = ~unsafe[row]
        found = certified(calibrate_tau(Q[:500], unsafe, 0.1, DELTA))
        assert found.start == wanted.start
        unchanged += (found.tau, found.accepted, found.unsafe) == (
            wanted.tau, wanted.accepted, wanted.unsafe,
        )  # fmt: skip
    assert unchanged >= wanted.pilot == 50


def test_equal_data_give_equal_certificates() -> None:
    first, second = (certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA)) for _ in range(2))
    assert msgspec.structs.replace(first, created=second.created) == second


def test_a_single_threshold_can_be_certified() -> None:
    tau = float(np.float32(0.3))
    found = certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA, start=0.3, lowest=0.3))
    assert (found.tau, found.start, found.pilot) == (tau, tau, 0)
    assert found.accepted == int((np.float32(0.3) <= Q).sum())
    assert certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA, lowest=0.3)).tau == tau
    assert certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA, lowest=0.3, rate="all")).tau == tau
    with pytest.raises(ConfigError, match="start is"):
        calibrate_tau(Q, UNSAFE, ALPHA, DELTA, start=0.2, lowest=0.3)


def test_a_lowest_threshold_that_is_not_reached_changes_nothing() -> None:
    for options in ({"start": 0.9}, {"rate": "all"}):
        free, held = (
            certified(calibrate_tau(Q, UNSAFE, 0.01, DELTA, lowest=lowest, **options))
            for lowest in (None, 0.001)
        )
        assert held.tau == free.tau > 0.001


def test_q_in_a_wider_dtype_is_rounded_to_the_deployed_one() -> None:
    wide = calibrate_tau(Q.astype(np.float64), UNSAFE, ALPHA, DELTA, dtype="float32")
    assert certified(wide).data == certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA)).data
    half = certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA, dtype="float16"))
    assert float(np.float16(half.tau)) == half.tau


@pytest.mark.parametrize(
    ("q", "unsafe", "reason"),
    [
        (np.ones(100), np.zeros(100), "90 rows can be tested; .* takes at least 114"),
        (np.zeros(0), np.zeros(0), "0 rows can be tested"),
        (np.ones(4_000), np.ones(4_000), "3600 of them unsafe: the rate may be as high as 1"),
        (np.zeros(4_000), np.zeros(4_000), r"\|Q\| is 0 or not finite in all of the 400 pilot"),
        (np.where(np.arange(4_000) < 50, 1.0, 0.0), np.zeros(4_000), "takes at least 114"),
    ],
)
def test_it_abstains_and_says_why(q: Array, unsafe: Array, reason: str) -> None:
    found = calibrate_tau(q, unsafe, ALPHA, DELTA)
    assert (found.certificate, found.tau, found.abstained) == (None, None, True)
    assert re.search(reason, found.reason), found.reason


def test_as_a_share_of_all_rows_it_abstains_too() -> None:
    assert (
        "4000 rows with the highest"
        in calibrate_tau(np.ones(4_000), np.ones(4_000), ALPHA, DELTA, rate="all").reason
    )
    nothing = calibrate_tau(np.zeros(4_000), np.zeros(4_000), ALPHA, DELTA, rate="all")
    assert nothing.reason == "no row has a usable |Q|"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 1e-310}, "alpha is 1e-310; it must lie between 1e-09 and 1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": "0.1"}, "alpha is '0.1'"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"delta": 1e-12}, "delta is 1e-12"),
        ({"rate": "some"}, "rate is 'some'"),
        ({"rate": "all", "start": 0.1}, "start is given"),
        ({"start": -1.0}, "start is -1.0"),
        ({"start": 1e-60}, "start is 1e-60, which rounds to 0"),
        ({"lowest": float("inf")}, "lowest is inf"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"split": ""}, "split"),
        ({"tolerance": float("nan"), "loss": np.ones(4_000)}, "tolerance is nan"),
        ({"tolerance": 0.5}, "loss is bool"),
        ({"loss": np.full(4_000, 0.5)}, "other than 0 and 1"),
        ({"loss": UNSAFE[:-1]}, "4000 rows and loss has 3999"),
        ({"loss": UNSAFE.astype("S1")}, "loss has dtype"),
        ({"q_abs": -Q}, "below 0"),
        ({"q_abs": Q.reshape(-1, 2)}, r"shape \(2000, 2\)"),
        ({"q_abs": (Q * 100).astype(np.int64)}, "q_abs has dtype int64"),
        ({"q_abs": list(Q)}, "q_abs is a list"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], named: str) -> None:
    arguments = {"q_abs": Q, "loss": UNSAFE, "alpha": ALPHA, "delta": DELTA, **change}
    with pytest.raises((ConfigError, InputError), match=named):
        calibrate_tau(**arguments)


def test_others_can_check_a_certificate_on_the_rows() -> None:
    for options in ({}, {"start": 0.5}, {"rate": "all"}, {"lowest": 0.4}):
        found = certified(calibrate_tau(Q, UNSAFE, ALPHA, DELTA, **options))
        check_certificate(found, Q, UNSAFE)
    other = UNSAFE.copy()
    other[0] = ~other[0]
    with pytest.raises(InputError, match="data is"):
        check_certificate(found, Q, other)
    with pytest.raises(InputError, match="n is"):
        check_certificate(msgspec.structs.replace(found, n=found.n + 1), Q, UNSAFE)
