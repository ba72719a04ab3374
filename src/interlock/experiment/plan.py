"""What a run asks: models at their temperatures, prompts, samples, and a seed for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from interlock.engines.chat import ChatRequest, Message, Sampling
from interlock.experiment.config import ExperimentConfig, ModelConfig, parse_config
from interlock.experiment.prompts import Prompt
from interlock.kernel.errors import InputError
from interlock.kernel.journal import Item
from interlock.kernel.replace_file import replace_file

PLAN_SCHEMA = 1

# What a model is loaded from or asked through; another one may answer otherwise.
_ASKED_OPTIONS_LEFT_OUT = frozenset(["api_key", "device", "batch_size"])


@dataclass(frozen=True, slots=True)
class Variant:
    """A model at one temperature. `label` names it in checkpoints, files and keys."""

    label: str
    model: ModelConfig
    temperature: float | None
    sampling: Sampling

    @property
    def prefix(self) -> str:
        """How the keys of its samples begin."""
        return f"{self.label}|"


def variants(config: ExperimentConfig) -> tuple[Variant, ...]:
    """Every model at each of its temperatures, in the order of the configuration."""
    return tuple(
        Variant(
            label=f"{model.label}_temp{'default' if temperature is None else temperature}",
            model=model,
            temperature=temperature,
            sampling=replace(model.sampling, temperature=temperature),
        )
        for model in config.models
        for temperature in model.temperatures
    )


def sample_key(variant: Variant, prompt_id: str, sample: int) -> str:
    """The name of a sample in the journal: `model_temp0.0|prompt_0001|0`."""
    return f"{variant.label}|{prompt_id}|{sample}"


def split_key(key: str) -> tuple[str, str, int]:
    """Label of the variant, id of the prompt and index of the sample."""
    label, _, rest = key.partition("|")
    prompt_id, _, sample = rest.rpartition("|")
    return label, prompt_id, int(sample)


def sample_seed(seed: int, prompt_id: str, sample: int) -> int:
    """A seed of 31 bits for one sample: the same whatever else runs beside it.

    The run's seed, the prompt's id and the index, hashed; models and temperatures share it, so
    that they are compared on the same draws.
    """
    digest = hashlib.blake2b(f"{seed}\0{prompt_id}\0{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def request(variant: Variant, prompt: Prompt, sample: int, seed: int) -> ChatRequest:
    """What the provider is asked for one sample."""
    messages: tuple[Message, ...] = (Message("user", prompt.text),)
    if variant.model.system:
        messages = (Message("system", variant.model.system), *messages)
    return ChatRequest(
        model=variant.model.name,
        messages=messages,
        sampling=replace(variant.sampling, seed=sample_seed(seed, prompt.id, sample)),
        key=sample_key(variant, prompt.id, sample),
    )


def asked_sampling(sampling: Sampling) -> dict[str, Any]:
    """The parameters that were asked for, those left to the provider aside."""
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    found = {name: getattr(sampling, name) for name in names}
    found = {name: value for name, value in found.items() if value is not None}
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    return found


def asked(config: ExperimentConfig) -> dict[str, Any]:
    """What decides the questions and their answers; the rest may change when a run is resumed.

    Limits, retries, timeouts, budgets, batch sizes and notes are left out.
    """
    return {
        "seed": config.seed,
        "samples": config.samples,
        "num_prompts": config.num_prompts,
        "models": {variant.label: _asked(variant) for variant in variants(config)},
    }


def _asked(variant: Variant) -> dict[str, Any]:
    model = variant.model
    options = {
        name: value for name, value in model.options.items() if name not in _ASKED_OPTIONS_LEFT_OUT
    }
    return {
        "name": model.name,
        "type": model.type,
        "system": model.system,
        **msgspec.to_builtins(variant.sampling),
        **options,
    }


def items(config: ExperimentConfig, prompts: Iterable[Prompt]) -> Iterator[Item]:
    """The run's items, one a sample, ordered by variant, prompt and index.

    `prompts` is gone through once a variant. An item's digest covers what is asked; neither the
    prompt's text nor its labels are stored with it.
    """
    for variant in variants(config):
        base = hashlib.sha256(msgspec.json.encode(_asked(variant), order="sorted"))
        for prompt in prompts:
            for sample in range(config.samples):
                digest = base.copy()
                digest.update(f"\0{config.seed}\0{sample}\0{prompt.id}\0{prompt.text}".encode())
                key = sample_key(variant, prompt.id, sample)
                yield Item(key, digest=digest.hexdigest())


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a run beside its journal, in `run_<run_id>.json`.

    config          as it was given, with what the command line replaced; `${NAME}` unreplaced
    prompts_sha256  of the prompts' file, to see at once that it is the same
    num_prompts     prompts of the run, of `total_prompts` in the file
    started         ISO 8601, local time
    """

    run_id: str
    config: dict[str, Any]
    prompts_file: str
    prompts_sha256: str
    num_prompts: int
    total_prompts: int
    started: str
    resumed: bool = False
    schema: int = PLAN_SCHEMA

    def parsed(self) -> ExperimentConfig:
        """The configuration, checked."""
        return parse_config(self.config)


def plan_path(directory: Path, run_id: str) -> Path:
    """Where a run's plan is."""
    return directory / f"run_{run_id}.json"


def write_plan(directory: Path, plan: Plan) -> None:
    """Write the plan in one step; raises StorageError."""
    data = msgspec.json.format(msgspec.json.encode(plan), indent=2)
    replace_file(plan_path(directory, plan.run_id), data + b"\n")


def read_plan(directory: Path, run_id: str) -> Plan:
    """The plan of a run; raises InputError where it is not there or cannot be read."""
    path = plan_path(directory, run_id)
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; the journal beside it holds the run's answers",
            hint="restore the file, or read the journal with `interlock runs export`",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
    if plan.schema > PLAN_SCHEMA:
        raise InputError(
            f"{path} has schema {plan.schema}, this release reads up to {PLAN_SCHEMA}",
            hint="install a newer release of interlock",
        )
    return plan


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How two results of `asked` differ, a line a field; what may be prompt text is not shown."""
    lines = _differ(old, new, "")
    before, after = old["models"], new["models"]
    lines += [f"model '{label}' removed" for label in before if label not in after]
    lines += [f"model '{label}' added" for label in after if label not in before]
    for label in before:
        if label in after:
            lines += _differ(before[label], after[label], f"model '{label}': ")
    return lines


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    lines = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before == after or name == "models":
            continue
        hidden = name in ("system", "stop")
        lines.append(f"{where}{name} " + ("differs" if hidden else f"{before} → {after}"))
    return lines


def describe(plan: Plan, config: Mapping[str, Any]) -> list[str]:
    """What differs between the plan's configuration and `config` and changes no question."""
    old, new = _unasked(plan.config), _unasked(config)
    return [
        f"{name}: {old.get(name, 'not set')} → {new.get(name, 'not set')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _unasked(config: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "requests_per_minute",
        "tokens_per_minute",
        "burst_size",
        "concurrency",
        "timeout",
        "max_retries",
        "retry_timeouts",
        "budget_usd",
        "batch_size",
    )
    return {name: config[name] for name in names if config.get(name) is not None}
