"""What a rollout comes to, from answers alone: no server, no clock."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import InputError
from interlock.serve.rollout.evidence import MEMORY_SAMPLES, Evidence, Seen, Verdict
from interlock.serve.rollout.settings import Mode, RolloutSettings

MEGABYTE = 1 << 20
GOOD, ERROR, SLOW, REFUSED = (False, 0.01, False), (True, 0.01, False), (False, 0.06, False), (
    False, 0.01, True,
)  # fmt: skip
Answer = tuple[bool, float, bool]


def decide(
    candidate: Answer,
    stable: Answer = GOOD,
    *,
    mode: Mode = "canary",
    often: float = 1.0,
    stable_often: float = 1.0,
    answers: int = 6000,
    **settings: Any,
) -> tuple[Verdict, int]:
    """The first verdict that is none to wait, and the candidate's answers until then.

    Each version gives `candidate` and `stable` as often as said, and good answers else.
    """
    rng = random.Random(1)
    evidence = Evidence(RolloutSettings(max_requests=4000, **settings), mode, 50)
    for n in range(answers):
        mine = n % 2 == 1 if mode == "canary" else False
        for version in (mine,) if mode == "canary" else (False, True):
            kind, share = (candidate, often) if version else (stable, stable_often)
            error, seconds, refused = kind if rng.random() < share else GOOD
            evidence.seen(Seen(version, error, seconds, refused))
        if n % 20 == 19 and (found := evidence.judge()).action != "wait":
            return found, evidence.answers
    return evidence.judge(), evidence.answers


@pytest.mark.parametrize(
    ("kind", "often", "trigger"),
    [(ERROR, 0.2, "errors"), (SLOW, 0.1, "p99"), (REFUSED, 0.5, "refused")],
)
@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_bad_share_rolls_back(kind: Answer, often: float, trigger: str, mode: Mode) -> None:
    found, answers = decide(kind, often=often, mode=mode)
    assert found[:2] == ("rollback", trigger)
    assert 100 <= answers < 700
    numbers = found.numbers["triggers"][trigger]
    low, high = numbers["candidate"]["interval95"]
    assert low <= often <= high


def test_a_good_one_is_promoted_once_that_is_shown() -> None:
    found, answers = decide(GOOD)
    assert found[:2] == ("promote", "shown_good")
    # "Below 1% are slow" takes hundreds of answers to show, even where none is.
    assert 500 < answers < 1500


def test_a_shadow_and_a_rollout_without_promotion_are_left_to_a_person() -> None:
    for kind in ({"mode": "shadow"}, {"promote": False}):
        found, _ = decide(GOOD, **kind)
        assert found[:2] == ("hold", "shown_good")


@pytest.mark.parametrize("kind", [ERROR, SLOW, REFUSED])
def test_what_both_versions_share_rolls_nothing_back(kind: Answer) -> None:
    """A slow machine, or a database that both need."""
    found, _ = decide(kind, kind, often=0.3, stable_often=0.3)
    assert found.action != "rollback"


def test_an_outage_is_not_held_against_one_that_is_a_little_worse() -> None:
    """1% of errors more, well within 5%; then both fail for an hour."""
    rng = random.Random(3)
    evidence = Evidence(RolloutSettings(promote=False), "canary", 50)
    for n in range(12_000):
        candidate = n % 2 == 1
        share = 0.5 if 6000 <= n < 6600 else 0.011 if candidate else 0.001
        evidence.seen(Seen(candidate, rng.random() < share, 0.01, False))
        if n % 20 == 19:
            assert evidence.judge().action != "rollback", evidence.numbers()["triggers"]["errors"]


def test_nothing_is_decided_by_a_few_answers() -> None:
    evidence = Evidence(RolloutSettings(min_requests=200), "canary", 50)
    for n in range(199):
        evidence.seen(Seen(False, False, 0.01, False))
        evidence.seen(Seen(True, True, 0.01, False))
        assert evidence.judge().action == "wait", n
    evidence.seen(Seen(True, True, 0.01, False))
    assert evidence.judge()[:2] == ("rollback", "errors")


def test_what_is_neither_shown_bad_nor_good_is_left_to_a_person() -> None:
    # Slower than the limit, but no slower than the old version, on a machine that is slow.
    found, answers = decide(SLOW, SLOW, often=0.2, stable_often=0.2, answers=10_000)
    assert found[:2] == ("hold", "undecided")
    assert answers == 4000


def label(evidence: Evidence, candidate: float, stable: float, truth: bool, n: int = 3000) -> str:
    rng = random.Random(2)
    for k in range(n):
        version = k % 2 == 1
        wrong = rng.random() < (candidate if version else stable)
        evidence.seen(Seen(version, False, 0.01, False))
        evidence.labelled(version, truth ^ wrong, truth)
        if (found := evidence.judge()).action != "wait":
            return f"{found.action} {found.trigger}"
    return "wait"


def test_labels_roll_back_what_is_wrong_more_often() -> None:
    settings = RolloutSettings(min_labels=100)
    assert label(Evidence(settings, "canary", 50), 0.15, 0.02, False) == "rollback false_positives"
    assert label(Evidence(settings, "canary", 50), 0.15, 0.02, True) == "rollback false_negatives"
    assert label(Evidence(settings, "canary", 50), 0.02, 0.02, False) == "promote shown_good"
    # Both are wrong as often: the texts are hard.
    assert "rollback" not in label(Evidence(settings, "canary", 50), 0.15, 0.15, False)


def test_where_labels_are_wanted_nothing_is_promoted_without() -> None:
    assert decide(GOOD, min_labels=1)[0][:2] != ("promote", "shown_good")


def test_memory_counts_where_it_stays_above_limit_and_old_version() -> None:
    def after(*samples: tuple[float, float]) -> str:
        evidence = Evidence(RolloutSettings(), "canary", 10)
        for mine, theirs in samples:
            evidence.memory(mine * MEGABYTE, theirs * MEGABYTE)
        return evidence.judge().action

    assert after(*[(600, 100)] * 5) == "rollback"
    assert after(*[(600, 100)] * 4) == "wait"
    assert after(*[(600, 100)] * 4, (400, 100)) == "wait"
    assert after(*[(600, 550)] * 50) == "wait"  # a large model, in both versions
    assert after(*[(0, 100)] * 50) == "wait"  # no process runs


def test_nothing_is_promoted_before_its_memory_was_seen_under_load() -> None:
    evidence = Evidence(RolloutSettings(rollback_p99_ms=1000), "canary", 50)
    for _ in range(MEMORY_SAMPLES):
        evidence.memory(100 * MEGABYTE, 100 * MEGABYTE)
    for _ in range(3000):
        for candidate in (True, False):
            evidence.seen(Seen(candidate, False, 0.01, False))
    # Fast answers may be enough within the time of one sample.
    assert evidence.judge().action == "wait"
    for _ in range(MEMORY_SAMPLES):
        evidence.memory(100 * MEGABYTE, 100 * MEGABYTE)
    assert evidence.judge().action == "promote"


@given(
    seed=st.integers(0, 1000), cut=st.integers(0, 200), mode=st.sampled_from(["canary", "shadow"])
)
def test_evidence_goes_on_where_it_was_kept(seed: int, cut: int, mode: Mode) -> None:
    rng = random.Random(seed)
    settings = RolloutSettings()

    def feed(evidence: Evidence, number: int) -> None:
        for _ in range(number):
            bad, candidate = rng.random() < 0.1, rng.random() < 0.5
            evidence.seen(Seen(candidate, bad, 0.01, bad))
            evidence.labelled(candidate, bad, not bad)

    first = Evidence(settings, mode, 50)
    feed(first, cut)
    second = Evidence(settings, mode, 50)
    second.restore(first.state())
    assert second.numbers()["triggers"] == first.numbers()["triggers"]
    other = Evidence(RolloutSettings(rollback_errors=0.2), mode, 50)
    with pytest.raises(InputError, match="other limits"):
        other.restore(first.state())


@pytest.mark.parametrize(("field", "trigger"), [("error", "errors"), ("refused", "refused")])
def test_one_that_refuses_every_row_is_rolled_back_where_each_batch_has_one(
    field: str, trigger: str
) -> None:
    """Both versions' requests hold such a row; only the candidate's hold nothing else."""
    evidence = Evidence(RolloutSettings(), "canary", 50)
    for n in range(2000):
        candidate = n % 2 == 1
        share = 1.0 if candidate else 0.04
        error, refused = (share, 0.0) if field == "error" else (0.0, share)
        evidence.seen(Seen(candidate, error, 0.01, refused))
        if (found := evidence.judge()).action != "wait":
            break
    assert found[:2] == ("rollback", trigger)
    assert found.numbers["triggers"][trigger]["stable"]["share"] == pytest.approx(0.04)
