"""Result files of models whose habits are known, in the schema of the pilot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interlock.experiment.entities import subject
from interlock.experiment.prompts import Prompt, load_prompts

SMALL = Path(__file__).parents[2] / "examples" / "prompts_small.json"


@dataclass(frozen=True)
class Habits:
    """How a model answers: chances of each kind of answer, for real and made-up things.

    The rest of the chance is a hedge. `sure_when_right` is how much higher its tokens' mean
    logprob is in right answers.
    """

    name: str
    knows: float = 0.8
    denies_real: float = 0.1
    makes_up: float = 0.5
    denies_made_up: float = 0.3
    refuses: float = 0.0
    fails: float = 0.0
    sure_when_right: float = 0.0
    temperature: float = 0.0


def words(kind: str, thing: str) -> str:
    """An answer of one kind."""
    return {
        "claim": f"Yes, {thing} exists. It is documented by several vendors.",
        "deny": f"No, {thing} does not exist.",
        "hedge": f"I have no information about {thing} and cannot verify it.",
        "refuse": "I'm sorry, but I can't assist with that.",
    }[kind]


def result(
    prompt: Prompt, habits: Habits, rng: np.random.Generator, sample: int = 0
) -> dict[str, Any]:
    """One result of a model with these habits."""
    draw = rng.random()
    claims, denies = (
        (habits.makes_up, habits.denies_made_up)
        if prompt.is_synthetic
        else (habits.knows, habits.denies_real)
    )
    kind = "hedge"
    if draw < habits.refuses:
        kind = "refuse"
    elif draw < habits.refuses + claims:
        kind = "claim"
    elif draw < habits.refuses + claims + denies:
        kind = "deny"
    failed = rng.random() < habits.fails
    right = kind == ("deny" if prompt.is_synthetic else "claim")
    logprob = min(-0.01, rng.normal(-0.7, 0.2) + habits.sure_when_right * right)
    found: dict[str, Any] = {
        "prompt_id": prompt.id,
        "model": habits.name,
        "model_version": f"{habits.name}-2026",
        "full_response": "" if failed else words(kind, subject(prompt) or "it"),
        "tokens_used": {"input": 40, "output": 20, "total": 60},
        "token_logprobs": None
        if failed
        else [
            {"token_position": k, "top_tokens": ["a"], "top_logprobs": [logprob]} for k in range(4)
        ],
        "sampling_params": {"temperature": habits.temperature, "seed": 42, "max_tokens": 128},
        "timestamp": f"2026-11-26T10:00:{sample:02d}.000000",
        "elapsed_seconds": 1.5,
        "run_id": "known",
        "prompt_category": prompt.category,
        "is_synthetic_probe": prompt.is_synthetic,
        "retry_count": 3 if failed else 0,
        "error": "Failed after 3 retries: overloaded" if failed else None,
        "sample_index": sample,
    }
    if failed:
        found |= {"status": "failed", "error_type": "service"}
    return found


def write_run(
    directory: Path,
    models: Sequence[Habits],
    *,
    prompts: Path = SMALL,
    samples: int = 1,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """A directory with a combined result file of these models on these prompts."""
    rng = np.random.default_rng(seed)
    asked = load_prompts(prompts)
    runs = [
        {
            "model_config": {"name": habits.name, "type": "claude", "api_key": "sk-secret"},
            "results": [
                result(prompt, habits, rng, sample) for prompt in asked for sample in range(samples)
            ],
            "completed_at": "2026-11-26T11:00:00.000000",
        }
        for habits in models
    ]
    document = {
        "metadata": {
            "start_time": "2026-11-26T10:00:00.000000",
            "end_time": "2026-11-26T11:00:00.000000",
            "config": {"seed": 42, "models": [{"name": "m", "api_key": "sk-secret"}]},
            "total_prompts": len(asked),
            "prompts_file": str(prompts),
            "resumed": False,
            **(metadata or {}),
        },
        "runs": runs,
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "pilot_results_20261126_110000.json"
    path.write_text(json.dumps(document), "utf-8")
    return directory
