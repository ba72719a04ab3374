"""An experiment's configuration: JSON with `//` comments, every mistake named before work starts.

A value may hold `${NAME}`, which stands for an environment variable. It is replaced only where the
value is used, and what is recorded or written keeps the name: a key never reaches the disk.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interlock.engines.chat import Sampling
from interlock.experiment.prompts import is_unicode
from interlock.kernel.errors import ConfigError, InputError

DEFAULT_SEED = 42
DEFAULT_RETRIES = 3
DEFAULT_MAX_TOKENS = 2048
DEFAULT_TIMEOUT = 120.0
LOCAL_LOGPROBS = 5

_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*')
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Names of fields whose values are secrets, whatever the provider.
_KEY = re.compile(
    r"(?i)(api[-_]?key|secret|password|passwd|credential|authorization|(access|auth|bearer)[-_]?"
    r"token|^token$)"
)
_CREDENTIALS = re.compile(r"://[^/?#@]*[^/?#@:][^/?#@]*@|[?&](key|api[-_]?key|token)=[^&#]", re.I)
_LABEL = re.compile(r"[^|\x00-\x1f]+")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One entry of `models`.

    name, type        as the service or the directory calls it; which provider answers
    temperatures      one run of all prompts for each; None leaves it to the provider
    sampling          what is the same for all of them
    system            the system prompt, None for none
    label             stands for the model in file names and checkpoints where two share a name
    account           models that share a name here share their limits
    limits            requests_per_minute, tokens_per_minute, burst_size and concurrency
    timeout           seconds that one call may take in all; None for 120 from a service, and for
                      no limit on this machine
    batch_size        samples that a model on this machine answers together
    options           what else its provider takes: api_key, base_url, device, model_path, …
    entry             as it stands in the configuration, for result files
    """

    name: str
    type: str
    temperatures: tuple[float | None, ...]
    sampling: Sampling
    system: str | None
    label: str
    account: str
    limits: Mapping[str, float]
    timeout: float | None
    batch_size: int
    options: Mapping[str, Any]
    entry: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """A whole configuration, checked. `raw` is as it was given, `${NAME}` unreplaced."""

    prompts_file: str | None
    output_dir: str | None
    num_prompts: int | None
    samples: int
    seed: int
    max_retries: int
    retry_timeouts: bool
    budget_usd: float | None
    prices_file: str | None
    on_not_applied: str
    models: tuple[ModelConfig, ...]
    raw: Mapping[str, Any] = field(repr=False)


def expand(text: str, what: str) -> str:
    """`text` with each `${NAME}` replaced; raises ConfigError for one that is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "")
        if not found:
            raise ConfigError(
                f"{what}: the environment variable {match[1]} is not set",
                hint=f"export {match[1]}=…",
            )
        return found

    return _VARIABLE.sub(value, text)


def expand_all(value: Any, what: str) -> Any:
    """`expand` for every text within a JSON value."""
    match value:
        case str():
            return expand(value, what)
        case dict():
            return {name: expand_all(item, f"{what}.{name}") for name, item in value.items()}
        case list():
            return [expand_all(item, f"{what}[{at}]") for at, item in enumerate(value)]
    return value


def load_config(path: Path | str) -> dict[str, Any]:
    """The JSON object of a file, comments left out; raises ConfigError with line and column."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"config {path} cannot be read: {error.strerror or error}",
            hint="give the path of a configuration with --config",
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"config {path} is not UTF-8 text") from None
    return parse_json(text, f"config {path}")


