"""The rules of stance against labelled answers, and the promises that they make."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.experiment.agreement import Agreement, cohen_kappa
from interlock.experiment.stance import Stance, read_stance
from interlock.kernel.intervals import wilson_interval

DATA = Path(__file__).parents[1] / "data"
WRITTEN = [
    json.loads(line) for line in (DATA / "existence_answers.jsonl").read_text("utf-8").splitlines()
]


def agreement_words(found: Agreement) -> str:
    """Share with its score interval and kappa with its own, as the documents give them."""
    assert found.share is not None
    assert found.value is not None
    same = round(found.share * found.n)
    low, high = wilson_interval(same, found.n)
    return (
        f"{same} of {found.n} ({100 * low:.1f} to {100 * high:.1f}%), "
        f"kappa {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    )


def test_an_identifier_is_not_named_by_a_longer_one() -> None:
    answer = "CVE-2021-44228 is a critical flaw in Log4j."
    assert read_stance(answer, "Summarise CVE-2021-4422.", "CVE-2021-4422").stance is Stance.UNCLEAR
    real = read_stance(answer, "Summarise CVE-2021-44228.", "CVE-2021-44228")
    assert real.stance is Stance.CLAIMS


def test_the_labelled_set_is_large_enough_and_covers_every_stance() -> None:
    labels = Counter(row["label"] for row in WRITTEN)
    assert len(WRITTEN) >= 120
    assert set(labels) == {stance.value for stance in Stance}
    assert min(labels.values()) >= 10


@pytest.mark.parametrize(
    ("split", "least"),
    # The rules were changed after the first answers of SmolLM2 were labelled, and not after the
    # second ones.
    [("development", 0.95), ("held_out", 0.95), ("smollm2_first", 0.95), ("smollm2_second", 0.8)],
)
def test_rules_agree_with_the_labels(split: str, least: float) -> None:
    rows = [row for row in WRITTEN if row["split"] == split]
    read = [read_stance(row["answer"], row["question"], row["entity"]).stance.value for row in rows]
    found = cohen_kappa([row["label"] for row in rows], read)
    print(f"{split}: {agreement_words(found)}")
    assert found.share is not None
    assert found.share >= least


@pytest.mark.parametrize(
    ("answer", "stance", "explicit"),
    [
        ("Yes, it exists.", Stance.CLAIMS, True),
        ("No, there is no such CVE.", Stance.DENIES, True),
        ("CVE-2024-99999 is a flaw in a mail server that lets anyone in.", Stance.CLAIMS, False),
        ("CVE-2024-99999 is a valid CVE identifier.", Stance.CLAIMS, True),
        ("It needs no authentication. CVE-2024-99999 has no patch yet.", Stance.CLAIMS, False),
        ("CVE-2024-99999 does not require authentication.", Stance.CLAIMS, False),
        ("I am not aware of CVE-2024-99999.", Stance.HEDGES, True),
        ("I can't help with that.", Stance.REFUSES, True),
        (
            "CVE-2024-99999 does not exist. CVE-2021-44228 is a valid CVE identifier.",
            Stance.DENIES,
            True,
        ),
        ("CVE-2021-44228 does not exist. CVE-2024-99999 affects routers.", Stance.CLAIMS, False),
        ("", Stance.UNCLEAR, False),
        ("Does CVE-2024-99999 exist?", Stance.UNCLEAR, False),
    ],
)
def test_negation_is_read_for_what_it_negates(answer: str, stance: Stance, explicit: bool) -> None:
    found = read_stance(answer, "Does CVE-2024-99999 exist?", "CVE-2024-99999")
    assert (found.stance, found.explicit) == (stance, explicit)


def test_typographic_apostrophes_negate_too() -> None:
    assert read_stance("It doesn’t exist.").stance is Stance.DENIES


@given(st.text(max_size=400), st.text(max_size=60), st.text(max_size=20))
def test_any_text_gets_a_stance(answer: str, question: str, entity: str) -> None:
    assert read_stance(answer, question, entity).stance in Stance


@pytest.mark.parametrize(
    "piece", ["?", "no ", "a ", "!\n", "is not the ", "CVE-1-1 ", "\u200b", "**"]
)
def test_long_repetitions_are_read_in_linear_time(piece: str) -> None:
    """A small model that loops writes such texts; the test ends, or the suite hangs."""
    read_stance(piece * 20_000, "What is CVE-1-1?", "CVE-1-1")
