"""One file for all environments, environment variables over it, and where each value came from.

    environment = "production"        # the section that counts, where nothing else says so

    [common]                          # what all sections share
    port = 8000

    [production]
    tokens_file = "tokens"

    [production.models.arm]
    path = "bundles/arm"
    expected_digest = "sha256:…"

    [development.models.arm]
    path = "bundles/arm-next"

A value is taken from the command line, else from `INTERLOCK_SERVE_<KEY>`, else from the section,
else from `common`, else it is the default. A model's key is `INTERLOCK_SERVE_MODELS_<MODEL>_<KEY>`,
its name in capitals with `_` for anything that is no letter or digit. `null` takes the value of a
setting back that may have none.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import BundleFormatError, ConfigError
from interlock.serve.settings import ModelSettings, Settings

ENVIRONMENTS = ("production", "staging", "development")
COMMON = "common"
PREFIX = "INTERLOCK_SERVE_"
CHOICE = ("INTERLOCK_ENVIRONMENT", "ENVIRONMENT")

DEFAULT, ARGUMENT = "default", "command line"

_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Settings)}
_MODEL_FIELDS = {field.name: field.type for field in msgspec.structs.fields(ModelSettings)}
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_PATHS = ("tls_cert", "tls_key", "tokens_file", "admin_tokens_file", "state")


@dataclass(frozen=True)
class Effective:
    """What counts.

    settings     every value
    environment  the section that was taken; None without a file
    base         where relative paths start: the file's directory, or the working directory
    sources      key -> where its value came from; a key that is not in it has its default
    file         that was read; None without one
    """

    settings: Settings
    environment: str | None
    base: Path
    sources: Mapping[str, str]
    file: Path | None = None

    def file_of(self, key: str) -> Path | None:
        """The file that a value stands in; None where it came from elsewhere."""
        if self.file is None or not self.sources.get(key, "").startswith(f"{self.file.name} ["):
            return None
        return self.file

    def rows(self) -> list[tuple[str, Any, str]]:
        """Key, value and source of every setting; tokens and keys are not shown."""
        found: list[tuple[str, Any, str]] = []
        for name in _FIELDS:
            if name == "models":
                continue
            value = getattr(self.settings, name)
            if name in ("token", "admin_token") and value is not None:
                value = "(set)"
            if name == "otlp_endpoint" and value is not None:
                value = re.sub(r"//[^/]*@", "//(set)@", value)
            found.append((name, value, self.sources.get(name, DEFAULT)))
        for model, own in self.settings.models.items():
            for name in _MODEL_FIELDS:
                key = f"models.{model}.{name}"
                found.append((key, getattr(own, name), self.sources.get(key, DEFAULT)))
        return found


def is_config(path: Path, *, named: bool = False) -> bool:
    """Whether the file is a configuration of a server: it has one of its sections.

    named  the file is named as what is to be served; without a section it is one all the same,
           with a mistake, unless it has what every route file has

    Raises ConfigError for a file that cannot be read or parsed, and so may be one.
    """
    if path.suffix not in (".toml", ".json") or not path.is_file():
        return False
    found = _parse(path)
    if not isinstance(found, dict):
        return False
    return bool(set(found) & {COMMON, *ENVIRONMENTS}) or (named and "schema" not in found)


def load_config(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    environment: str | None = None,
    arguments: Mapping[str, Any] = {},
    models: Mapping[str, str] = {},
) -> Effective:
    """The configuration in the file, under the environment and the command line.

    environ      environment variables
    environment  the section, where the command line names it
    arguments    settings that the command line gives
    models       name -> path of models that the command line gives

    Raises ConfigError for an unknown key, section or variable, a value that does not fit, and a
    section without models, saying where it stands.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    section: str | None = None
    base = Path.cwd()
    if path is not None:
        document = _read(path)
        base = path.resolve().parent
        section = _section(document, path, environ, environment)
        for name in (COMMON, section):
            _merge(values, sources, document.get(name, {}), f"{path.name} [{name}]")
        # A detector's thresholds are by environment, and the section says which that is.
        for name, own in values.get("models", {}).items():
            if "environment" not in own:
                own["environment"] = section
                sources[f"models.{name}.environment"] = f"{path.name} [{section}]"
    elif environment is not None:
        raise ConfigError("an environment is named, but no configuration file")
    for name, source in models.items():
        values.setdefault("models", {})[name] = {"path": source}
        sources[f"models.{name}.path"] = ARGUMENT
    _from_environment(values, sources, environ)
    for name, value in arguments.items():
        values[name] = value
        sources[name] = ARGUMENT
    settings = _settings(values, sources, base)
    if path is not None and not settings.models:
        raise ConfigError(
            f"{path.name} [{section}]: models is empty, so that nothing would be served",
            hint=f"add a table [{section}.models.NAME] with the path of a model",
        )
    return Effective(settings, section, base, sources, path)


