"""Draws against a plain version of the same definitions, one that sorts everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.engines.chat import Sampling
from interlock.engines.generate.sampling import Floats, Sampler, likeliest, log_sums

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=600).map(
    lambda values: np.array(values, np.float32)
)


def allowed(logits: Floats, sampling: Sampling) -> dict[int, float]:
    """The tokens that may be drawn, with their probabilities."""
    scaled = logits.astype(np.float64) / (sampling.temperature or 1.0)
    weights = np.exp(scaled - scaled.max())
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    if sampling.top_k is not None:
        order = order[: sampling.top_k]
    if sampling.top_p is not None and sampling.top_p < 1:
        total = sum(weights[i] for i in order)
        kept: list[int] = []
        mass = 0.0
        for i in order:
            if kept and mass >= sampling.top_p * total:
                break
            kept.append(i)
            mass += weights[i]
        order = kept
    if sampling.min_p:
        order = [i for i in order if weights[i] >= sampling.min_p * weights[order[0]]]
    total = sum(weights[i] for i in order)
    return {i: weights[i] / total for i in order}


@given(LOGITS)
def test_greedy_takes_the_first_of_the_largest(logits: Floats) -> None:
    assert Sampler(Sampling(), []).draw(logits) == int(np.flatnonzero(logits == logits.max())[0])


@given(
    LOGITS,
    st.sampled_from([None, 1, 2, 300]),
    st.sampled_from([None, 0.1, 0.5, 0.9, 0.999]),
    st.sampled_from([None, 0.01, 0.3]),
    st.integers(0, 50),
)
def test_a_draw_keeps_to_the_cuts(
    logits: Floats, top_k: int | None, top_p: float | None, min_p: float | None, seed: int
) -> None:
    sampling = Sampling(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    rounded = Sampling(
        temperature=0.7,
        top_k=top_k,
        top_p=None if top_p is None else min(1.0, top_p + 1e-9),
        min_p=None if min_p is None else max(0.0, min_p - 1e-9),
    )
    assert Sampler(sampling, []).draw(logits) in allowed(logits, rounded)


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    sampling = Sampling(temperature=1.0, top_k=3, seed=5)
    sampler = Sampler(sampling, [])
    drawn = np.bincount([sampler.draw(logits) for _ in range(4000)], minlength=4) / 4000
    expected = np.array([0.5, 0.25, 0.15, 0.0]) / 0.9
    # Five standard deviations of a share at n = 4000.
    assert np.abs(drawn - expected).max() < 5 * 0.5 / np.sqrt(4000)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-307, 1e-300])
@pytest.mark.parametrize("logits", [[1.0, 8.0, 7.9], [-1.0, -0.5, -8.0], [0.0, 3.0, -3.0]])
@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.1}])
def test_the_least_temperature_draws_the_likeliest(
    temperature: float, logits: list[float], cuts: dict[str, Any]
) -> None:
    sampler = Sampler(Sampling(temperature=temperature, seed=1, **cuts), [])
    assert sampler.draw(np.array(logits, np.float32)) == 1


def test_a_seed_repeats_its_draws_and_another_does_not() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), [])
        return [sampler.draw(logits) for _ in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(("value", "expected"), [(2.0, 1), (-2.0, 1), (0.5, 0)])
def test_what_occurred_is_penalized(value: float, expected: int) -> None:
    # Token 0 occurred: 2 becomes 1 and -2 becomes -4, token 1 keeps its logit.
    logits = np.array([value, 1.5 if value > 0 else -3.0], np.float32)
    if value == 0.5:
        logits[1] = 0.1
    assert Sampler(Sampling(repetition_penalty=2.0), [0]).draw(logits) == expected


def test_a_drawn_token_counts_as_occurred() -> None:
    logits = np.array([2.0, 1.5], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0), [])
    assert [sampler.draw(logits), sampler.draw(logits)] == [0, 1]


@given(LOGITS, st.integers(1, 700))
def test_likeliest_is_sorted_with_ties_by_id(logits: Floats, count: int) -> None:
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    assert likeliest(logits, count).tolist() == order[:count]


def test_log_sums_do_not_overflow() -> None:
    assert log_sums(np.array([[1000.0, 1000.0]], np.float32))[0] == pytest.approx(1000 + np.log(2))
