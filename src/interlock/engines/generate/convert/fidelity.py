"""How far quantized weights are from float32, measured before anything is published.

Both graphs read the same text in windows, and the distributions of the next token are compared
position by position: the mean Kullback-Leibler divergence D(float32 || quantized), and the share of
positions with the same most likely token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interlock.engines.generate.convert.checkpoint import Architecture, SourceError
from interlock.engines.generate.convert.graph import BuiltGraph, cache_names, with_all_logits
from interlock.engines.generate.sampling import Floats, log_sums
from interlock.engines.generate.spec import Fidelity
from interlock.engines.generate.tokenizer import Tokenizer
from interlock.engines.onnx import create_session
from interlock.kernel.errors import BundleContractError
from interlock.kernel.intervals import wilson_interval

MOST_KL = 0.01
LEAST_TOP1 = 0.92
_WINDOW = 128
_TEXT = Path(__file__).with_name("fidelity_text.txt")


def measure(
    reference: BuiltGraph,
    candidate: BuiltGraph,
    architecture: Architecture,
    tokenizer: Tokenizer,
) -> Fidelity:
    """The fidelity of `candidate` on the text that lies beside this file.

    Raises SourceError where the tokenizer makes nothing of the text.
    """
    data = _TEXT.read_bytes()
    tokens = tokenizer.encode(data.decode("utf-8"))
    if not tokens:
        raise SourceError("the tokenizer makes no token of a text")
    window = min(_WINDOW, architecture.context - 1)
    windows = [tokens[at : at + window] for at in range(0, len(tokens), window)]
    expected = _Reader(reference, architecture)
    actual = _Reader(candidate, architecture)
    divergence, same, positions = 0.0, 0, 0
    for part in windows:
        one, other = expected.logits(part), actual.logits(part)
        divergence += float(_divergence(one, other).sum())
        same += int((one.argmax(axis=1) == other.argmax(axis=1)).sum())
        positions += len(part)
    low, high = wilson_interval(same, positions)
    return Fidelity(
        kl=divergence / positions,
        top1=same / positions,
        top1_low=low,
        top1_high=high,
        positions=positions,
        text=hashlib.sha256(data).hexdigest(),
    )


def check(fidelity: Fidelity) -> None:
    """Raise BundleContractError where the weights lost too much."""
    if fidelity.kl <= MOST_KL and fidelity.top1 >= LEAST_TOP1:
        return
    raise BundleContractError(
        f"the converted weights are too far from the source's: KL {fidelity.kl:.4f} "
        f"(at most {MOST_KL:g}), same top token {fidelity.top1:.1%} (at least {LEAST_TOP1:.0%}), "
        f"{fidelity.positions} positions",
        hint="--weights fp32 keeps everything; --accept-fidelity takes the loss",
    )


class _Reader:
    """Logits of every position of a text, from a graph with its cache left empty."""

    def __init__(self, model: BuiltGraph, architecture: Architecture) -> None:
        data = with_all_logits(model.proto).SerializeToString()
        self._session: Any = create_session(data, tensors=model.tensors)
        empty = np.zeros((1, architecture.kv_heads, 0, architecture.head_size), np.float32)
        self._cache = dict.fromkeys(cache_names(architecture.layers)[0], empty)

    def logits(self, tokens: Sequence[int]) -> Floats:
        """(tokens, vocabulary) float32."""
        inputs = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            **self._cache,
        }
        found: list[Floats] = self._session.run(["logits"], inputs)[0]
        return found[0]


def _divergence(one: Floats, other: Floats) -> Floats:
    """D(one || other) of each row of logits, in nats."""
    expected = one - log_sums(one)[:, None]
    actual = other - log_sums(other)[:, None]
    found: Floats = np.sum(np.exp(expected) * (expected - actual), axis=1)
    return found
