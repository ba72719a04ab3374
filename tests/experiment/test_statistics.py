"""Published values for every statistic, and the coverage of the intervals by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import InputError
from interlock.experiment.agreement import cohen_kappa, krippendorff_alpha
from interlock.experiment.bootstrap import student_t_quantile
from interlock.experiment.paired import (
    compare,
    detectable_paired,
    detectable_unpaired,
    holm,
    mcnemar_exact,
)
from interlock.experiment.rates import difference, rate


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.30265), (5, 2.57058), (10, 2.22814), (30, 2.04227), (100, 1.98397)],
)
def test_student_t_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-5)
    assert student_t_quantile(0.025, degrees) == pytest.approx(-quantile, rel=1e-5)


def test_student_t_nears_the_normal_without_a_step() -> None:
    assert student_t_quantile(0.975, 1000) == pytest.approx(1.96234, abs=1e-5)
    assert student_t_quantile(0.975, 1001) == pytest.approx(1.96234, abs=1e-5)


def test_one_verdict_a_prompt_gets_wilsons_interval() -> None:
    found = rate([True] * 15 + [False] * 85, [str(k) for k in range(100)])
    assert (found.interval, found.n, found.clusters) == ("wilson", 100, 100)
    assert (found.low, found.high) == pytest.approx((0.0931, 0.2328), abs=1e-4)


def test_samples_of_one_prompt_do_not_count_as_independent() -> None:
    """Ten copies of each answer must not narrow the interval."""
    rng = np.random.default_rng(3)
    verdicts = [bool(v) for v in rng.random(40) < 0.4]
    alone = rate(verdicts, [str(k) for k in range(40)])
    copied = rate(
        [verdict for verdict in verdicts for _ in range(10)],
        [str(k) for k in range(40) for _ in range(10)],
    )
    assert copied.interval == "clustered bootstrap"
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert copied.high - copied.low > 0.2


def test_clusters_that_all_say_the_same_keep_an_interval() -> None:
    found = rate([False] * 30, [str(k // 3) for k in range(30)])
    assert found.interval == "wilson on clusters"
    assert (found.low, found.high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    one = rate([True, True, True], ["a", "a", "a"])
    assert (one.low, one.high) == (0.0, 1.0)


def test_missing_verdicts_become_bounds_and_leave_no_trace_in_the_share() -> None:
    found = rate([True, False, None, None], ["a", "b", "c", "d"])
    assert (found.share, found.missing, found.lowest, found.highest) == (0.5, 2, 0.25, 0.75)
    empty = rate([None], ["a"])
    assert (empty.share, empty.n, empty.lowest, empty.highest) == (None, 0, 0.0, 1.0)
    assert (empty.low, empty.high) == (0.0, 1.0)
    assert rate([], []).lowest is None


@given(
    st.lists(
        st.tuples(st.sampled_from([True, False, None]), st.sampled_from("abcdef")), max_size=40
    )
)
def test_a_share_lies_between_its_bounds(rows: list[tuple[bool | None, str]]) -> None:
    found = rate([v for v, _ in rows], [k for _, k in rows], resamples=50)
    assert 0 <= found.low <= found.high <= 1
    if found.share is not None:
        assert found.lowest is not None
        assert found.highest is not None
        assert found.lowest <= found.share <= found.highest
        assert found.n + found.missing == len(rows)


def test_a_rate_depends_on_its_seed_and_name_alone() -> None:
    verdicts = [k % 3 != 1 for k in range(101)]
    keys = [str(int(k**0.8)) for k in range(101)]
    assert rate(verdicts, keys, seed=1) == rate(verdicts, keys, seed=1)
    assert rate(verdicts, keys, seed=1) != rate(verdicts, keys, seed=2)


def test_newcombes_published_example() -> None:
    """56/70 against 48/80: 0.0524 to 0.3339 in Newcombe's table II, method 10."""
    second = rate([True] * 56 + [False] * 14, [str(k) for k in range(70)])
    first = rate([True] * 48 + [False] * 32, [str(k) for k in range(80)])
    found = difference(first, second)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert difference(first, rate([], [])) is None


def test_mcnemar_is_a_two_sided_coin() -> None:
    assert mcnemar_exact(5, 15) == pytest.approx(0.04138947)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(7, 7) == 1.0
    with pytest.raises(InputError, match="cannot be negative"):
        mcnemar_exact(-1, 0)


