"""The drift test keeps its rate of false alarms, finds what changes, and merges."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.errors import ConfigError, InputError
from interlock.kernel.drift import INTERVAL_SHARE, DriftState, RateDrift

EXAMPLES = settings(max_examples=count(60, 1_000), deadline=None)
STREAMS = count(100, 1_000)
BATCHES = 1_000


def most_by_chance(streams: int, rate: float, confidence: float = 0.99) -> int:
    """The upper end of the central binomial region of `confidence`, summed term by term."""
    below = 0.0
    for k in range(streams + 1):
        below += math.comb(streams, k) * rate**k * (1 - rate) ** (streams - k)
        if below >= (1 + confidence) / 2:
            return k
    return streams


def alarms(
    rng: np.random.Generator,
    *,
    rate: float,
    samples: int,
    batch: int,
    false_alarm_rate: float = 0.01,
    certainty: int = 1,
    at_the_edge: bool = False,
) -> int:
    """In how many streams of unchanged rate an alarm is raised, each with its own calibration.

    With `certainty` above 1 the calibration passes as one of that many times the samples.
    """
    raised = 0
    for _ in range(STREAMS):
        found = int(rng.binomial(samples, rate))
        drift = RateDrift(found * certainty, samples * certainty, false_alarm_rate=false_alarm_rate)
        true_rate = drift.high if at_the_edge else rate
        for successes in rng.binomial(batch, true_rate, BATCHES).tolist():
            if drift.add(successes, batch):
                raised += 1
                break
    return raised


# False alarms


@pytest.mark.parametrize(
    ("rate", "samples", "batch"), [(0.1, 2_000, 64), (0.9, 500, 1_024), (0.99, 1_000, 256)]
)
def test_a_stream_that_does_not_change_alarms_no_more_often_than_stated(
    rate: float, samples: int, batch: int
) -> None:
    raised = alarms(np.random.default_rng(11), rate=rate, samples=samples, batch=batch)
    print(f"\nrate {rate}, {samples} samples, batches of {batch}: {raised} of {STREAMS} alarm")
    assert raised <= most_by_chance(STREAMS, 0.01)


def test_a_calibrated_rate_taken_as_exact_breaks_the_bound() -> None:
    """What the interval is for, and that the test above can fail."""
    raised = alarms(np.random.default_rng(12), rate=0.9, samples=500, batch=1_024, certainty=1_000)
    print(f"\ntaken as exact: {raised} of {STREAMS} alarm")
    assert raised > 10 * most_by_chance(STREAMS, 0.01)


@pytest.mark.parametrize(("candidates", "kept"), [(None, True), (1, False)])
def test_a_threshold_chosen_on_the_calibration_sample_needs_the_wider_interval(
    candidates: int | None, kept: bool
) -> None:
    """Uniform |Q|, and of all thresholds that occur the one whose rate the sample flatters most."""
    rng, samples, batch = np.random.default_rng(14), 300, 4_096
    ranks = np.arange(samples)
    raised = 0
    for _ in range(STREAMS):
        thresholds = np.sort(rng.random(samples))
        accepted = samples - ranks
        chosen = int(np.argmax(np.abs(accepted / samples - (1 - thresholds))))
        drift = RateDrift(int(accepted[chosen]), samples, candidates=candidates)
        stream = rng.binomial(batch, 1 - thresholds[chosen], BATCHES // 2).tolist()
        raised += any(drift.add(successes, batch) for successes in stream)
    assert (raised <= most_by_chance(STREAMS, 0.01)) == kept


def test_at_the_end_of_the_interval_the_bets_use_what_they_are_allowed() -> None:
    """The worst rate of the null: near the bound, so that no power is given away, yet below."""
    rate = 0.5
    raised = alarms(
        np.random.default_rng(13),
        rate=0.3,
        samples=1_000,
        batch=32,
        false_alarm_rate=rate,
        at_the_edge=True,
    )
    share = (1 - INTERVAL_SHARE) * rate
    assert raised <= most_by_chance(STREAMS, share)
    assert raised >= STREAMS * share / 10


@given(
    successes=st.integers(0, 300),
    failures=st.integers(0, 300),
    seed=st.integers(0, 2**32 - 1),
    inside=st.floats(0, 1),
)
@EXAMPLES
def test_no_bet_gains_on_average_at_any_rate_inside(
    successes: int, failures: int, seed: int, inside: float
) -> None:
    """The claim that Ville's inequality needs, for the bets in any state that a stream leads to."""
    total = successes + failures
    try:
        drift = RateDrift(successes, total)
    except ConfigError:
        return
    rate = drift.low + inside * (drift.high - drift.low)
    rng = np.random.default_rng(seed)
    for batch in rng.integers(32, 200, 4).tolist():
        drift.add(int(rng.binomial(batch, rng.random())), batch)
    before = drift.log_e
    # The next 32 trials are one step; every outcome of them, weighted by its probability.
    mean = 0.0
    for k in range(33):
        after = RateDrift.from_state(drift.state())
        after.add(k, 32)
        weight = math.comb(32, k) * rate**k * (1 - rate) ** (32 - k)
        mean += weight * math.exp(after.log_e - before)
    assert mean <= 1 + 1e-9


