"""Local models: what a batch buys, and whether it changes a text.

    python bench/local_chat.py [--prompts FILE] [--count N] [--tokens N]

SmolLM2-135M (`make model-torch`) answers the same prompts alone, in threes and in eights, greedily
and sampled, in turns of eight prompts, so that a busy machine slows all alike. FILE is a benchmark
of the experiments' schema; without it, questions about vulnerabilities are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

# Pins threads; before torch.
from measure import bar, machine

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from interlock.engines.chat import ChatAnswer, ChatRequest, Message, Sampling
from interlock.engines.huggingface import LocalOptions, LocalProvider
from interlock.kernel.clock import NO_DEADLINE
from interlock.kernel.intervals import wilson_interval

SIZES = (1, 3, 8)
TURN = 8


def made_prompts(count: int) -> list[str]:
    """Questions of different lengths."""
    kinds = (
        "Does {} exist in the National Vulnerability Database?",
        "Describe {} in two sentences.",
    )
    detail = (
        " Name the affected product, the attack vector and the severity, and say what is unsure."
    )
    return [
        kinds[n % 2].format(f"CVE-{2015 + n % 10}-{10000 + 317 * n}") + detail * (n % 3)
        for n in range(count)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=40)
    given = parser.parse_args()
    prompts = made_prompts(given.count)
    if given.prompts is not None:
        entries = json.loads(given.prompts.read_text(encoding="utf-8"))["prompts"]
        step = max(1, len(entries) // given.count)
        prompts = [entry["prompt"] for entry in entries[::step]][: given.count]
    provider = LocalProvider(LocalOptions(model_path="smollm2", device="cpu"), Path())
    provider.capabilities("smollm2")
    import torch

    torch.set_num_threads(1)
    print(machine(("torch", "transformers")))
    for name, temperature in (("greedy", 0.0), ("sampled, temperature 0.8", 0.8)):
        answers: dict[int, list[ChatAnswer]] = {size: [] for size in SIZES}
        ratios: list[float] = []
        seconds = dict.fromkeys(SIZES, 0.0)
        for start in range(0, len(prompts), TURN):
            requests = [
                ChatRequest(
                    "smollm2",
                    (Message("user", prompts[n]),),
                    Sampling(max_tokens=given.tokens, temperature=temperature, seed=n, logprobs=5),
                )
                for n in range(start, min(start + TURN, len(prompts)))
            ]
            spent = {}
            for size in SIZES:
                begin = time.process_time()
                for first in range(0, len(requests), size):
                    found = provider.answer_batch(
                        requests[first : first + size], deadline=NO_DEADLINE
                    )
                    answers[size] += [each for each in found if isinstance(each, ChatAnswer)]
                spent[size] = time.process_time() - begin
                seconds[size] += spent[size]
            if len(requests) == TURN:
                ratios.append(spent[1] / spent[TURN])
        report(name, answers, ratios, seconds, len(prompts))


def report(
    name: str,
    answers: dict[int, list[ChatAnswer]],
    ratios: list[float],
    seconds: dict[int, float],
    count: int,
) -> None:
    """Print the figures of one way of drawing."""
    print(f"\n{name}: {count} prompts")
    for size in SIZES:
        tokens = sum(answer.usage.output or 0 for answer in answers[size])
        print(f"  batches of {size}: {tokens / seconds[size]:.1f} tokens a CPU second")
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"  batch 8 over batch 1: {middle:.2f} (quartiles {low:.2f} … {high:.2f})")
    print("  " + bar("batch 8 over batch 1", middle, 2.5, at_least=True))
    same = 0
    largest = 0.0
    for row in zip(*(answers[size] for size in SIZES), strict=True):
        same += len({answer.text for answer in row}) == 1
        for tokens_of in zip(*(answer.logprobs or () for answer in row), strict=False):
            if len({token.token for token in tokens_of}) > 1:
                break
            values = [token.logprob for token in tokens_of]
            largest = max(largest, max(values) - min(values))
    interval = wilson_interval(same, count)
    print(f"  same text in every batch: {same} of {count}, 95% interval from {interval[0]:.4f}")
    print("  " + bar("share of same texts", same / count, 0.99, at_least=True))
    print("  " + bar("largest difference of a logprob", largest, 1e-3))


if __name__ == "__main__":
    main()
