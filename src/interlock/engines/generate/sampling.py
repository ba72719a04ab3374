"""Which token comes next: exact greedy choice and seeded draws, from one row of logits.

The order of the steps is that of Hugging Face's generation: repetition penalty (Keskar et al. 2019,
CTRL), temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024), draw.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.engines.chat import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
SEED_BITS = 53
"""Of a seed that is drawn: what JavaScript, which reads every number as a float, gives back."""
# How many of the likeliest tokens are looked at first; the whole vocabulary only where they do not
# hold enough of the mass.
_FIRST = 256


class Sampler:
    """Draws the tokens of one answer; what it draws depends on nothing but its own logits.

    A draw without a seed takes one from the system; `seed` tells it, None for greedy choice.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._temperature = sampling.temperature or 0.0
        self._top_k = sampling.top_k
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._min_p = sampling.min_p or 0.0
        self._penalty = sampling.repetition_penalty or 1.0
        self._seen = set(prompt) if self._penalty != 1.0 else set()
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(SEED_BITS)
        self._random = np.random.Generator(np.random.Philox(seed))
        self.seed = None if self._temperature == 0.0 else seed

    def draw(self, logits: Floats) -> int:
        """The next token. Of equal logits the lowest id is the most likely."""
        if self._penalty != 1.0:
            logits = self._penalized(logits)
        token = int(logits.argmax()) if self._temperature == 0.0 else self._drawn(logits)
        if self._penalty != 1.0:
            self._seen.add(token)
        return token

    def _penalized(self, logits: Floats) -> Floats:
        logits = logits.copy()
        seen = np.fromiter(self._seen, np.int64, len(self._seen))
        values = logits[seen]
        penalty = np.float32(self._penalty)
        logits[seen] = np.where(values > 0, values / penalty, values * penalty)
        return logits

    def _drawn(self, logits: Floats) -> int:
        wide = logits.astype(np.float64)
        with np.errstate(over="ignore"):
            scaled = wide / self._temperature
            if not np.isfinite(scaled.max()):
                # So little that the largest is beyond float64: only its equals are left.
                scaled = (wide - wide.max()) / self._temperature
        weights = np.exp(scaled - scaled.max())
        ids, chosen = self._cut(weights)
        sums = np.cumsum(chosen)
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return int(ids[min(at, len(ids) - 1)])

    def _cut(self, weights: npt.NDArray[np.float64]) -> tuple[Ids, npt.NDArray[np.float64]]:
        """The tokens that may be drawn, likeliest first, with their weights."""
        if self._top_k is None and self._top_p >= 1.0 and self._min_p <= 0.0:
            return np.arange(len(weights)), weights
        count = len(weights) if self._top_k is None else min(self._top_k, len(weights))
        ids = likeliest(weights, min(count, _FIRST))
        kept = weights[ids]
        if count > len(ids) and self._needs_more(weights, kept, count):
            ids = likeliest(weights, count)
            kept = weights[ids]
        if self._top_p < 1.0:
            # The token that crosses the limit stays; the mass is that of the tokens top-k left.
            total = weights.sum() if self._top_k is None else self._mass(weights, count)
            before = np.cumsum(kept) - kept
            keep = max(1, int(np.searchsorted(before, self._top_p * total, side="left")))
            ids, kept = ids[:keep], kept[:keep]
        if self._min_p > 0.0:
            keep = max(1, int(np.count_nonzero(kept >= self._min_p * kept[0])))
            ids, kept = ids[:keep], kept[:keep]
        return ids, kept

    def _mass(self, weights: npt.NDArray[np.float64], count: int) -> float:
        return float(weights[likeliest(weights, count)].sum())

    def _needs_more(
        self, weights: npt.NDArray[np.float64], kept: npt.NDArray[np.float64], count: int
    ) -> bool:
        """Whether the cuts may keep a token that is not among the first ones."""
        if self._min_p > 0.0 and kept[-1] < self._min_p * kept[0]:
            return False
        total = weights.sum() if self._top_k is None else self._mass(weights, count)
        return not (self._top_p < 1.0 and kept.sum() > self._top_p * total)


def likeliest(values: npt.NDArray[Any], count: int) -> Ids:
    """The ids of the `count` largest values, largest first; of equal ones the lower id."""
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        ids = np.flatnonzero(values >= least)
    else:
        ids = np.arange(len(values))
    order = np.argsort(-values[ids], kind="stable")
    return ids[order[:count]]


def log_sums(logits: Floats) -> Floats:
    """log Σ exp of each row of (rows, vocabulary)."""
    top = logits.max(axis=1)
    sums: Floats = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return sums