# What is found


@pytest.mark.parametrize("batch", [1, 8, 64, 1_000, 100_000])
@pytest.mark.parametrize("before", [0, 100, 10_000])
@pytest.mark.parametrize(("old", "new", "direction"), [(0.1, 0.9, "rise"), (0.9, 0.1, "fall")])
def test_a_change_between_a_tenth_and_nine_tenths_is_found_within_50_batches(
    batch: int, before: int, old: float, new: float, direction: str
) -> None:
    rng = np.random.default_rng(21)
    for _ in range(count(2, 20)):
        # A calibration that hit the rate, so that the long stretch before the change is quiet.
        drift = RateDrift(round(2_000 * old), 2_000)
        for successes in rng.binomial(batch, old, before).tolist():
            assert not drift.add(successes, batch)
        raised = [drift.add(s, batch) for s in rng.binomial(batch, new, 50).tolist()]
        assert raised.count(True) == 1  # it latches
        assert drift.alarm == direction


def ramp(batches: int) -> npt.NDArray[np.float64]:
    """A rate that rises evenly from 10% to 90%."""
    return np.linspace(0.1, 0.9, batches)


def batches_until_found(drift: RateDrift, stream: Iterable[int], batch: int) -> float:
    """How many batches the alarm took; infinite where it never came."""
    for number, successes in enumerate(stream, start=1):
        if drift.add(successes, batch):
            return number
    return math.inf


def batches_for_one_who_knows(
    drift: RateDrift, stream: Iterable[int], batch: int, rates: Iterable[float]
) -> float:
    """The same for the likelihood ratio of the true rates against the end of the interval.

    No test of the same null with the same bound gathers evidence faster on average.
    """
    log_e = 0.0
    for number, (successes, rate) in enumerate(zip(stream, rates, strict=True), start=1):
        if rate > drift.high:
            log_e += successes * math.log(rate / drift.high)
            log_e += (batch - successes) * math.log((1 - rate) / (1 - drift.high))
        if log_e >= drift.log_needed:
            return number
    return math.inf


