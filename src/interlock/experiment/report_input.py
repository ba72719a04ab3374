"""All that a report is made of: a run's results, its prompts, and what was run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from interlock.experiment.prompts import Prompt, load_prompts
from interlock.experiment.records import JOURNAL_NAME, PromptResult, read_results
from interlock.kernel.errors import InputError

_USER = re.compile(r"(\w://)[^/@\s]+@")

MISSING = "missing"
"""`error_type` of a sample that should be there and is not."""
_SECRET = ("key", "token", "secret", "password", "authorization")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What was run; None or empty where the files do not say."""

    name: str
    run_id: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    prompts_file: str = ""
    prompts_sha256: str | None = None
    num_prompts: int = 0
    total_prompts: int | None = None
    samples: int = 1
    started: str | None = None
    ended: str | None = None
    variants: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)
    """Name -> model and temperature, of those that were to be asked, in order."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A run's results, ordered by variant, prompt and sample.

    prompts   those asked, in the benchmark's order
    variants  names in the order of the run
    results   one a variant, prompt and sample; those that are missing stand here as failed, with
              the error type "missing"
    unknown   ids of results whose prompt is not among the prompts; they are left out
    """

    facts: RunFacts
    prompts: Mapping[str, Prompt]
    variants: tuple[str, ...]
    results: tuple[PromptResult, ...]
    unknown: tuple[str, ...] = ()


def variant_of(result: PromptResult) -> str:
    """The name of what answered: the variant's, else model and temperature."""
    if result.variant:
        return result.variant
    return f"{result.model}_temp{result.sampling_params.get('temperature', 'default')}"