def parse_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object with `//` comments; one inside a string stays, and so do line numbers."""
    bare = _COMMENT.sub(lambda match: match[1] or "", text)
    try:
        value = json.loads(bare, object_pairs_hook=lambda pairs: _unique(pairs, what))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{what} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise ConfigError(f"{what} is nested too deeply") from None
    except ConfigError:
        raise
    except ValueError:
        # Python reads whole numbers up to a length alone.
        raise ConfigError(f"{what} holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{what} holds {_kind(value)}; it must be an object")
    return value


def _unique(pairs: Sequence[tuple[str, Any]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"{what}: '{name}' is there twice")
        found[name] = value
    return found


# What may stand where. A check returns what is wrong with a value, or None.

Check = Callable[[Any], str | None]


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is {_kind(value)}; it must be text"
    return None if value.strip() else "is empty"


def _any_text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"is {_kind(value)}; it must be text"


def _truth(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"is {_kind(value)}; it must be true or false"


def _object(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"is {_kind(value)}; it must be an object"


_MOST = 10**300
"""Of whole numbers, which JSON does not bound; a larger one is no float."""


def _number(least: float, most: float = math.inf, *, whole: bool = False) -> Check:
    def check(value: Any) -> str | None:
        kind = "a whole number" if whole else "a number"
        fits = isinstance(value, int) if whole else isinstance(value, int | float)
        if isinstance(value, int) and abs(value) > _MOST:
            return f"is too large; it must be {kind}"
        if isinstance(value, bool) or not fits or not math.isfinite(value):
            return f"is {_kind(value)}; it must be {kind}"
        if not least <= value <= most:
            end = f" … {most:g}" if most < math.inf else " or more"
            return f"is {value}; it must be {least:g}{end}"
        return None

    return check


def _or_list(one: Check) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return one(value)
        if not value:
            return "is an empty array"
        return next((problem for problem in map(one, value) if problem), None)

    return check


def _one_of(*names: str) -> Check:
    def check(value: Any) -> str | None:
        return None if value in names else f"is {_kind(value)}; it must be {' or '.join(names)}"

    return check


_LEAST = 1e-6
_LIMITS: dict[str, Check] = {
    "requests_per_minute": _number(_LEAST),
    "tokens_per_minute": _number(_LEAST),
    "burst_size": _number(1),
    "concurrency": _number(1, 10_000, whole=True),
}
_SAMPLING: dict[str, Check] = {
    "max_tokens": _number(1, whole=True),
    "top_p": _number(0, 1),
    "top_k": _number(1, whole=True),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(0.01, 100),
    "stop": _or_list(_text),
    "logprobs": _number(0, 100, whole=True),
    "logprob_tokens": _number(1, whole=True),
}
# For the whole experiment, or for one model alone.
_SHARED: dict[str, Check] = {
    **_LIMITS,
    **_SAMPLING,
    "system": _any_text,
    "timeout": _number(0.001),
    "batch_size": _number(1, 4096, whole=True),
}
_TOP: dict[str, Check] = {
    "description": _any_text,
    "prompts_file": _text,
    "output_dir": _text,
    "num_prompts": _number(1, whole=True),
    "samples": _number(1, 100_000, whole=True),
    "seed": _number(0, 2**31 - 1, whole=True),
    "max_retries": _number(0, 100, whole=True),
    "retry_timeouts": _truth,
    "budget_usd": _number(0),
    "prices_file": _text,
    "on_not_applied": _one_of("record", "refuse"),
    **_SHARED,
}
_PROVIDER_TEXTS = ("api_key", "base_url", "device", "model_path", "dtype")
_MODEL: dict[str, Check] = {
    "name": _text,
    "type": _text,
    "temperature": _or_list(_number(0, 2)),
    "notes": _any_text,
    "label": _text,
    "account": _text,
    "options": _object,
    **dict.fromkeys(_PROVIDER_TEXTS, _text),
    **_SHARED,
}


def parse_config(raw: Mapping[str, Any]) -> ExperimentConfig:
    """The checked configuration; raises ConfigError that lists every mistake by its field."""
    problems = list(_no_text(raw, ""))
    if problems:
        # Alone, since such a text can neither be written nor shown.
        raise _listed(problems)
    problems = list(_problems(raw, _TOP | {"models": lambda value: None}, ""))
    entries = raw.get("models")
    if not isinstance(entries, list) or not entries:
        found = "is missing" if entries is None else f"is {_kind(entries)}"
        problems.append(f"models {found}; it must be an array of models, one at least")
        entries = []
    for at, entry in enumerate(entries):
        where = f"models[{at}]"
        if not isinstance(entry, dict):
            problems.append(f"{where} is {_kind(entry)}; it must be an object")
            continue
        problems += _problems(entry, _MODEL, f"{where}.")
        problems += [f"{where}.{name} is missing" for name in ("name", "type") if name not in entry]
        problems += _keys(entry, where)
    if problems:
        raise _listed(problems)
    models = tuple(_model(raw, entry) for entry in entries)
    _check_labels(models)
    _check_accounts(models)
    return ExperimentConfig(
        prompts_file=raw.get("prompts_file"),
        output_dir=raw.get("output_dir"),
        num_prompts=raw.get("num_prompts"),
        samples=raw.get("samples", 1),
        seed=raw.get("seed", DEFAULT_SEED),
        max_retries=raw.get("max_retries", DEFAULT_RETRIES),
        retry_timeouts=raw.get("retry_timeouts", True),
        budget_usd=raw.get("budget_usd"),
        prices_file=raw.get("prices_file"),
        on_not_applied=raw.get("on_not_applied", "record"),
        models=models,
        raw=dict(raw),
    )


def _no_text(value: Any, where: str) -> Iterator[str]:
    """Texts at any depth that no file can hold, by their places."""
    if isinstance(value, str) and not is_unicode(value):
        yield f"{where} holds a lone surrogate, which is no text"
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _no_text(item, f"{where}[{at}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(name, str) and not is_unicode(name):
                place = f" in {where}" if where else ""
                yield f"the name of a field{place} holds a lone surrogate, which is no text"
            else:
                yield from _no_text(item, f"{where}.{name}" if where else str(name))


def _keys(value: Any, where: str) -> Iterator[str]:
    """Keys that stand in the entry itself, at any depth: it is written into the run directory."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from _keys(item, f"{where}[{at}]")
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        place = f"{where}.{name}"
        if not isinstance(item, str):
            yield from _keys(item, place)
        elif _KEY.search(name) and not _VARIABLE.search(item):
            yield (
                f"{place} is not of the form ${{NAME}}; a key stands in an environment variable, "
                "never in a file"
            )
        elif name == "api_key" and not _VARIABLE.fullmatch(item.strip()):
            yield f"{place} holds more than ${{NAME}}; a key stands in an environment variable"
        elif name == "base_url" and _CREDENTIALS.search(_VARIABLE.sub("", item)):
            yield f"{place} holds credentials; put them into an environment variable as ${{NAME}}"