@pytest.mark.parametrize(
    ("batches", "batch", "samples"),
    [
        (50, 1, 2_000),
        (50, 8, 2_000),
        (50, 64, 2_000),
        (50, 1_000, 2_000),
        (100, 8, 2_000),
        (100, 64, 2_000),
        (100, 1_000, 2_000),
        (1_000, 1_000, 20_000),
    ],
)
def test_a_rise_from_a_tenth_to_nine_tenths_over_the_stream_is_found_within_50_batches(
    batches: int, batch: int, samples: int
) -> None:
    rng = np.random.default_rng(22)
    streams, late = count(20, 300), 0
    for _ in range(streams):
        drift = RateDrift(int(rng.binomial(samples, 0.1)), samples)
        stream = rng.binomial(batch, ramp(batches)).tolist()
        late += batches_until_found(drift, stream, batch) > 50
        assert drift.alarm in ("rise", None)
    print(f"\n{batches} batches of {batch}, calibrated on {samples}: {late} of {streams} late")
    # 50 single rows hold barely enough evidence: one who knows the ramp needs up to 47 of them.
    assert late <= (streams // 20 if batch == 1 else 0)


@pytest.mark.parametrize("samples", [2_000, 20_000])
@pytest.mark.parametrize("batch", [1, 8, 64, 1_000])
@pytest.mark.parametrize("batches", [50, 100, 1_000])
def test_a_rise_is_found_little_later_than_by_one_who_knows_it(
    batches: int, batch: int, samples: int
) -> None:
    """`pytest -s` prints the batches that it took."""
    rng = np.random.default_rng(23)
    ours, best = [], []
    for _ in range(count(20, 300)):
        drift = RateDrift(int(rng.binomial(samples, 0.1)), samples)
        stream = rng.binomial(batch, ramp(batches)).tolist()
        best.append(batches_for_one_who_knows(drift, stream, batch, ramp(batches).tolist()))
        ours.append(batches_until_found(drift, stream, batch))
    print(
        f"\n{batches} batches of {batch}, calibrated on {samples}, {len(ours)} streams: "
        f"median {np.median(ours):g}, 95% {np.quantile(ours, 0.95, method='higher'):g}; "
        f"known {np.median(best):g}, {np.quantile(best, 0.95, method='higher'):g}"
    )
    # A third for not knowing when and how far; single rows also wait for up to 7 others.
    assert np.median(ours) <= 4 / 3 * np.median(best) + 1 + 7 / batch


def test_after_a_thousand_million_trials_it_still_answers() -> None:
    drift = RateDrift(900_000, 1_000_000)
    for _ in range(1_000):
        assert not drift.add(900_100, 1_000_000)
    assert drift.total == 10**9
    assert math.isfinite(drift.log_e)
    assert drift.add(0, 1_000_000)
    assert drift.alarm == "fall"
    assert math.isfinite(drift.log_e)
    assert drift.log_e > 1e5


@pytest.mark.parametrize(("successes", "direction"), [(0, "rise"), (50, "fall")])
def test_a_calibration_without_a_single_exception_watches_the_other_side(
    successes: int, direction: str
) -> None:
    drift = RateDrift(successes, 50)
    for _ in range(200):
        assert not drift.add(32 if successes else 0, 32)
    while not drift.add(16, 32):
        assert drift.total < 100_000
    assert drift.alarm == direction


def test_the_alarm_stays_until_reset() -> None:
    drift = RateDrift(100, 1_000)
    assert drift.add(64, 64)
    for _ in range(1_000):
        assert not drift.add(10, 100)
    assert (drift.alarm, drift.alarm_total) == ("rise", 64)
    drift.reset()
    assert (drift.alarm, drift.alarm_total, drift.total) == (None, None, 0)
    assert drift.log_e == pytest.approx(0, abs=1e-12)
    assert drift.add(64, 64)


# The interval


def test_choosing_the_threshold_on_the_calibration_sample_widens_the_interval() -> None:
    fixed, among_ten = RateDrift(900, 1_000), RateDrift(900, 1_000, candidates=10)
    any_number = RateDrift(900, 1_000, candidates=None)
    assert any_number.low < among_ten.low < fixed.low < 0.9
    assert 0.9 < fixed.high < among_ten.high < any_number.high
    half = math.sqrt(math.log(2 / (INTERVAL_SHARE * 0.01)) / 2_000)
    assert any_number.high == pytest.approx(0.9 + half)


@pytest.mark.parametrize(
    ("successes", "total", "options"),
    [
        (1, 0, {}),
        (0, 0, {}),
        (-1, 5, {}),
        (6, 5, {}),
        (5, 10, {"false_alarm_rate": 0.0}),
        (5, 10, {"false_alarm_rate": 1.0}),
        (5, 10, {"false_alarm_rate": math.nan}),
        (5, 10, {"candidates": 0}),
        (1, 2, {"candidates": None}),
    ],
)
def test_a_calibration_that_says_nothing_is_refused(
    successes: int, total: int, options: dict[str, float]
) -> None:
    with pytest.raises(ConfigError):
        RateDrift(successes, total, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("successes", "total"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(successes: int, total: int) -> None:
    drift = RateDrift(5, 10)
    with pytest.raises(InputError):
        drift.add(successes, total)
    assert drift.total == 0


# State and merging

STREAM = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=20)


def fed(stream: list[tuple[int, int]]) -> RateDrift:
    """A test that saw (successes, failures) after (successes, failures)."""
    drift = RateDrift(30, 100, false_alarm_rate=0.2)
    for successes, failures in stream:
        drift.add(successes, successes + failures)
    return drift


def same(one: RateDrift, other: RateDrift) -> bool:
    """Equal, the rounding of the wealth aside."""
    mine, theirs = one.state(), other.state()
    logs = [mine.log_kept, *mine.log_wealth], [theirs.log_kept, *theirs.log_wealth]
    exact = [
        (s.successes, s.total, s.waiting, s.steps, s.streams, s.alarm, s.alarm_total)
        for s in (mine, theirs)
    ]
    return exact[0] == exact[1] and logs[0] == pytest.approx(logs[1], rel=1e-9, abs=1e-9)


@given(STREAM, STREAM)
@EXAMPLES
def test_a_test_read_back_goes_on_as_if_nothing_had_been(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    kept = fed(before)
    written = msgspec.json.encode(kept.state())
    read = RateDrift.from_state(msgspec.json.decode(written, type=DriftState))
    for successes, failures in after:
        assert kept.add(successes, successes + failures) == read.add(
            successes, successes + failures
        )
    assert kept.state() == read.state()


@given(STREAM, STREAM, STREAM)
@EXAMPLES
def test_streams_merge_in_any_order(
    one: list[tuple[int, int]], two: list[tuple[int, int]], three: list[tuple[int, int]]
) -> None:
    left = fed(one)
    left.merge(fed(two))
    left.merge(fed(three))
    tail = fed(three)
    tail.merge(fed(two))
    tail.merge(fed(one))
    assert left.state().total == sum(s + f for s, f in one + two + three)
    if not (left.alarm or tail.alarm):
        assert same(left, tail)


def test_the_evidence_of_merged_streams_is_their_mean() -> None:
    quiet, loud = fed([(10, 22)] * 5), fed([(17, 15)] * 5)
    expected = (math.exp(quiet.log_e) + math.exp(loud.log_e)) / 2
    # An odd number of trials waits for more; merging works it in.
    quiet.merge(loud)
    assert math.exp(quiet.log_e) == pytest.approx(expected)


def test_one_worker_among_many_that_drifts_is_found_by_all_together() -> None:
    whole = fed([(10, 22)] * 20)
    for _ in range(8):
        whole.merge(fed([(10, 22)] * 20))
    drifted = fed([(31, 1)] * 20)
    assert whole.alarm is None
    drifted.alarm = drifted.alarm_total = None  # as if it had not judged by itself
    assert whole.merge(drifted)
    assert whole.alarm == "rise"


def test_merging_says_once_that_it_raises_the_alarm() -> None:
    """Here the trials that waited in each of the two decide."""
    whole = fed([(7, 1), (7, 0)])
    raised = [whole.merge(fed([(7, 1), (7, 0)])) for _ in range(40)]
    assert raised.count(True) == 1
    assert whole.alarm == "rise"


def test_tests_of_different_calibrations_do_not_merge() -> None:
    with pytest.raises(ConfigError):
        RateDrift(5, 10).merge(RateDrift(6, 10))


def test_a_state_that_cannot_be_is_refused() -> None:
    good = fed([(20, 30)] * 3).state()
    assert RateDrift.from_state(good).state() == good
    for broken in (
        {"calibrated": (3, 2)},
        {"log_wealth": [0.0]},
        {"log_kept": math.nan},
        {"waiting": (2, 1)},
        {"successes": -1},
        {"total": 1},
        {"streams": 0},
        {"steps": -1},
        {"alarm": "rise", "alarm_total": None},
    ):
        with pytest.raises(InputError):
            RateDrift.from_state(msgspec.structs.replace(good, **broken))