def test_holm_agrees_with_the_published_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(InputError, match="must lie in 0"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    corrected = holm(p)
    assert all(0 <= a <= b <= 1 for a, b in zip(p, corrected, strict=True))
    ranked = sorted(range(len(p)), key=lambda i: p[i])
    assert [corrected[i] for i in ranked] == sorted(corrected)


def test_models_are_compared_prompt_by_prompt() -> None:
    first = {str(k): [k % 2 == 0] for k in range(40)}
    second = {str(k): [k % 2 == 0 or k < 20] for k in range(39)}
    found = compare("a", "b", first, second)
    assert (found.n, found.left_out, found.first_only, found.second_only) == (39, 1, 0, 10)
    assert found.test == "McNemar exact"
    assert found.p == pytest.approx(2 / 1024)
    assert found.difference == pytest.approx(10 / 39)
    assert 0.1 < found.low < 10 / 39 < found.high < 0.45


def test_repeats_are_compared_by_flipping_signs() -> None:
    """With the same verdict in each repeat the exact flips give McNemar's p."""
    first = {str(k): [False, False] for k in range(10)}
    second = {str(k): [k < 8, k < 8] for k in range(10)}
    found = compare("a", "b", first, second)
    assert found.test == "sign-flip permutation"
    assert found.p == pytest.approx(mcnemar_exact(0, 8))


def test_models_that_never_differ_may_still_differ_on_an_unseen_prompt() -> None:
    same = {str(k): [True] for k in range(50)}
    found = compare("a", "b", same, same)
    assert (found.p, found.difference) == (1.0, 0.0)
    assert found.low < -0.05
    assert found.high > 0.05


def test_what_can_be_detected_shrinks_with_n() -> None:
    """Connor's formula: 0.2 discordant and a difference of 0.1 need n = 155."""
    n = 155
    assert detectable_paired(n, 0.2) == pytest.approx(0.1, abs=0.001)
    assert detectable_paired(10, 0.05) is None
    # Two groups of 388: a rise from 0.5 to 0.6 with power 80%, as in Fleiss' tables without
    # continuity correction.
    assert detectable_unpaired(388, 388, 0.5) == pytest.approx(0.1, abs=0.001)
    assert detectable_unpaired(2, 2, 0.9) is None


def test_kappa_of_the_textbook_table() -> None:
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohen_kappa(first, second)
    assert found.share == pytest.approx(0.7)
    assert found.value == pytest.approx(0.4)
    assert found.low is not None
    assert found.high is not None
    # The large-sample standard error of this table is 0.127.
    assert (found.low, found.high) == pytest.approx((0.15, 0.65), abs=0.05)


def test_kappa_is_undefined_where_one_label_was_used() -> None:
    found = cohen_kappa(["yes", "yes"], ["yes", "yes"])
    assert (found.share, found.value) == (1.0, None)
    assert cohen_kappa([], []).value is None
    with pytest.raises(InputError, match="stand against"):
        cohen_kappa(["yes"], [])


@pytest.mark.parametrize("n", [2, 10, 200])
def test_full_agreement_on_few_items_is_no_certainty(n: int) -> None:
    """Resampled, items that all agree would give an interval of no width for any n."""
    labels = ["yes", "no"] * (n // 2)
    pair = cohen_kappa(labels, labels)
    several = krippendorff_alpha([{"x": label, "y": label, "z": label} for label in labels])
    for found in (pair, several):
        assert found.value == found.high == 1.0
        assert found.low is not None
        # The share of items to disagree on that none of n leaves open, over half by chance.
        open_share = 1 - 0.025 ** (1 / n)
        assert found.low == pytest.approx(max(-1.0, 1 - open_share / 0.5), abs=0.03 + 0.6 / n)
    assert (pair.low or 0.0) < 1.0


def test_krippendorffs_own_example() -> None:
    """Four observers, twelve units, missing labels: 0.743 for nominal data."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    items = [
        {str(k): str(row[unit]) for k, row in enumerate(observers) if row[unit] is not None}
        for unit in range(12)
    ]
    found = krippendorff_alpha(items)
    assert found.n == 11
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.743 < found.high


@pytest.mark.parametrize(("share", "within"), [(0.3, 0.1), (0.3, 2.0), (0.05, 0.5), (0.02, 2.0)])
def test_clustered_intervals_cover_the_share(share: float, within: float) -> None:
    """Beta-binomial clusters: prompts differ, samples of a prompt resemble one another.

    within  concentration of the beta distribution; the smaller, the more alike a prompt's samples

    Three samples of each of 60 prompts. At small counts chance moves the coverage by a few per
    cent, so the bar is the binomial region around 93%.
    """
    repeats = count(150, 2000)
    rng = np.random.default_rng(11)
    covered = 0
    keys = [str(k // 3) for k in range(180)]
    for seed in range(repeats):
        of_prompt = rng.beta(share * within, (1 - share) * within, size=60)
        verdicts = (rng.random((60, 3)) < of_prompt[:, None]).ravel()
        found = rate([bool(v) for v in verdicts], keys, seed=seed, resamples=500)
        covered += found.low <= share <= found.high
    print(f"covered {covered} of {repeats}")
    assert covered / repeats >= 0.93 - 2.6 * math.sqrt(0.93 * 0.07 / repeats)


def test_paired_intervals_cover_the_difference() -> None:
    repeats = count(150, 2000)
    rng = np.random.default_rng(12)
    covered = 0
    for seed in range(repeats):
        hard = rng.random(80)
        first = {str(k): [bool(rng.random() < 0.8 * hard[k])] for k in range(80)}
        second = {str(k): [bool(rng.random() < hard[k])] for k in range(80)}
        found = compare("a", "b", first, second, seed=seed, resamples=500)
        covered += found.low <= 0.1 <= found.high
    print(f"covered {covered} of {repeats}")
    assert covered / repeats >= 0.93 - 2.6 * math.sqrt(0.93 * 0.07 / repeats)


def test_mcnemar_keeps_its_level() -> None:
    repeats = count(300, 5000)
    rng = np.random.default_rng(13)
    p = [mcnemar_exact(k, 25 - k) for k in rng.binomial(25, 0.5, size=repeats).tolist()]
    rejected = float(np.mean(np.array(p) <= 0.05))
    print(f"rejected {rejected:.4f} of {repeats}")
    assert rejected <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / repeats)
