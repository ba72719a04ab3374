"""What a path means, and the model that it names."""

from __future__ import annotations

from pathlib import Path

from interlock.bundle.manifest import METADATA
from interlock.bundle.metadata import parse_metadata
from interlock.engines.generate.spec import EXTENSION
from interlock.kernel.errors import BundleError, ConfigError
from interlock.serve.served import Served
from interlock.serve.settings import ModelKind, ModelSettings

REGISTERED = "route:"
STORED = "text:"
DETECTOR = "detector:"
SHIPPED = "detector:shipped"
"""The path that means the detector that ships with the package."""


def open_model(name: str, settings: ModelSettings, base: Path) -> Served:
    """The model that `settings` name, not started yet; relative paths start at `base`.

    Raises ConfigError for a path that is nothing to be served, and what reading a bundle raises.
    """
    kind = kind_of(settings, base)
    check_judging(name, settings, kind)
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


def check_judging(name: str, settings: ModelSettings, kind: ModelKind) -> None:
    """Raise ConfigError for a detector's settings of another model, which would not heed them."""
    if kind == "detector":
        return
    for setting in ("threshold", "policy", "calibration"):
        if getattr(settings, setting) is not None:
            raise ConfigError(
                f"models.{name}.{setting} is {getattr(settings, setting)!r}; only a detector has "
                f"one, and {settings.path} is served as {kind}"
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
