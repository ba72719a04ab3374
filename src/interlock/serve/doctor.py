"""`interlock doctor`: goes through the list of a deployment, as far as a machine can."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from interlock.kernel.errors import ConfigError, InputError, InterlockError
from interlock.serve import doctor_candidate, doctor_files, doctor_model, doctor_server
from interlock.serve.checklist import Finding, Result, passed
from interlock.serve.config_file import Effective, is_config, load_config
from interlock.serve.open_files import check_limit, needed
from interlock.serve.opening import kind_of
from interlock.serve.rollout.store import Placement, beside, placed
from interlock.serve.settings import ModelSettings, Settings

DISK_MB, MEMORY_MB = 500, 512
_MEGABYTE = 1 << 20
_PACKAGES = ("numpy", "onnx", "onnxruntime", "starlette", "uvicorn", "prometheus-client")


def find_deployment(
    place: Path, *, environ: Mapping[str, str], environment: str | None
) -> Effective:
    """The configuration at `place`: a file, the one in a directory, or the model that it is.

    Raises ConfigError where there is none, or more than one.
    """
    if place.is_dir():
        configs = _configs(place)
        if len(configs) > 1:
            names = ", ".join(path.name for path in configs)
            raise ConfigError(f"{place} holds several configurations: {names}", hint="name one")
        if configs:
            return load_config(configs[0], environ=environ, environment=environment)
    elif place.exists() and is_config(place):
        return load_config(place, environ=environ, environment=environment)
    elif not place.exists():
        raise ConfigError(f"there is no {place}")
    try:
        kind_of(ModelSettings(path=str(place.resolve())), Path())
    except ConfigError as error:
        raise ConfigError(
            f"{place} holds no configuration of a server and is no model: {error.message}"
        ) from None
    models = {"model": str(place.resolve())}
    return load_config(None, environ=environ, environment=environment, models=models)


def _configs(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if is_config(path))
    except ConfigError as error:
        # It may be the one that is served, so it is not passed over.
        error.hint = "name the configuration instead of its directory, or mend the file"
        raise
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}") from None


def examine(
    effective: Effective,
    *,
    calls: int,
    tick: Callable[[str, int], None] = lambda name, number: None,
) -> Iterator[Finding]:
    """All findings, as they come. `tick` is told a model's name and the calls made so far."""
    base = effective.base
    found: dict[str, Placement] = {}
    state: Finding | None = None
    if effective.settings.state is not None:
        found, state = doctor_files.state(Path(effective.settings.state))
    served, because = _served(effective.settings, found)
    settings = msgspec.structs.replace(effective.settings, models=served)
    yield from _environment(settings, base)
    if state is not None:
        yield state
    if effective.file is not None:
        yield doctor_files.configuration(effective.file)
    yield from _exposure(settings)
    yield from _written_tokens(effective)
    for name, own in settings.models.items():
        made = [0]

        def one(name: str = name, made: list[int] = made) -> None:
            made[0] += 1
            tick(name, made[0])

        yield from doctor_files.model(name, own, base)
        broken = False
        for finding in doctor_model.examine(
            name, own, base, calls=calls, start_seconds=settings.start_seconds, tick=one,
            because=because[name],
        ):  # fmt: skip
            broken = broken or (finding.group == "function" and finding.result == "fail")
            yield finding
        if not broken:
            yield doctor_model.without_network(name, own, base, settings.start_seconds)
        candidate = beside(effective.settings.models[name], found.get(name))
        if candidate is not None:
            yield from doctor_candidate.examine(name, candidate, own, base, settings.start_seconds)
    yield from doctor_server.examine(settings, base)


def _served(
    settings: Settings, found: Mapping[str, Placement]
) -> tuple[dict[str, ModelSettings], dict[str, str]]:
    """What a server would serve under each name, and why where that is not as configured."""
    now = {name: placed(own, found.get(name)) for name, own in settings.models.items()}
    why = {name: "" if told == "configured" else told for name, (_, told) in now.items()}
    return {name: own for name, (own, _) in now.items()}, why


def _environment(settings: Settings, base: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("environment", "Python", "pass", version)
    found = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    yield Finding("environment", "packages", "pass", ", ".join(found))
    places = {"the deployment": base}
    if settings.log not in ("stderr", "none"):
        places["the log"] = Path(settings.log).parent
    if settings.state is not None:
        places["the state"] = Path(settings.state)
    for what, place in places.items():
        yield _disk(what, place)
    free = _free_memory()
    if free is None:
        yield Finding("environment", "memory", "skip", "the system does not tell it")
    else:
        enough = passed(free >= MEMORY_MB)
        detail = f"{free} MB are free, {MEMORY_MB} MB are needed"
        yield Finding("environment", "memory", enough, detail)
    yield _open_files(settings)


def _open_files(settings: Settings) -> Finding:
    try:
        check_limit(settings)
    except InputError as error:
        return Finding("environment", "open files", "fail", f"{error.message}; {error.hint}")
    detail = f"{needed(settings)} may be needed, and are allowed to this process"
    return Finding("environment", "open files", "pass", detail)


def _disk(what: str, place: Path) -> Finding:
    item = f"disk space of {what}"
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // _MEGABYTE
    detail = f"{free} MB are free, {DISK_MB} MB are needed"
    return Finding("environment", item, passed(free >= DISK_MB), detail)


def _free_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except (OSError, ValueError):
        pass
    return None


def _written_tokens(effective: Effective) -> Iterator[Finding]:
    """Whether others can read a token that stands in the configuration itself."""
    for name in ("token", "admin_token"):
        place = effective.file_of(name)
        if place is None:
            continue
        is_open = place.stat().st_mode & 0o007
        detail = f"every user can read {place.name}" if is_open else "not for every user"
        item = f"the {name} in the configuration"
        yield Finding("security", item, passed(not is_open), detail)


def _exposure(settings: Settings) -> Iterator[Finding]:
    from interlock.serve.gate import is_loopback
    from interlock.serve.server import check

    item = "who may reach it"
    try:
        tokens, _ = check(settings)
    except InterlockError as error:
        yield Finding("security", item, "fail", error.message)
    else:
        local = is_loopback(settings.host)
        guard = "with a token" if tokens else "without a token"
        open_to = "this machine" if local else "other machines"
        result: Result = "pass" if tokens or local else "warn"
        yield Finding("security", item, result, f"{open_to}, {guard}")
        if settings.tls_cert is not None:
            yield Finding("security", "TLS", "pass", "by file")
        elif not local:
            told = "none; tokens and texts can be read on the way"
            yield Finding("security", "TLS", "warn", told)
    if settings.tls_key is not None:
        open_key = Path(settings.tls_key).exists() and Path(settings.tls_key).stat().st_mode & 0o007
        detail = "every user can read it" if open_key else "not for every user"
        yield Finding("security", "the TLS key's file", passed(not open_key), detail)
    limited = f"{settings.rate:g} requests/s of a client" if settings.rate else "none (rate = 0)"
    yield Finding("security", "rate limit", "pass" if settings.rate else "warn", limited)
    yield Finding("security", "body limit", "pass", f"{settings.body_mb:g} MB")