def load_answers(
    source: Path | str, *, prompts: Path | str | None = None, run_id: str | None = None
) -> Answers:
    """Read a run directory, or a result file as the pilot writes it.

    prompts  the benchmark, where the directory does not hold the prompts that were asked; without
             it the file that the results name is tried

    run_id   a run of the directory other than its latest

    Raises InputError where there are no results, no prompts for them, or no journal that `run_id`
    could be in, RunNotFoundError where it is not in the journal.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"there is no run directory or result file at {source}")
    if source.is_dir() and (source / JOURNAL_NAME).exists():
        facts, asked = _journalled(source, run_id)
    elif run_id is not None:
        raise InputError(f"{source} has no {JOURNAL_NAME} with the run {run_id!r}")
    else:
        facts, asked = _from_files(source, prompts)
    if prompts is not None:
        asked = _overlay(asked, load_prompts(prompts))
    return gather(read_results(source, run_id=run_id), asked, facts)


def gather(results: Iterable[PromptResult], prompts: Iterable[Prompt], facts: RunFacts) -> Answers:
    """Order results, and add the missing ones; raises InputError where nothing is left."""
    asked = {prompt.id: prompt for prompt in prompts}
    # A model that has no result yet is a part of the run all the same.
    kept: dict[str, dict[tuple[str, int], PromptResult]] = {name: {} for name in facts.variants}
    unknown: dict[str, None] = {}
    last: dict[tuple[str, str], int] = {}
    for result in results:
        if result.prompt_id not in asked:
            unknown[result.prompt_id] = None
            continue
        name = variant_of(result)
        key = (name, result.prompt_id)
        # Files of the pilot have no index: a prompt that occurs again is its next sample.
        sample = result.sample_index
        found = kept.setdefault(name, {})
        if (result.prompt_id, sample) in found:
            sample = last[key] + 1
            result.sample_index = sample
        last[key] = max(sample, last.get(key, -1))
        found[result.prompt_id, sample] = result
    if not last:
        raise InputError(
            f"{facts.name} holds no result"
            + (f" whose prompt is known; {len(unknown)} are unknown" if unknown else ""),
            hint="give the benchmark that was asked with --prompts",
        )
    samples = max([facts.samples, *(sample + 1 for sample in last.values())])
    ordered = []
    for name, found in kept.items():
        like = next(iter(found.values()), None) or _unasked(*facts.variants[name])
        for prompt in asked.values():
            for sample in range(samples):
                result = found.get((prompt.id, sample)) or _missing(like, prompt, name, sample)
                ordered.append(result)
    return Answers(facts, asked, tuple(kept), tuple(ordered), tuple(unknown))


def _unasked(model: str, temperature: float | None) -> PromptResult:
    sampling = {"temperature": temperature}
    return PromptResult("", model, "", {}, sampling_params=sampling)


def _missing(like: PromptResult, prompt: Prompt, variant: str, sample: int) -> PromptResult:
    return PromptResult(
        prompt_id=prompt.id,
        model=like.model,
        full_response="",
        tokens_used={},
        sampling_params=like.sampling_params,
        run_id=like.run_id,
        error="no result was recorded",
        prompt_category=prompt.category,
        is_synthetic_probe=prompt.is_synthetic,
        variant=variant,
        sample_index=sample,
        status="failed",
        error_type=MISSING,
    )


def _journalled(directory: Path, run_id: str | None) -> tuple[RunFacts, list[Prompt]]:
    from interlock.experiment.asked_prompts import AskedPrompts, prompts_path
    from interlock.experiment.plan import read_plan, variants
    from interlock.experiment.recorded import latest_run
    from interlock.kernel.journal import Journal

    with Journal.open(directory / JOURNAL_NAME, create=False) as journal:
        chosen = latest_run(journal) if run_id is None else journal.info(run_id).run_id
    plan = read_plan(directory, chosen)
    config = plan.parsed()
    asked = AskedPrompts(prompts_path(directory, chosen))
    try:
        prompts = list(asked)
    finally:
        asked.close()
    return (
        RunFacts(
            name=directory.resolve().name,
            run_id=plan.run_id,
            config=without_secrets(plan.config),
            prompts_file=Path(plan.prompts_file).name,
            prompts_sha256=plan.prompts_sha256,
            num_prompts=plan.num_prompts,
            total_prompts=plan.total_prompts,
            samples=config.samples,
            started=plan.started,
            variants={v.label: (v.model.name, v.temperature) for v in variants(config)},
        ),
        prompts,
    )


def _from_files(source: Path, prompts: Path | str | None) -> tuple[RunFacts, list[Prompt]]:
    """Facts and prompts of a directory or file without a journal."""
    files = [source]
    if source.is_dir():
        files = sorted(source.glob("pilot_results_*.json"))[-1:] or sorted(
            source.glob("pilot_*.json")
        )
    metadata: dict[str, Any] = {}
    for file in files:
        try:
            document = msgspec.json.decode(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        found = document.get("metadata") if isinstance(document, dict) else None
        metadata |= found if isinstance(found, dict) else {}
    named = metadata.get("prompts_file")
    asked: list[Prompt] = []
    if prompts is None:
        places = [Path(named), source.parent / Path(named).name] if isinstance(named, str) else []
        place = next((path for path in places if path.is_file()), None)
        if place is None:
            raise InputError(
                f"{source} does not hold the prompts that were asked",
                hint="give the benchmark that was asked with --prompts",
            )
        prompts = place
    asked = load_prompts(prompts)
    config = metadata.get("config")
    total = metadata.get("total_prompts")
    facts = RunFacts(
        name=source.resolve().name,
        config=without_secrets(config) if isinstance(config, dict) else {},
        prompts_file=Path(prompts).name,
        num_prompts=total if isinstance(total, int) else len(asked),
        total_prompts=len(asked),
        started=_text(metadata.get("start_time")),
        ended=_text(metadata.get("end_time")),
    )
    if facts.num_prompts < len(asked):
        # A part of the file was asked; which one is told by the results alone.
        met = {result.prompt_id for result in read_results(source)}
        asked = [prompt for prompt in asked if prompt.id in met]
    return facts, asked


def _overlay(asked: Iterable[Prompt], given: Iterable[Prompt]) -> list[Prompt]:
    """The prompts that were asked, with the labels of a benchmark that was corrected since."""
    corrected = {prompt.id: prompt for prompt in given}
    return [
        corrected[p.id] if p.id in corrected and corrected[p.id].text == p.text else p
        for p in asked
    ]


def without_secrets(value: Any, name: str = "") -> Any:
    """A configuration without what may be a key; `${NAME}` stays, which is none."""
    match value:
        case dict():
            return {key: without_secrets(item, str(key)) for key, item in value.items()}
        case list():
            return [without_secrets(item, name) for item in value]
        case str() if _is_secret(name) and not (value.startswith("${") and value.endswith("}")):
            return "(hidden)"
        case str():
            return _USER.sub(r"\1(hidden)@", value)
    return value


def _is_secret(name: str) -> bool:
    lowered = name.lower().replace("-", "_")
    return any(lowered == word or lowered.endswith("_" + word) for word in _SECRET)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
