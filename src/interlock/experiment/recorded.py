"""Results as the journal keeps them, and back.

A recorded value holds what cannot be told from the run's plan: the text, the stop reason, usage,
times, and what of the sampling was not as asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from interlock.experiment.asked_prompts import AskedPrompts, prompts_path
from interlock.experiment.plan import (
    Plan,
    Variant,
    asked_sampling,
    read_plan,
    sample_seed,
    split_key,
    variants,
)
from interlock.experiment.records import PromptResult
from interlock.kernel.errors import RunNotFoundError
from interlock.kernel.journal import Journal
from interlock.kernel.outcome import Evidence, Outcome, Status, Step, StepResult

_STEP_RESULTS = {
    Status.ACCEPTED: StepResult.ACCEPTED,
    Status.FLAGGED: StepResult.FLAGGED,
    Status.REFUSED: StepResult.REFUSED,
    Status.FAILED: StepResult.ERROR,
}
# short name in the journal -> field, where it is not the field's default
_VALUE = {
    "t": "full_response",
    "st": "stop_reason",
    "rs": "raw_stop",
    "v": "model_version",
    "at": "timestamp",
    "c": "cost_usd",
    "u": "uncertain_usd",
    "id": "request_id",
    "ap": "applied_sampling",
    "na": "not_applied",
    "td": "token_details",
    "lp": "token_logprobs",
}
_TOKENS = ("input", "output", "total")


def outcome_of(result: PromptResult) -> Outcome[Any]:
    """The result as the journal keeps it; its step's reason says why it is not simply accepted."""
    status = Status(result.status)
    kept: dict[str, Any] = {
        short: value for short, name in _VALUE.items() if (value := getattr(result, name))
    }
    if result.cost_usd is not None:
        # Free is not the same as unknown.
        kept["c"] = result.cost_usd
    if kept.get("v") == result.model:
        del kept["v"]
    kept["n"] = [result.tokens_used.get(name) for name in _TOKENS]
    step = Step(
        "chat",
        StepResult.OVER_TIME if result.error_type == "deadline" else _STEP_RESULTS[status],
        reason=result.error_type or result.flag or "",
        seconds=round(result.elapsed_seconds, 4),
        attempts=1 + result.retry_count,
    )
    if status.usable:
        return Outcome(status, value=kept, steps=(step,))
    # What has no answer carries no value, so its circumstances go with the step.
    kept.pop("t", None)
    detail: dict[str, Any] = {
        name: value if isinstance(value, str | int | float) else msgspec.json.encode(value).decode()
        for name, value in kept.items()
    }
    detail["e"] = result.error or ""
    if result.error_detail:
        detail["ed"] = result.error_detail
    step = msgspec.structs.replace(step, evidence=(Evidence(by="chat", detail=detail),))
    return Outcome(status, steps=(step,), action="record")


def result_of(
    key: str,
    outcome: Outcome[Any],
    variant: Variant,
    plan: Plan,
    *,
    seed: int,
    category: str = "",
    synthetic: bool = False,
) -> PromptResult:
    """The result that `outcome_of` recorded under `key`."""
    _, prompt_id, sample = split_key(key)
    step = outcome.steps[-1] if outcome.steps else Step("chat", StepResult.ERROR)
    kept: dict[str, Any]
    if outcome.status.usable and isinstance(outcome.value, dict):
        kept = outcome.value
    else:
        kept = dict(step.evidence[0].detail) if step.evidence else {}
        for name in ("n", "ap", "na", "td", "lp"):
            if isinstance(kept.get(name), str):
                kept[name] = msgspec.json.decode(kept[name])
    result = PromptResult(
        prompt_id=prompt_id,
        model=variant.model.name,
        full_response="",
        tokens_used=dict(zip(_TOKENS, kept.get("n", (0, 0, 0)), strict=True)),
        model_version=variant.model.name,
        sampling_params=requested(variant, seed),
        elapsed_seconds=step.seconds,
        run_id=plan.run_id,
        prompt_category=category,
        is_synthetic_probe=synthetic,
        retry_count=max(0, step.attempts - 1),
        variant=variant.label,
        sample_index=sample,
        seed=sample_seed(seed, prompt_id, sample),
        status=outcome.status.value,
    )
    if outcome.status.usable:
        sampling = replace(variant.sampling, seed=result.seed)
        left_out = kept.get("na", {})
        result.applied_sampling = {
            name: value for name, value in asked_sampling(sampling).items() if name not in left_out
        }
    for short, name in _VALUE.items():
        if short in kept:
            setattr(result, name, kept[short])
    if not outcome.status.usable:
        result.error_type = step.reason or "engine"
        result.error = kept.get("e") or f"Failed: {result.error_type}"
        result.error_detail = kept.get("ed")
    elif outcome.status is Status.FLAGGED:
        result.flag = step.reason
    return result


def requested(variant: Variant, seed: int) -> dict[str, Any]:
    """The sampling parameters that were asked for, as result files have them."""
    sampling = variant.sampling
    found: dict[str, Any] = {
        "temperature": sampling.temperature,
        "seed": seed,
        "max_tokens": sampling.max_tokens,
    }
    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        if getattr(sampling, name) is not None:
            found[name] = getattr(sampling, name)
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    return found


def timestamp(moment: datetime) -> str:
    """A time as result files have it: ISO 8601 with microseconds, without a zone."""
    return moment.astimezone().replace(tzinfo=None).isoformat(timespec="microseconds")


def latest_run(journal: Journal) -> str:
    """The id of the run that was created last; raises RunNotFoundError."""
    runs = journal.runs()
    if not runs:
        raise RunNotFoundError(f"there is no run in {journal.path}")
    return runs[-1].run_id


def read_journal(path: Path, *, run_id: str | None = None) -> Iterator[PromptResult]:
    """The results of a run in a run directory's journal, in the order of the run."""
    with Journal.open(path, create=False) as journal:
        chosen = latest_run(journal) if run_id is None else run_id
        journal.info(chosen)
        plan = read_plan(path.parent, chosen)
        yield from run_results(journal, plan, path.parent)


def run_results(
    journal: Journal, plan: Plan, directory: Path, only: Variant | None = None
) -> Iterator[PromptResult]:
    """The results of one run, or of one variant of it, page by page."""
    config = plan.parsed()
    known = {variant.label: variant for variant in variants(config)}
    prompts = AskedPrompts(prompts_path(directory, plan.run_id))
    try:
        prefix = "" if only is None else only.prefix
        for key, outcome in journal.outcomes(plan.run_id, prefix):
            label, prompt_id, _ = split_key(key)
            prompt = prompts[prompt_id]
            yield result_of(
                key,
                outcome,
                known[label],
                plan,
                seed=config.seed,
                category=prompt.category,
                synthetic=prompt.is_synthetic,
            )
    finally:
        prompts.close()