def _read(path: Path) -> dict[str, Any]:
    found = _parse(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: a configuration holds one table")
    return found


def _parse(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        if path.suffix == ".toml":
            return tomllib.loads(raw.decode())
        return decode_json(raw, _JSON, str(path))
    except BundleFormatError as error:
        raise ConfigError(error.message) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


def _section(
    document: Mapping[str, Any], path: Path, environ: Mapping[str, str], named: str | None
) -> str:
    _known(document, {"environment", COMMON, *ENVIRONMENTS}, str(path))
    chosen = named
    where = "--environment"
    if chosen is None:
        for variable in CHOICE:
            if environ.get(variable):
                chosen, where = environ[variable], variable
                break
        else:
            chosen, where = document.get("environment", ENVIRONMENTS[0]), f"{path}: environment"
    if chosen not in ENVIRONMENTS:
        raise ConfigError(
            f"{where} is {str(chosen)[:50]!r}; it must be one of {', '.join(ENVIRONMENTS)}"
        )
    if chosen not in document:
        asked = named or where in CHOICE or "environment" in document
        raise ConfigError(
            f"{path} has no section '{chosen}', which "
            + (f"{where} asks for" if asked else "counts where no environment is named"),
            hint=f"add [{chosen}], or choose another one with --environment",
        )
    return str(chosen)


def _merge(values: dict[str, Any], sources: dict[str, str], section: Any, where: str) -> None:
    _known(_table(section, where), _FIELDS, where)
    for name, value in section.items():
        if name != "models":
            values[name] = value
            sources[name] = where
            continue
        for model, own in _table(value, f"{where} models").items():
            inside = f"{where} models.{model}"
            _known(_table(own, inside), _MODEL_FIELDS, inside)
            values.setdefault("models", {}).setdefault(model, {}).update(own)
            sources.update({f"models.{model}.{key}": where for key in own})


def _from_environment(
    values: dict[str, Any], sources: dict[str, str], environ: Mapping[str, str]
) -> None:
    keys: dict[str, tuple[str | None, str]] = {
        name.upper(): (None, name) for name in _FIELDS if name != "models"
    }
    for model in values.get("models", {}):
        for name in _MODEL_FIELDS:
            key = f"MODELS_{re.sub(r'[^A-Z0-9]', '_', model.upper())}_{name.upper()}"
            if key in keys:
                raise ConfigError(
                    f"two models share the variable {PREFIX}{key}", hint="rename one of them"
                )
            keys[key] = (model, name)
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        found = keys.get(variable.removeprefix(PREFIX))
        if found is None:
            near = difflib.get_close_matches(variable, [PREFIX + key for key in keys], n=1)
            raise ConfigError(
                f"the environment variable {variable} is no setting",
                hint=f"did you mean {near[0]}?" if near else "see `interlock serve --check`",
            )
        model, name = found
        kind = (_FIELDS if model is None else _MODEL_FIELDS)[name]
        # Otherwise the word would be a text.
        given = None if text == "null" and type(None) in get_args(kind) else text
        try:
            value = msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError:
            raise ConfigError(
                f"{variable}: the value does not fit {_named(kind)}", hint=_words(kind)
            ) from None
        place = values if model is None else values["models"][model]
        place[name] = value
        sources[name if model is None else f"models.{model}.{name}"] = variable


def _settings(values: dict[str, Any], sources: Mapping[str, str], base: Path) -> Settings:
    for name in _PATHS:
        if isinstance(values.get(name), str) and values[name]:
            values[name] = str(base / values[name])
    if isinstance(values.get("log"), str) and values["log"] not in ("stderr", "none", ""):
        values["log"] = str(base / values["log"])
    models: dict[str, ModelSettings] = {}
    for name, own in values.get("models", {}).items():
        if isinstance(own.get("require_signature"), str) and own["require_signature"]:
            own["require_signature"] = str(base / own["require_signature"])
        models[name] = _convert(own, ModelSettings, sources, f"models.{name}.")
    settings: Settings = _convert({**values, "models": models}, Settings, sources, "")
    return settings


def _convert(values: Mapping[str, Any], kind: Any, sources: Mapping[str, str], prefix: str) -> Any:
    fields = _MODEL_FIELDS if kind is ModelSettings else _FIELDS
    given = {}
    for name, value in values.items():
        if name == "models":
            given[name] = value
            continue
        try:
            given[name] = msgspec.convert(value, fields[name])
        except msgspec.ValidationError as error:
            where = sources.get(prefix + name, "")
            told = str(error).split(" - at", maxsplit=1)[0]
            raise ConfigError(
                f"{where}: {prefix}{name}: {told}", hint=_words(fields[name])
            ) from None
    if kind is ModelSettings and "path" not in given:
        raise ConfigError(f"{prefix}path is missing")
    try:
        return kind(**given)
    except ConfigError as error:
        key = prefix + error.message.split(" ", maxsplit=1)[0]
        place = sources.get(key)
        told = f"{f'{place}: ' if place else ''}{prefix}{error.message}"
        raise ConfigError(told, hint=error.hint) from None


def _known(found: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            raise ConfigError(
                f"{where}: the key '{name}' is unknown",
                hint=f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}",
            )


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table, it is a {type(value).__name__}")
    return value


def _named(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "the setting"
    return getattr(kind, "__name__", str(kind))


def _words(kind: Any) -> str | None:
    """The hint for a setting that takes one of some words; None for any other."""
    if get_origin(kind) is not Literal:
        return None
    return f"it must be one of {', '.join(map(repr, get_args(kind)))}"
