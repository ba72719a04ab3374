"""`interlock serve`: models behind HTTP."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import msgspec

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from interlock.serve.config_file import Effective
    from interlock.serve.settings import ModelSettings


@click.command()
@click.argument("sources", nargs=-1, metavar="[CONFIG | MODEL...]")
@click.option("--host", help="Address to listen on; by default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="By default 8000; 0 takes a free one.")
@click.option(
    "--environment",
    type=click.Choice(("production", "staging", "development")),
    help="The section of CONFIG that counts.",
)
@click.option("--check", is_flag=True, help="Show the effective configuration, and do not serve.")
@json_option
def command(
    sources: tuple[str, ...],
    host: str | None,
    port: int | None,
    environment: str | None,
    check: bool,
    as_json: bool,
) -> int:
    """Serve models over HTTP by the Open Inference Protocol, until it is told to stop.

    CONFIG is a TOML or JSON file. A MODEL is a bundle's directory, an ONNX file, a route file, a
    verified model's directory, route:NAME for a registered route, text:NAME for a text model of
    `interlock models`, which is also asked through OpenAI's API, or detector:shipped, which is
    also what is served where nothing is named.
    """
    effective = _effective(sources, host, port, environment)
    if check:
        return _explain(effective, as_json)
    if effective.environment is None:
        _check_named(effective)
    return _serve(effective, as_json)


def _effective(
    sources: tuple[str, ...], host: str | None, port: int | None, environment: str | None
) -> Effective:
    from interlock.serve.config_file import is_config, load_config

    arguments = {k: v for k, v in {"host": host, "port": port}.items() if v is not None}
    options: dict[str, Any] = {"environ": os.environ, "arguments": arguments}
    configs = [source for source in sources if is_config(Path(source), named=True)]
    if configs and len(sources) > 1:
        raise ConfigError(
            f"{configs[0]} is a configuration, and further models are named beside it",
            hint="put them into the configuration",
        )
    if configs:
        return load_config(Path(configs[0]), environment=environment, **options)
    models: dict[str, str] = {}
    if not sources:
        models["detector"] = "detector:shipped"
    for source in sources:
        name = _name(source)
        if name in models:
            raise ConfigError(
                f"{models[name]} and {source} would both be called '{name}'",
                hint="give them names in a configuration",
            )
        models[name] = source
    return load_config(None, environment=environment, models=models, **options)


def _check_named(effective: Effective) -> None:
    """Raise ConfigError where a path is nothing to serve.

    On a command line that is a typing mistake; a configuration may name files that are to come.
    """
    from interlock.serve.opening import kind_of

    _server().check(effective.settings)
    for own in effective.settings.models.values():
        kind_of(own, effective.base)


def _name(source: str) -> str:
    if source.startswith("detector:"):
        return "detector"
    path = Path(source.removeprefix("route:").removeprefix("text:"))
    name = path.stem if path.suffix in (".onnx", ".toml", ".json") else path.resolve().name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100] or "model"


def _explain(effective: Effective, as_json: bool) -> int:
    from interlock.serve.open_files import check_limit

    check = _server().check
    check(effective.settings)
    check_limit(effective.settings)
    served = {name: _served(name, effective) for name in effective.settings.models}
    for name in served:
        _check_files(name, effective)
    rows = effective.rows()
    if as_json:
        print_json(
            {
                "environment": effective.environment,
                "settings": [{"key": k, "value": v, "source": s} for k, v, s in rows],
                "models": {name: one["kind"] for name, one in served.items()},
                "served": served,
            }
        )
        return 0
    if effective.environment is not None:
        click.echo(f"environment {effective.environment}\n")
    print_table(("key", "value", "from"), [(k, _shown(v), s) for k, v, s in rows])
    click.echo("")
    print_table(
        ("model", "kind", "serves", "because", "rollout"),
        [(name, *(_shown(value) for value in one.values())) for name, one in served.items()],
    )
    return 0


def _check_files(name: str, effective: Effective) -> None:
    """Raise ConfigError for settings that nothing reads, and files that are not there."""
    from interlock.serve.opening import check_read

    own = effective.settings.models[name]
    check_read(name, own, effective.base)
    if own.policy is not None:
        from interlock.detect.policy import load_policy

        load_policy(effective.base / own.policy)
    for setting in ("calibration", "require_signature"):
        file = getattr(own, setting)
        if file is not None and not (effective.base / file).is_file():
            raise ConfigError(f"models.{name}.{setting}: there is no file {file}")


def _served(name: str, effective: Effective) -> dict[str, str | None]:
    """What a server would serve under that name, as which kind, why, and what it would roll out."""
    from interlock.serve.rollout.store import no_longer_configured, placed, recorded

    settings, own = effective.settings, effective.settings.models[name]
    found = None if settings.state is None else recorded(Path(settings.state)).get(name)
    now, because = placed(own, found)
    rollout = None
    if own.use_candidate is None and settings.state is not None:
        rollout = own.candidate
        if found is not None and found.configured == (own.path, own.expected_digest):
            running = found.running
            if running is not None and not no_longer_configured(own, running):
                rollout = running.candidate.path
    key, base = f"models.{name}", effective.base
    for where, path in ((f"{key}.candidate", own.candidate), (f"{key}: its rollout", rollout)):
        if path is not None:
            _kind(where, msgspec.structs.replace(own, path=path, kind="auto"), base)
    _kind(f"{key}.path", own, base)
    kind = _kind(f"{key}: {because}", now, base)
    return {"kind": kind, "path": now.path, "because": because, "rollout": rollout}


def _kind(where: str, settings: ModelSettings, base: Path) -> str:
    """See `kind_of`; the error says where the path stands."""
    from interlock.serve.opening import kind_of

    try:
        return kind_of(settings, base)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _server() -> ModuleType:
    """The module that serves; raises MissingExtraError."""
    try:
        return importlib.import_module("interlock.serve.server")
    except ImportError as error:
        if (error.name or "").split(".")[0] == "interlock":
            raise
        raise MissingExtraError("serve", "serving") from None


def _serve(effective: Effective, as_json: bool) -> int:
    serve = _server().serve

    def started(host: str, port: int, hosting: Any) -> None:
        scheme = "http" if effective.settings.tls_cert is None else "https"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        models = [
            {
                "name": hosted.name,
                "ready": hosted.ready,
                "digest": None if hosted.served is None else hosted.served.version,
                "error": None if hosted.error is None else hosted.error.to_dict(),
            }
            for hosted in hosting.models.values()
        ]
        if as_json:
            print_json({"url": url, "host": host, "port": port, "models": models})
        else:
            for model in models:
                error = model["error"]
                told = "ready" if error is None else f"not ready: {error['message']}"
                click.echo(f"{model['name']}  {told}")
            click.echo(f"serving on {url}")

    return 0 if serve(effective.settings, effective.base, started) else 1
