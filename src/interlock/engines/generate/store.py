"""Text models in the user's cache directory: one bundle a name."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from interlock.bundle import BundleLimits, Metadata
from interlock.bundle.manifest import MANIFEST, METADATA, MODEL, UNLISTED, digest_of
from interlock.bundle.metadata import parse_metadata
from interlock.bundle.publish import check_target
from interlock.engines.generate.spec import CHAT_TEMPLATE, EXTENSION, TOKENIZER, WEIGHTS
from interlock.kernel.errors import BundleError, ConfigError

ENVIRONMENT = "INTERLOCK_MODELS"
"""Names another directory for the store."""

# A model of a gigabyte takes its time to open on a slow disk.
TEXT_LIMITS = BundleLimits(
    max_file_bytes=64 << 30, max_total_bytes=64 << 30, probe_seconds=600.0, beside=True
)

# Of a model, whose manifest may be damaged.
_FILES = UNLISTED | {METADATA, MODEL, TOKENIZER, CHAT_TEMPLATE, WEIGHTS}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class StoredModel:
    """A model in the store. `error` says why it cannot be used, where that shows at once."""

    name: str
    path: Path
    digest: str | None
    bytes: int
    metadata: Metadata | None
    error: str | None = None


def store_directory() -> Path:
    """Where models are kept: INTERLOCK_MODELS, or `models` in the user's cache directory."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("interlock", appauthor=False)) / "models"


def is_name(source: str) -> bool:
    """Whether `source` names a model of the store rather than a directory.

    What lies in the working directory has no part in it: a tree that somebody else wrote must not
    put its own model in the place of the user's.
    """
    return _NAME.fullmatch(source) is not None


def path_of(name: str) -> Path:
    """Where the model `name` is or would be; ConfigError for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} is no name for a model",
            hint="letters, digits, '.', '_' and '-', at most 100 of them",
        )
    return store_directory() / name


def stored(name: str) -> Path:
    """The bundle of the model `name`; ConfigError where there is none."""
    path = path_of(name)
    if path.is_dir():
        return path
    known = [model.name for model in list_models()]
    if Path(name).is_dir():
        raise ConfigError(
            f"there is no model named {name!r} in {store_directory()}",
            hint=f"for the directory of that name, write ./{name}",
        )
    hint = (
        f"in the store: {', '.join(known)}" if known else "`interlock models add smollm2` adds one"
    )
    raise ConfigError(f"there is no model named {name!r} in {store_directory()}", hint=hint)


def located(source: str | os.PathLike[str]) -> tuple[Path, bool]:
    """The bundle of the model `source`, a name or a directory, and whether it is the store's.

    Raises ConfigError where there is neither.
    """
    if isinstance(source, str) and is_name(source):
        return stored(source), True
    if not os.fspath(source) or not Path(source).exists():
        raise ConfigError(
            f"there is no model at {os.fspath(source)!r}",
            hint="a name of `interlock models list`, or the directory of a text bundle",
        )
    return Path(source), False


def list_models() -> list[StoredModel]:
    """The models in the store by name. Reads what they say of themselves, not their weights."""
    directory = store_directory()
    if not directory.exists():
        return []
    _check_store(directory)
    found = []
    for path in sorted(directory.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        size, digest, metadata, error = 0, None, None, None
        try:
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            digest = digest_of((path / MANIFEST).read_bytes())
            metadata = parse_metadata((path / METADATA).read_bytes())
            if EXTENSION not in metadata.extensions:
                error = "no text model"
        except FileNotFoundError as problem:
            error = f"no model: {Path(problem.filename).name} is missing"
        except OSError as problem:
            error = problem.strerror or "cannot be read"
        except BundleError as problem:
            error = problem.message
        found.append(StoredModel(path.name, path, digest, size, metadata, error))
    return found


def place_for(name: str) -> tuple[Path, str | None]:
    """Where a model called `name` is to be written, and the digest of the one that it replaces.

    The store is made where there is none. Raises ConfigError for a name that cannot be one, and for
    a place that holds something else, or that cannot be written.
    """
    path = path_of(name)
    _check_store(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell: a disk may be full, or mounted to be read.
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise ConfigError(
            f"the store {str(path.parent)!r} cannot be written: {error.strerror}",
            hint=f"{ENVIRONMENT} names another",
        ) from None
    check_target(path)
    try:
        return path, digest_of((path / MANIFEST).read_bytes())
    except OSError:
        return path, None


def _check_store(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ConfigError(
            f"the store {str(directory)!r} is no directory", hint=f"{ENVIRONMENT} names another"
        )


def remove(name: str) -> Path:
    """Delete the model `name`, or the link to it; returns where it was.

    Raises ConfigError where there is none, and where the place holds what is no model's.
    """
    path = stored(name)
    if path.is_symlink():
        path.unlink()
        return path
    if {entry.name for entry in path.iterdir()} - _FILES:
        check_target(path)
    for left in path.parent.glob(".*.removed-*"):
        shutil.rmtree(left, ignore_errors=True)
    # Out of sight first: what is left after an interruption is no half model.
    hidden = path.with_name(f".{path.name}.removed-{os.getpid()}")
    path.rename(hidden)
    shutil.rmtree(hidden)
    return path
