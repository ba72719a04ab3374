"""Keeps what a verified model proved, so that others than the server can check its answers."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from interlock.bundle.publish import remove_abandoned
from interlock.kernel.errors import ConfigError, EngineUnavailableError
from interlock.verified import InferenceResult, Runner
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.proof_bundle import write_bundle


@dataclass(frozen=True)
class Kept:
    """A proof bundle: its directory's name, and the digest that `interlock verified verify` tells.

    What it holds includes the answer's inputs and outputs.
    """

    name: str
    digest: str


def prepare(directory: Path) -> None:
    """Make the directory, for this user alone, and remove what a killed process left half written.

    Raises ConfigError where it cannot be written, or every user may look into it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o007:
            raise ConfigError(
                f"proofs {directory} is open to every user, and is to hold inputs and outputs",
                hint="chmod o-rwx, or name a directory that does not exist yet",
            )
        remove_abandoned(directory)
        probe = directory / f".{secrets.token_hex(8)}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ConfigError(f"proofs {directory} cannot be written: {error.strerror}") from None


def keep(directory: Path, runner: Runner, found: InferenceResult) -> Kept:
    """Write the bundle of an inference that was recorded; it is whole before this returns.

    Raises EngineUnavailableError where there is nothing to write or a key has left the cache, and
    BundleError where the file system refuses.
    """
    if found.run is None or not isinstance(runner.prover, CircuitProver):
        raise EngineUnavailableError(f"{runner.name}: its prover makes no proof that can be kept")
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(8)}"
    digest = write_bundle(
        directory / name, found.run, runner.prover, optimization=runner.optimization
    )
    return Kept(name, f"sha256:{digest}")
