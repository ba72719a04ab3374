"""What a run will cost, before it costs anything; and what a run has cost so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from interlock.experiment.asked_prompts import AskedPrompts
from interlock.experiment.plan import Variant
from interlock.experiment.prices import BYTES_A_TOKEN, EXPECTED_OUTPUT, MILLION, OVERHEAD, Price


@dataclass(frozen=True, slots=True)
class Estimate:
    """US dollars of all samples of one variant, None where the price is not known.

    expected  with four bytes a token and 400 tokens of answer, or `max_tokens` where that is less
    worst     with a token a byte and all of `max_tokens`
    sample    the worst case of the longest prompt, once
    """

    label: str
    samples: int
    expected: float | None
    worst: float | None
    sample: float | None


def estimate(
    variants: Sequence[Variant],
    prices: Sequence[Price | None],
    prompts: AskedPrompts,
    samples: int,
) -> list[Estimate]:
    """The estimate of each variant, for `samples` samples of every prompt."""
    return [
        _estimate(variant, price, prompts, samples)
        for variant, price in zip(variants, prices, strict=True)
    ]


def _estimate(
    variant: Variant, price: Price | None, prompts: AskedPrompts, samples: int
) -> Estimate:
    count = len(prompts) * samples
    if price is None:
        return Estimate(variant.label, count, None, None, None)
    system = len((variant.model.system or "").encode())
    read = prompts.bytes * samples + count * system
    longest = variant.sampling.max_tokens
    expected = read / BYTES_A_TOKEN * price.input
    expected += count * min(longest, EXPECTED_OUTPUT) * price.output
    worst = (read + count * OVERHEAD) * price.input + count * longest * price.output
    sample = (prompts.longest + system + OVERHEAD) * price.input + longest * price.output
    return Estimate(variant.label, count, expected / MILLION, worst / MILLION, sample / MILLION)


class _Cost(msgspec.Struct):
    c: float | None = None
    u: float | None = None


class _Evidence(msgspec.Struct):
    detail: _Cost = msgspec.field(default_factory=_Cost)


class _Step(msgspec.Struct):
    evidence: list[_Evidence] = []


class _Outcome(msgspec.Struct):
    status: str
    value: _Cost | None = None
    steps: list[_Step] = []


@dataclass
class SoFar:
    """What earlier starts of a run recorded: samples by variant, and US dollars."""

    done: dict[str, int]
    counts: dict[str, int]
    spent: float = 0.0
    uncertain: float = 0.0


def so_far(stored: Iterator[tuple[str, bytes]], labels: Sequence[str]) -> SoFar:
    """Add up the outcomes that `Journal.stored` gives, without building them."""
    found = SoFar(dict.fromkeys(labels, 0), {})
    decode = msgspec.json.Decoder(_Outcome).decode
    for key, outcome in stored:
        read = decode(outcome)
        label = key.partition("|")[0]
        found.done[label] = found.done.get(label, 0) + 1
        found.counts[read.status] = found.counts.get(read.status, 0) + 1
        cost = read.value
        if cost is None and read.steps and read.steps[-1].evidence:
            cost = read.steps[-1].evidence[0].detail
        if cost is not None:
            found.spent += cost.c or 0.0
            found.uncertain += cost.u or 0.0
    return found
