"""Drawing tokens: the right distribution, the right cuts, and a warning where it was close."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.counts import count

from interlock.engines.chat import Sampling

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SIZE = 60

from interlock.engines.huggingface_draw import _thresholds, draw, noise, token_logprob  # noqa: E402

cuts = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([None, 1, 5, 59, 1000]),
    top_p=st.sampled_from([None, 0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.01, 0.2, 1.0]),
)


def logits_of(seed: int, scale: float = 2.0) -> Any:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)) * scale


def test_draws_follow_the_distribution() -> None:
    """Pearson's chi-square statistic of 4,000 draws, over the tokens that are expected 5 times."""
    logits = logits_of(1)
    sampling = Sampling(temperature=0.7)
    generator = torch.Generator().manual_seed(3)
    draws = 4000
    drawn = torch.zeros(SIZE)
    for _ in range(draws):
        found = draw(logits, sampling, seen=None, gumbel=noise(SIZE, generator), tolerance=0.0)
        drawn[found.token] += 1
    expected = torch.softmax(logits / 0.7, 0) * draws
    often = expected >= 5
    statistic = float((((drawn - expected) ** 2) / expected)[often].sum())
    freedom = int(often.sum()) - 1
    # Mean and variance of chi-square are its degrees of freedom and twice that; the seed is fixed.
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


@settings(max_examples=count(200, 2000), deadline=None)
@given(seed=st.integers(0, 10**6), sampling=cuts)
@example(107, Sampling(temperature=1.0, top_p=0.999))
@example(6321, Sampling(temperature=1.7, top_p=0.5))
def test_the_cuts_leave_what_those_of_transformers_leave(seed: int, sampling: Sampling) -> None:
    processors = pytest.importorskip("transformers")
    logits = logits_of(seed)
    assume(float(logits.sort().values.diff().min()) > 2e-5)  # else rounding tells two apart
    left = (logits / sampling.temperature)[None]
    if sampling.top_k is not None:
        left = processors.TopKLogitsWarper(sampling.top_k)(None, left)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        left = processors.TopPLogitsWarper(sampling.top_p)(None, left)
    if sampling.min_p:
        left = processors.MinPLogitsWarper(sampling.min_p)(None, left)
    theirs = {index for index in range(SIZE) if float(left[0, index]) > -math.inf}

    def kept(nudge: float) -> set[int]:
        """With wider cuts by `nudge`: what rounds to a limit may fall on either side of it."""
        top_p, min_p = sampling.top_p, sampling.min_p
        if top_p is not None and top_p < 1.0:
            top_p += nudge * 1e-6
        if min_p:
            min_p = min(1.0, min_p * (1 - nudge * 1e-4))
        wider = replace(sampling, top_p=top_p, min_p=min_p)
        _, usual, _ = _thresholds(logits, wider, 0.0)
        return {index for index in range(SIZE) if float(logits[index]) >= usual - 1e-5}

    assert kept(-1) <= theirs <= kept(1)


@settings(max_examples=count(500, 5000), deadline=None)
@given(seed=st.integers(0, 10**6), sampling=cuts, greedy=st.booleans())
@example(13236, Sampling(temperature=0.8, top_k=5, top_p=0.999), False)
def test_a_draw_that_is_not_close_survives_a_disturbance(
    seed: int, sampling: Sampling, greedy: bool
) -> None:
    """The tolerance is large here, so that close draws are frequent."""
    tolerance = 0.05
    generator = torch.Generator().manual_seed(seed)
    logits = logits_of(seed)
    gumbel = None if greedy else noise(SIZE, generator)
    found = draw(logits, sampling, seen=None, gumbel=gumbel, tolerance=tolerance)
    for _ in range(5):
        shift = (torch.rand(SIZE, generator=generator) - 0.5) * tolerance * 0.5
        other = draw(logits + shift, sampling, seen=None, gumbel=gumbel, tolerance=tolerance)
        assert found.close or other.token == found.token


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    processors = pytest.importorskip("transformers")
    logits = logits_of(5)
    seen = torch.tensor([int(logits.argmax()), int(logits.argmin()), 7])
    sampling = Sampling(repetition_penalty=1.8)
    found = draw(logits, sampling, seen=seen, gumbel=None, tolerance=0.0)
    theirs = processors.RepetitionPenaltyLogitsProcessor(1.8)(seen[None], logits[None])
    assert found.token == int(theirs.argmax())


def test_a_tie_is_close() -> None:
    logits = torch.zeros(SIZE)
    assert draw(logits, Sampling(), seen=None, gumbel=None, tolerance=1e-3).close


def test_logprobs_sum_to_one() -> None:
    logits = logits_of(9)
    logprob, values, ids = token_logprob(logits, 4, SIZE)
    assert sum(math.exp(value) for value in values) == pytest.approx(1.0, abs=1e-5)
    assert logprob == values[ids.index(4)]
