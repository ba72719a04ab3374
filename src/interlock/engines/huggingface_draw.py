"""Drawing one token from logits, so that the draw depends on the request and on nothing beside it.

Gumbel-max sampling: with g_i independent standard Gumbel variables, argmax(logit_i + T g_i) is a
draw from softmax(logit / T) (E. J. Gumbel, "Statistical Theory of Extreme Values", 1954; C. J.
Maddison et al., "A* Sampling", 2014). The noise belongs to token ids and comes from the request's
own generator, so logits that differ in their last bits, as they do between batches of different
sizes, change the token only where two candidates are closer than that. `Draw.close` tells it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from interlock.engines.chat import Sampling

# Sorting a whole vocabulary costs more than everything else here; the mass of a nucleus nearly
# always lies within its most likely tokens.
HEAD = 2048


@dataclass(frozen=True, slots=True)
class Draw:
    """A token id, and whether another could have been drawn had the logits differed a little."""

    token: int
    close: bool


def noise(size: int, generator: torch.Generator) -> torch.Tensor:
    """(size,) standard Gumbel variables, float32, on the CPU."""
    return -torch.empty(size).exponential_(1.0, generator=generator).log()


def draw(
    logits: torch.Tensor,
    sampling: Sampling,
    *,
    seen: torch.Tensor | None,
    gumbel: torch.Tensor | None,
    tolerance: float,
) -> Draw:
    """The next token for float32 `logits` (vocabulary,).

    seen       ids of the tokens that occurred, for the repetition penalty (N. S. Keskar et al.,
               "CTRL", 2019); None without a penalty
    gumbel     noise of the vocabulary's size, None for the most likely token
    tolerance  difference of logits below which two candidates count as close
    """
    scores = logits
    if seen is not None and sampling.repetition_penalty is not None:
        penalty = sampling.repetition_penalty
        met = scores[seen]
        scores = scores.index_copy(0, seen, torch.where(met > 0, met / penalty, met * penalty))
    if gumbel is None or not sampling.temperature:
        (best, second), (token, _) = (found.tolist() for found in torch.topk(scores, 2))
        return Draw(int(token), best - second < tolerance)
    surely, usual, perhaps = _thresholds(scores, sampling, tolerance)
    noisy = scores + sampling.temperature * gumbel
    if perhaps > float("-inf"):
        noisy = torch.where(scores >= perhaps, noisy, float("-inf"))
    (best, second), (first, _) = (found.tolist() for found in torch.topk(noisy, 2))
    token = first
    if perhaps < usual:
        token = int(torch.where(scores >= usual, noisy, float("-inf")).argmax())
    close = token != first or best - second < tolerance or float(scores[int(token)]) < surely
    return Draw(int(token), close)


def _thresholds(
    scores: torch.Tensor, sampling: Sampling, tolerance: float
) -> tuple[float, float, float]:
    """Least scores of tokens that may be drawn: surely, as they stand, and perhaps.

    The cuts apply in the order top_k, top_p (A. Holtzman et al., "The Curious Case of Neural Text
    Degeneration", 2020), min_p (M. N. Nguyen et al., "Turning Up the Heat", 2024), each to the
    distribution at the temperature that the one before leaves.
    """
    surely = usual = perhaps = float("-inf")
    top_k, top_p, min_p = sampling.top_k, sampling.top_p, sampling.min_p
    size = scores.numel()
    ranked: torch.Tensor | None = None
    temperature = sampling.temperature or 1.0
    if top_k is not None and top_k < size:
        ranked = torch.topk(scores, top_k + 1).values
        surely, usual, perhaps = _edge(ranked, top_k - 1, tolerance)
        ranked = ranked[:top_k]
    if top_p is not None and top_p < 1.0:
        mass = torch.exp(torch.logsumexp((scores if ranked is None else ranked) / temperature, 0))
        if ranked is None:
            ranked = torch.topk(scores, min(HEAD, size)).values
        sums = torch.cumsum(torch.exp(ranked / temperature), 0) / mass
        if float(sums[-1]) < top_p and ranked.numel() < size and top_k is None:
            ranked = torch.sort(scores, descending=True).values
            sums = torch.cumsum(torch.exp(ranked / temperature), 0) / mass
        last = min(int(torch.searchsorted(sums, top_p)), ranked.numel() - 1)
        edges = _edge(ranked, last, tolerance)
        slack = tolerance / temperature
        before = float(sums[last - 1]) if last else 0.0
        # One token fewer or more, and of two that are close it may be either.
        if last and top_p - before < slack:
            edges = (max(edges[0], float(ranked[last - 1]) + tolerance), edges[1], edges[2])
        if float(sums[last]) - top_p < slack and last + 1 < ranked.numel():
            edges = (edges[0], edges[1], min(edges[2], float(ranked[last + 1]) - tolerance))
        surely, usual, perhaps = (
            max(pair) for pair in zip((surely, usual, perhaps), edges, strict=True)
        )
    if min_p:
        least = float(scores.max()) + temperature * math.log(min_p)
        usual = max(usual, least)
        surely = max(surely, least + 2 * tolerance)
        perhaps = max(perhaps, least - 2 * tolerance)
    return surely, usual, perhaps


def _edge(ranked: torch.Tensor, last: int, tolerance: float) -> tuple[float, float, float]:
    """Thresholds of a cut after rank `last`: the two tokens at it may be close."""
    if last + 1 == ranked.numel():
        # It leaves what the cut before left, whose own thresholds then hold.
        return -math.inf, -math.inf, -math.inf
    usual, following = float(ranked[last]), float(ranked[last + 1])
    if usual - following < tolerance:
        return usual + tolerance, usual, following - tolerance
    return usual, usual, usual


def token_logprob(
    logits: torch.Tensor, token: int, top: int
) -> tuple[float, list[float], list[int]]:
    """Natural logarithm of the token's probability under the raw float32 `logits` (vocabulary,).

    With it, the `top` largest, and their ids.
    """
    logprobs = torch.log_softmax(logits, 0)
    values, ids = torch.topk(logprobs, min(top, logprobs.numel()))
    return float(logprobs[token]), values.tolist(), ids.tolist()
