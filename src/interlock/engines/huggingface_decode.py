"""Generating text with a causal model of `transformers`, several requests at a time.

Batches of different sizes give logits that differ in their last bits. Wherever that could change a
token, the row's logits are computed once more from its own tokens alone, and those decide. So in
float32 a text depends on its request and the model, not on what it shared a batch with.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from interlock.engines.chat import Sampling, StopReason
from interlock.engines.huggingface_draw import draw, noise, token_logprob
from interlock.kernel.clock import Deadline
from interlock.kernel.errors import (
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    InterlockError,
)

# Above what batching does to logits in float32 (5e-5 measured), below what separates candidates.
TOLERANCE = 1e-3
# How far logits may lie apart for an architecture to count as fit for batches, in float32 and in
# 16 bits. One that is not differs by whole units.
AGREEMENT = 1e-2
AGREEMENT_16 = 1.0


@dataclass(slots=True)
class Row:
    """One request on its way: `prompt` and `drawn` are token ids."""

    prompt: list[int]
    sampling: Sampling
    seed: int
    ends: frozenset[int]
    limit: int
    """Most tokens to draw: the request's, or what the context leaves."""
    drawn: list[int] = field(default_factory=list)
    logprobs: list[tuple[int, float, list[float], list[int]]] = field(default_factory=list)
    """Of each token that they were asked for: id, logprob, best logprobs, their ids."""
    stop: StopReason | None = None
    error: InterlockError | None = None
    checked: int = 0
    """Tokens that were decided by the row's logits computed alone."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to draw."""
        return self.stop is not None or self.error is not None


class Decoder:
    """Draws tokens for batches of rows with one model."""

    def __init__(
        self,
        model: Any,
        *,
        pad: int,
        stopped: Callable[[Row], bool],
    ) -> None:
        """`pad` fills up shorter prompts; `stopped` tells whether a stop text came up in a row."""
        self.model = model
        self.device = model.device
        self.pad = pad
        self._stopped = stopped
        parameters = inspect.signature(model.forward).parameters
        names = [name for name in ("cache", "past_key_values") if name in parameters]
        if not names:
            raise EngineUnavailableError(
                f"local: {type(model).__name__} keeps its state in a way that is not known here",
                hint="models with a key-value cache work",
            )
        self._cache = names[0]
        self._keep = "logits_to_keep" in parameters
        exact = next(model.parameters()).dtype == torch.float32
        self._tolerance = TOLERANCE if exact else 0.0
        self._agreement = AGREEMENT if exact else AGREEMENT_16

    def check(self, ids: Sequence[int]) -> None:
        """Raise EngineUnavailableError where batches change what the model says.

        A padded batch of two and a step with the cache must give the logits of each row alone.
        Architectures that ignore the mask or keep state elsewhere do not. `ids` is a text of eight
        tokens or more.
        """
        rows = [list(ids), list(ids[:3])]
        with torch.inference_mode():
            padded, mask, positions = self._padded(rows)
            logits, cache = self._forward(padded, mask, positions, None)
            largest = self._disagreement(rows, logits)
            step = torch.tensor([[ids[1]]] * 2)
            mask = torch.cat([mask, torch.ones((2, 1), dtype=torch.long)], 1)
            if cache is not None:
                logits, _ = self._forward(step, mask, positions[:, -1:] + 1, cache)
                largest = max(largest, self._disagreement([[*r, ids[1]] for r in rows], logits))
        if cache is None or not largest <= self._agreement:
            raise EngineUnavailableError(
                f"local: {type(self.model).__name__} answers otherwise in a batch than alone "
                f"(logits differ by {largest:.2g})",
                hint="its architecture does not fit batches with padding and a cache",
            )

    def _disagreement(self, rows: Sequence[Sequence[int]], logits: torch.Tensor) -> float:
        alone = torch.stack([self._alone(row) for row in rows])
        return float((alone - logits).abs().max())

    def _padded(
        self, rows: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids, filled up on the left, mask and positions, each (rows, longest)."""
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(row)
            mask[index, longest - len(row) :] = 1
        return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)

    def run(self, rows: Sequence[Row], deadline: Deadline) -> None:
        """Draw until every row is done, or the deadline comes; fills in the rows.

        Raises what torch raises where memory does not suffice.
        """
        with torch.inference_mode():
            self._run([row for row in rows if not row.done], deadline)

    def _run(self, active: list[Row], deadline: Deadline) -> None:
        if not active:
            return
        generators = {id(row): torch.Generator().manual_seed(row.seed) for row in active}
        ids, mask, positions = self._padded([row.prompt for row in active])
        cache: Any = None
        while True:
            if deadline.expired:
                for row in active:
                    row.error = DeadlineError("local: the deadline came before the answer's end")
                return
            logits, cache = self._forward(ids, mask, positions, cache)
            for index, row in enumerate(active):
                self._take(row, logits[index], generators[id(row)])
            going = [index for index, row in enumerate(active) if not row.done]
            if not going:
                return
            if len(going) < len(active):
                active = [active[index] for index in going]
                chosen = torch.tensor(going)
                mask, positions = mask[chosen], positions[chosen]
                cache.batch_select_indices(chosen.to(self.device))
            ids = torch.tensor([[row.drawn[-1]] for row in active])
            mask = torch.cat([mask, torch.ones((len(active), 1), dtype=torch.long)], 1)
            positions = positions[:, -1:] + 1

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """Raw logits (rows, vocabulary) of the last position in float32 on the CPU; the cache."""
        given: dict[str, Any] = {
            "input_ids": ids.to(self.device),
            "position_ids": positions.to(self.device),
            "use_cache": mask is not None,
        }
        if mask is not None:
            given["attention_mask"] = mask.to(self.device)
        if cache is not None:
            given[self._cache] = cache
        if self._keep:
            given["logits_to_keep"] = 1
        found = self.model(**given)
        return found.logits[:, -1].float().cpu(), getattr(found, self._cache, None)

    def _alone(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits (vocabulary,) after `tokens`, computed from them and nothing else."""
        ids = torch.tensor([tokens])
        return self._forward(ids, None, torch.arange(ids.shape[1])[None], None)[0][0]

    def _take(self, row: Row, logits: torch.Tensor, generator: torch.Generator) -> None:
        """Draw the row's next token and see whether it is the last."""
        # The largest of values with a NaN among them is NaN.
        if not math.isfinite(float(logits.max())):
            row.error = EngineError(
                "local: the model gave no finite logits",
                hint="try another dtype; float16 overflows with some models",
            )
            return
        sampling = row.sampling
        gumbel = noise(logits.numel(), generator) if sampling.temperature else None
        penalty = sampling.repetition_penalty
        seen = None
        if penalty is not None and penalty != 1.0:
            seen = torch.tensor(sorted({*row.prompt, *row.drawn}))
        tolerance = self._tolerance
        found = draw(logits, sampling, seen=seen, gumbel=gumbel, tolerance=tolerance)
        if found.close and tolerance:
            row.checked += 1
            logits = self._alone(row.prompt + row.drawn)
            found = draw(logits, sampling, seen=seen, gumbel=gumbel, tolerance=0.0)
        most = sampling.logprob_tokens
        if sampling.logprobs is not None and (most is None or len(row.logprobs) < most):
            row.logprobs.append(
                (found.token, *token_logprob(logits, found.token, sampling.logprobs))
            )
        row.drawn.append(found.token)
        if found.token in row.ends:
            row.stop = StopReason.END
        elif sampling.stop and self._stopped(row):
            row.stop = StopReason.STOP_TEXT
        elif len(row.drawn) >= row.limit:
            row.stop = StopReason.MAX_TOKENS