def _listed(problems: Sequence[str]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(f"config: {problems[0]}")
    lines = "\n".join(f"  {problem}" for problem in problems)
    return ConfigError(f"config has {len(problems)} problems:\n{lines}")


def _problems(value: Mapping[str, Any], known: Mapping[str, Check], where: str) -> list[str]:
    found = []
    for name, item in value.items():
        check = known.get(name)
        if check is None:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; is it {near[0]}?" if near else ""
            # The name may be right and its place wrong: a provider says itself what it takes.
            own = " (what the type itself takes stands in options)" if "options" in known else ""
            found.append(f"{where}{name} is not known{guess}{own}")
        elif item is not None or name in ("name", "type"):
            problem = check(item)
            if problem:
                found.append(f"{where}{name} {problem}")
    return found


def _model(raw: Mapping[str, Any], entry: Mapping[str, Any]) -> ModelConfig:
    def setting(name: str, default: Any = None) -> Any:
        found = entry.get(name)
        if found is None:
            found = raw.get(name)
        return default if found is None else found

    temperature = entry.get("temperature")
    temperatures = temperature if isinstance(temperature, list) else [temperature]
    stop = setting("stop", ())
    sampling = {name: setting(name) for name in _SAMPLING if setting(name) is not None}
    sampling["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    sampling.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    if entry["type"] == "local" and "logprobs" not in entry and "logprobs" not in raw:
        # They cost nothing here, and the pilot's files have them.
        sampling["logprobs"] = LOCAL_LOGPROBS
    options = {name: entry[name] for name in _PROVIDER_TEXTS if entry.get(name) is not None}
    options |= entry.get("options") or {}
    if entry["type"] == "local":
        options.setdefault("model_path", entry["name"])
        options.setdefault("batch_size", setting("batch_size", 8))
    try:
        made = Sampling(**sampling)
    except InputError as error:
        raise ConfigError(f"config: model '{entry['name']}': {error.message}") from None
    account = [entry["type"], str(entry.get("base_url", "")), str(entry.get("api_key", ""))]
    return ModelConfig(
        name=entry["name"],
        type=entry["type"],
        temperatures=tuple(None if t is None else float(t) for t in temperatures),
        sampling=made,
        system=setting("system"),
        label=entry.get("label") or entry["name"],
        account=entry.get("account") or " ".join(filter(None, account)),
        limits={name: setting(name) for name in _LIMITS if setting(name) is not None},
        timeout=setting("timeout"),
        batch_size=setting("batch_size", 8),
        options=options,
        entry=dict(entry),
    )


def _check_labels(models: Sequence[ModelConfig]) -> None:
    seen: dict[str, int] = {}
    for at, model in enumerate(models):
        if not _LABEL.fullmatch(model.label):
            raise ConfigError(
                f"config: models[{at}]: '|' or a control character is in its label; "
                "which names no model"
            )
        if model.label in seen:
            raise ConfigError(
                f"config: models[{seen[model.label]}] and models[{at}] are both called "
                f"'{model.label}'",
                hint="give one of them a 'label' of its own",
            )
        if len(set(model.temperatures)) < len(model.temperatures):
            raise ConfigError(f"config: models[{at}].temperature names one temperature twice")
        seen[model.label] = at


def _check_accounts(models: Sequence[ModelConfig]) -> None:
    """One account has one set of limits; a second one would be left out in silence."""
    first: dict[str, ModelConfig] = {}
    for model in models:
        other = first.setdefault(model.account, model)
        for name in _LIMITS:
            one, two = other.limits.get(name), model.limits.get(name)
            if one != two:
                raise ConfigError(
                    f"config: '{other.label}' and '{model.label}' share an account, and their "
                    f"{name} differ: {_shown(one)} and {_shown(two)}",
                    hint="give one of them an 'account' of its own where the service counts its "
                    "requests apart, or the same limit",
                )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _kind(value: Any) -> str:
    """A value as a message shows it; texts are left out, since they may be prompts or keys."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "text"
    return "an array" if isinstance(value, list) else "an object"
