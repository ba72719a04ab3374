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
from interlock.kernel.errors import DeadlineError, EngineError, InterlockError

# Above what batching does to logits in float32 (5e-5 measured), below what separates candidates.
TOLERANCE = 1e-3


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
        # Named `past_key_values` before transformers 5.
        self._cache = "cache" if "cache" in parameters else "past_key_values"
        self._keep = "logits_to_keep" in parameters
        exact = next(model.parameters()).dtype == torch.float32
        self._tolerance = TOLERANCE if exact else 0.0

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
        longest = max(len(row.prompt) for row in active)
        ids = torch.full((len(active), longest), self.pad)
        mask = torch.zeros((len(active), longest), dtype=torch.long)
        for index, row in enumerate(active):
            ids[index, longest - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[index, longest - len(row.prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
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

    def _alone(self, row: Row) -> torch.Tensor:
        """The row's logits (vocabulary,), computed from its tokens and nothing else."""
        ids = torch.tensor([row.prompt + row.drawn])
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
            logits = self._alone(row)
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
