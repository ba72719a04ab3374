"""What a path means, and the model that it names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from interlock.bundle.manifest import METADATA
from interlock.bundle.metadata import parse_metadata
from interlock.engines.generate.spec import EXTENSION
from interlock.kernel.errors import BundleError, BundleIntegrityError, ConfigError
from interlock.serve.served import Served
from interlock.serve.settings import ModelKind, ModelSettings

REGISTERED = "route:"
STORED = "text:"
DETECTOR = "detector:"
SHIPPED = "detector:shipped"
"""The path that means the detector that ships with the package."""

_BY_ONNX: frozenset[ModelKind] = frozenset({"bundle", "detector", "onnx"})
_MERGING: frozenset[ModelKind] = _BY_ONNX | {"route"}
_READ_BY: dict[str, frozenset[ModelKind]] = {
    "threads": _BY_ONNX,
    "batch_rows": _MERGING,
    "batch_wait_ms": _MERGING,
    "merge": _MERGING,
    "require_signature": frozenset({"bundle", "detector", "text"}),
    **dict.fromkeys(("mode", "proofs"), frozenset({"verified"})),
    **dict.fromkeys(("slots", "cache_mb", "text_seconds", "answer_tokens"), frozenset({"text"})),
    **dict.fromkeys(("threshold", "policy", "calibration", "anomaly"), frozenset({"detector"})),
}
"""Settings that only some kinds have; not `environment`, which every model gets by its section."""


def open_model(name: str, settings: ModelSettings, base: Path) -> Served:
    """The model that `settings` name, not started yet; relative paths start at `base`.

    Raises ConfigError for a path that is nothing to be served, and what reading a bundle raises.
    """
    kind = kind_of(settings, base)
    if settings.path.startswith((REGISTERED, STORED)):
        source = settings.path
    else:
        source = str((base / settings.path).resolve())
    if kind == "bundle":
        from interlock.serve.onnx_served import bundle_served

        return bundle_served(name, settings, Path(source))
    if kind == "text":
        from interlock.serve.text_served import text_served

        return text_served(name, settings, source)
    if kind == "detector":
        from interlock.serve.detector_served import detector_served

        shipped = settings.path == SHIPPED
        return detector_served(name, settings, None if shipped else source, base)
    if settings.require_signature is not None:
        raise ConfigError(f"model '{name}': only a bundle can be signed; it is a {kind}")
    if kind == "onnx":
        from interlock.serve.onnx_served import file_served

        return file_served(name, settings, Path(source))
    from interlock.serve.child_served import child_served

    return child_served(name, "route" if kind == "route" else "verified", settings, source, base)


def check_files(settings: ModelSettings, base: Path) -> None:
    """Raise for files that are gone, or not those of `expected_digest`; no process is started.

    Of a route and a verified model only that they are there: their processes read them.

    Raises ConfigError and BundleError.
    """
    try:
        digest = _digest_of_files(settings, base)
    except OSError as error:
        raise BundleError(f"{settings.path} cannot be read: {error.strerror}") from None
    if digest is not None and settings.expected_digest not in (None, digest):
        raise BundleIntegrityError(
            f"{settings.path}: the digest is {digest}, expected {settings.expected_digest}",
            hint="put the files back that were loaded, or roll back",
        )


def _digest_of_files(settings: ModelSettings, base: Path) -> str | None:
    kind = kind_of(settings, base)
    if settings.path.startswith((REGISTERED, STORED, DETECTOR)):
        return None
    path = (base / settings.path).resolve()
    if kind == "onnx":
        from interlock.bundle.limits import DEFAULT_LIMITS
        from interlock.bundle.pack import read_model

        return f"sha256:{hashlib.sha256(read_model(path, DEFAULT_LIMITS)).hexdigest()}"
    if kind in ("bundle", "detector", "text"):
        from interlock.bundle.contents import compare_files
        from interlock.bundle.limits import DEFAULT_LIMITS
        from interlock.engines.generate.store import TEXT_LIMITS

        return compare_files(path, TEXT_LIMITS if kind == "text" else DEFAULT_LIMITS)
    return None


def check_read(name: str, settings: ModelSettings, base: Path) -> None:
    """Raise ConfigError for a setting with another value than its default that nothing reads.

    It is read where the model, or the candidate beside it, is of a kind that has it. Where one of
    the two is not there to tell its kind, nothing is said: loading it says what is wrong with it.
    """
    named = [settings]
    if settings.candidate is not None:
        named.append(msgspec.structs.replace(settings, path=settings.candidate, kind="auto"))
    try:
        kinds = [kind_of(own, base) for own in named]
    except ConfigError:
        return
    for field in msgspec.structs.fields(ModelSettings):
        value, readers = getattr(settings, field.name), _READ_BY.get(field.name)
        if readers is None or value == field.default or not readers.isdisjoint(kinds):
            continue
        if field.name == "merge" and not value:
            continue  # which is what such a model does
        raise ConfigError(
            f"models.{name}.{field.name} is {value!r}, and {settings.path} is served as "
            f"{kinds[0]}, which has no such setting",
            hint=f"it is one of {', '.join(sorted(readers))}; leave it out",
        )


def kind_of(settings: ModelSettings, base: Path) -> ModelKind:
    """What the path is, looking at its name and content; raises ConfigError for nothing known."""
    if settings.kind != "auto":
        return settings.kind
    if settings.path.startswith(REGISTERED):
        return "route"
    if settings.path.startswith(STORED):
        return "text"
    if settings.path.startswith(DETECTOR):
        if settings.path != SHIPPED:
            raise ConfigError(f"{settings.path} is no detector", hint=f"say {SHIPPED}, or a path")
        return "detector"
    path = base / settings.path
    if path.is_dir():
        if (path / "manifest.json").exists():
            if (path / "detector.json").exists():
                return "detector"
            return "text" if _writes_text(path) else "bundle"
        if (path / "model.onnx").exists():
            return "verified"
        raise ConfigError(
            f"{settings.path} holds neither a bundle's manifest.json nor a model.onnx"
        )
    if not path.exists():
        raise ConfigError(f"there is no {settings.path}")
    kinds: dict[str, ModelKind] = {".onnx": "onnx", ".toml": "route", ".json": "route"}
    if path.suffix not in kinds:
        raise ConfigError(
            f"{settings.path} is none of a bundle, a detector, an ONNX file, a route file and a "
            "verified model's directory"
        )
    return kinds[path.suffix]


def _writes_text(bundle: Path) -> bool:
    """Whether the bundle says that it is a text model's; reading it all comes later."""
    try:
        return EXTENSION in parse_metadata((bundle / METADATA).read_bytes()).extensions
    except (OSError, BundleError):
        return False
