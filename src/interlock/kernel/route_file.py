"""A route described by a small TOML or JSON file.

    schema = 1
    name = "arm"
    otherwise = "refuse"                  # or block, escalate, record

    [[step]]
    name = "model"
    engine = "onnx"                       # a registered name
    options = { bundle = "bundles/arm" }  # a relative path resolves against this file
    guards = ["masks", { name = "residual", options = { limit = 0.05 } }]
    size_limit = 4096                     # the engine's `size` must give the size
    time_limit = 0.5                      # seconds
    retry = { retries = 3, first = 1.0, factor = 2.0, longest = 60.0 }

Engines and guards are names in `interlock.kernel.registry`, never module paths: a route file from
elsewhere can choose among what is installed and registered, and can run no other code. What the
registered factories do with its options is theirs to bound.

Beside its answering methods an engine may have `available()`, `size(item)`,
`predicted_seconds(item)` and `evidence`; they become those of its `RouteStep`.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.errors import ConfigError, InterlockError, UsageError
from interlock.kernel.limits import NO_RETRY, RetryPolicy
from interlock.kernel.outcome import to_plain
from interlock.kernel.registry import ENGINES, GUARDS
from interlock.kernel.route import Otherwise, Route, RouteStep

ROUTE_SCHEMA = 1

Options = dict[str, Any]

_DEFAULT_RETRY = RetryPolicy()


# Unknown fields are forbidden throughout: a misspelt one may be a limit.


class _GuardEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    options: Options = {}


class _RetryEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    retries: int = _DEFAULT_RETRY.retries
    first: float = _DEFAULT_RETRY.first
    factor: float = _DEFAULT_RETRY.factor
    longest: float = _DEFAULT_RETRY.longest


class _StepEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    engine: str
    options: Options = {}
    guards: list[str | _GuardEntry] = []
    size_limit: float | None = None
    time_limit: float | None = None
    retry: _RetryEntry | None = None


class _RouteEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    schema: Literal[1]
    name: str
    otherwise: Otherwise
    step: list[_StepEntry]


def load_route(
    source: str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
    rng: random.Random | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
) -> Route[Any, Any]:
    """The route that a `.toml` or `.json` file, or a mapping of the same shape, describes.

    `base` is where relative paths in options start: the file's directory, for a mapping the
    working directory. The rest is as in `Route`. Raises ConfigError naming file, step and field;
    what a factory raises keeps its type, with file and step as a note.
    """
    if isinstance(source, Mapping):
        label, document = "route", dict(source)
        base = Path.cwd() if base is None else base
    else:
        path = Path(source)
        label, document = str(path), _read(path)
        base = path.resolve().parent if base is None else base
    entry = _parse(document, label)
    steps = tuple(_step(step, base, f"{label}: step '{step.name}'") for step in entry.step)
    try:
        return Route(
            name=entry.name,
            steps=steps,
            otherwise=entry.otherwise,
            clock=clock,
            rng=rng if rng is not None else random.Random(),
            on_error=on_error,
        )
    except ConfigError as error:
        raise ConfigError(f"{label}: {error.message}") from None


def describe(route: Route[Any, Any]) -> dict[str, Any]:
    """The route in JSON's types, for reports and digests of configuration.

    Engines and guards appear by type; one that has a method `describe()` adds what that returns.
    """
    return {
        "name": route.name,
        "otherwise": route.otherwise,
        "steps": [
            {
                "name": step.name,
                "engine": _describe_part(step.engine),
                "guards": [_describe_part(guard) for guard in step.guards],
                "size_limit": step.size_limit,
                "time_limit": step.time_limit,
                "retry": asdict(step.retry),
                "evidence": [to_plain(piece) for piece in step.evidence],
            }
            for step in route.steps
        ],
    }


def _describe_part(part: Any) -> dict[str, Any]:
    described = {"type": f"{type(part).__module__}.{type(part).__qualname__}"}
    own = getattr(part, "describe", None)
    return described | (to_plain(own()) if callable(own) else {})


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if path.suffix == ".toml":
            document = tomllib.loads(raw.decode("utf-8"))
        elif path.suffix == ".json":
            document = msgspec.json.decode(raw)
        else:
            raise ConfigError(f"{path}: a route file ends in .toml or .json")
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a route file holds one table, not a {type(document).__name__}")
    return document


def _parse(document: dict[str, Any], label: str) -> _RouteEntry:
    schema = document.get("schema")
    if type(schema) is int and schema > ROUTE_SCHEMA:
        raise ConfigError(
            f"{label}: schema is {schema}, this release reads up to {ROUTE_SCHEMA}",
            hint="install a newer release of interlock",
        )
    try:
        return msgspec.convert(document, _RouteEntry)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{label}: {_with_step_name(str(error), document)}") from None


def _with_step_name(message: str, document: dict[str, Any]) -> str:
    """msgspec gives a step's index; a person knows its name."""
    found = re.search(r"\$\.step\[(\d+)\]", message)
    if found is None:
        return message
    step = document["step"][int(found[1])]
    name = step.get("name") if isinstance(step, dict) else None
    return f"step '{name}': {message}" if isinstance(name, str) else message


def _step(entry: _StepEntry, base: Path, where: str) -> RouteStep:
    try:
        engine = ENGINES.make(entry.engine, entry.options, base=base)
        guards = tuple(_guard(guard, base) for guard in entry.guards)
        if entry.size_limit is not None and not callable(getattr(engine, "size", None)):
            raise ConfigError(
                f"size_limit is set, but the engine '{entry.engine}' has no size(item)"
            )
        return RouteStep(
            name=entry.name,
            engine=engine,
            guards=guards,
            available=getattr(engine, "available", None),
            size=getattr(engine, "size", None),
            size_limit=entry.size_limit,
            predicted_seconds=getattr(engine, "predicted_seconds", None),
            time_limit=entry.time_limit,
            retry=_retry(entry.retry),
            evidence=tuple(getattr(engine, "evidence", ())),
        )
    except InterlockError as error:
        if isinstance(error, UsageError):
            prefix = f"step '{entry.name}': "
            error.message = f"{where}: {error.message.removeprefix(prefix)}"
            error.args = (error.message,)
        else:
            error.add_note(where)
        raise


def _guard(entry: str | _GuardEntry, base: Path) -> Any:
    if isinstance(entry, str):
        return GUARDS.make(entry, base=base)
    return GUARDS.make(entry.name, entry.options, base=base)


def _retry(entry: _RetryEntry | None) -> RetryPolicy:
    if entry is None:
        return NO_RETRY
    try:
        return RetryPolicy(entry.retries, entry.first, entry.factor, entry.longest)
    except ConfigError as error:
        raise ConfigError(f"retry: {error.message}") from None
