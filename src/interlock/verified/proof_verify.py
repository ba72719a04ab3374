"""Checks a proof bundle that a stranger made: reads, links, verifies, replays, and says what is
trusted.

Nothing in the bundle is believed before it is checked, and no check depends on one that failed.
The order is: the manifest, every file's digest, the chain's wiring, the instances of each proof
against the tensors, the proofs themselves, and the replays. What remains to be trusted is listed
in the verdict, whatever the outcome.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from interlock.bundle.read import VanishedFileError, open_directory, read_file
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    EngineError,
    MissingExtraError,
)
from interlock.verified.circuit_prover import usable_cores
from interlock.verified.ezkl_backend import EzklBackend
from interlock.verified.proof_checks import (
    CheckedBundle,
    check_circuits,
    check_files,
    check_instances,
    check_wiring,
)
from interlock.verified.proof_manifest import (
    DIGEST,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    ProofManifest,
    ProvedSlice,
    ReplayedSlice,
    parse,
)
from interlock.verified.proof_rebuild import Finding, belongs, printable
from interlock.verified.proof_replay import check_replays
from interlock.verified.proof_system import Statement
from interlock.verified.replay_process import ReplayProcess
from interlock.verified.slices import SlicedModel
from interlock.verified.srs import DEVELOPMENT_WARNING, SrsSource, same_secret

MEMORY_LIMIT = 4 << 30
"""Bytes of the process that verifies proofs."""

SECONDS, SECONDS_A_PROOF = 60.0, 5.0
"""Most that all proofs together may take: keys and settings may be built to be slow."""


@dataclass(frozen=True)
class Verdict:
    """What a verifier found.

    accepted    whether every check passed
    digest      SHA-256 of the manifest: the bundle's name
    reasons     why it was refused; empty where it was accepted
    proved, replayed, slices
                slices whose proofs verified, that were run again with the same result, and all;
                a bundle that is refused has none proved or replayed
    overall_security
                percent of the slices that were proved
    trusted     what the verdict rests on beside the checks, one sentence each
    seconds     that the checks took
    """

    accepted: bool
    digest: str
    reasons: tuple[Finding, ...]
    proved: int
    replayed: int
    slices: int
    overall_security: float
    trusted: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Against:
    """What the verifier knows by other ways than the bundle; all of it optional.

    digest     that the bundle must have
    model      that the verifying keys must belong to; its keys are made again
    srs        file or directory that the proofs' reference string must be from
    cache      where a development SRS may be found when keys are made again
    tolerance  largest difference that a replayed output may show, as a share of the largest
               value; 0 for the same bits
    """

    digest: str | None = None
    model: SlicedModel | None = None
    srs: Path | None = None
    cache: Path | None = None
    tolerance: float = 0.0


NOTHING = Against()


class BundleVerifier:
    """Verifies bundles with worker processes, which start with the first proofs and replays.

    workers  processes that check proofs at the same time; None for one a core

    Safe across threads; each process checks one bundle at a time.
    """

    def __init__(self, workers: int | None = None) -> None:
        count = usable_cores() if workers is None else workers
        self._backends = tuple(EzklBackend(memory_limit=MEMORY_LIMIT) for _ in range(count))
        self._replays = ReplayProcess()

    def start(self) -> None:
        """Start the workers now; raises MissingExtraError where ezkl is not installed."""
        for backend in self._backends:
            backend.start()
        self._replays.start()

    def close(self) -> None:
        """End the workers."""
        for backend in self._backends:
            backend.close()
        self._replays.close()

    def __enter__(self) -> BundleVerifier:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def verify(
        self, directory: Path, against: Against = NOTHING, *, deadline: Deadline = NO_DEADLINE
    ) -> Verdict:
        """The verdict on a bundle.

        Raises MissingExtraError where it holds proofs and ezkl is not installed, and
        DeadlineError where `deadline` passes. Whatever is wrong with the bundle is in the verdict,
        also that a part of it takes longer than any honest one.
        """
        started = time.perf_counter()
        digest = ""
        try:
            digest, files, manifest = _read(directory)
            checked = CheckedBundle(manifest, files)
            check_files(checked)
        except _Refusal as refusal:
            return _refused(digest, refusal.finding, started)
        except BundleError as error:
            return _refused(digest, Finding("malformed", directory.name, error.message), started)
        if against.digest is not None and against.digest.removeprefix("sha256:") != digest:
            checked.refuse("other_bundle", f"the bundle's digest is {digest}")
        if not checked.findings:
            check_wiring(checked)
            check_circuits(checked)
        if not checked.findings:
            check_instances(checked)
        if not checked.findings:
            self._check_proofs(checked, deadline)
            check_replays(checked, self._replays, against.tolerance, deadline)
            _check_srs(checked, against)
            if against.model is not None:
                checked.findings += belongs(
                    manifest, files, against.model, srs=against.srs, cache=against.cache
                )
        proved = replayed = 0
        if not checked.findings:
            proved = sum(isinstance(part, ProvedSlice) for part in manifest.slices)
            replayed = len(manifest.slices) - proved
        return Verdict(
            accepted=not checked.findings,
            digest=digest,
            reasons=tuple(checked.findings),
            proved=proved,
            replayed=replayed,
            slices=len(manifest.slices),
            overall_security=100 * proved / max(1, len(manifest.slices)),
            trusted=_trusted(manifest, against),
            seconds=time.perf_counter() - started,
        )

    def _check_proofs(self, checked: CheckedBundle, deadline: Deadline) -> None:
        circuits = {circuit.digest: circuit for circuit in checked.manifest.circuits}
        names, statements = [], []
        for part in checked.manifest.slices:
            if isinstance(part, ReplayedSlice):
                continue
            for proof in part.proofs:
                circuit = circuits[proof.circuit]
                names.append((part.name, proof.piece.name))
                statements.append(
                    Statement(
                        checked.files[proof.file],
                        checked.files[circuit.settings],
                        checked.files[circuit.verifying_key],
                        checked.files[circuit.srs],
                    )
                )
        if not statements:
            return
        try:
            most = SECONDS + SECONDS_A_PROOF * len(statements)
            reasons = self._verify(statements, deadline.earlier(most))
        except MissingExtraError:
            raise
        except EngineError as error:
            if isinstance(error, DeadlineError) and deadline.expired:
                raise
            checked.refuse("verifier_crashed", f"a proof or key ends the verifier: {error.message}")
            return
        for (name, piece), reason in zip(names, reasons, strict=True):
            if reason is not None:
                checked.refuse(
                    "proof_rejected", f"the proof of {piece} does not hold: {reason}", name
                )

    def _verify(self, statements: list[Statement], deadline: Deadline) -> list[str | None]:
        """What ezkl says of each proof, the proofs dealt out to the workers in turn."""
        count = min(len(self._backends), len(statements))
        reasons: list[str | None] = [None] * len(statements)
        with ThreadPoolExecutor(count) as pool:
            shares = [
                pool.submit(backend.verify, statements[place::count], deadline=deadline)
                for place, backend in enumerate(self._backends[:count])
            ]
            for place, share in enumerate(shares):
                reasons[place::count] = share.result()
        return reasons


def verify_bundle(
    directory: Path, against: Against = NOTHING, *, deadline: Deadline = NO_DEADLINE
) -> Verdict:
    """The verdict on one bundle; see `BundleVerifier.verify`."""
    with BundleVerifier() as verifier:
        return verifier.verify(directory, against, deadline=deadline)


class _Refusal(Exception):
    def __init__(self, finding: Finding) -> None:
        self.finding = finding


def _refused(digest: str, finding: Finding, started: float) -> Verdict:
    seconds = time.perf_counter() - started
    return Verdict(False, digest, (finding,), 0, 0, 0, 0.0, (), seconds)


def _read(directory: Path) -> tuple[str, dict[str, bytes], ProofManifest]:
    """The manifest's digest, every listed file, and the manifest; nothing else is opened."""
    with open_directory(directory) as opened:
        data = read_file(opened, MANIFEST, limit=MAX_MANIFEST_BYTES)
        told = read_file(opened, DIGEST, limit=100).decode("ascii", "replace").strip()
        digest = hashlib.sha256(data).hexdigest()
        if told != digest:
            raise _Refusal(
                Finding("manifest_edited", MANIFEST, f"it is not the manifest that {DIGEST} names")
            )
        manifest = parse(data)
        present = set(os.listdir(opened)) - {MANIFEST, DIGEST}  # noqa: PTH208
        unlisted = present - {entry.name for entry in manifest.files}
        if unlisted:
            name = min(unlisted)[:80]
            raise _Refusal(Finding("unlisted_file", name, f"the manifest does not list {name!r}"))
        files = {
            entry.name: _read_listed(opened, entry.name, entry.size) for entry in manifest.files
        }
    return digest, files, manifest


def _read_listed(directory: int, name: str, size: int) -> bytes:
    """The file's bytes; of a regular file that is larger than listed, some that cannot fit."""
    try:
        return read_file(directory, name, limit=size)
    except VanishedFileError:
        raise
    except BundleError:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size > size:
            return b"" if size else b"more"
        raise


def _check_srs(checked: CheckedBundle, against: Against) -> None:
    if against.srs is None:
        return
    source = SrsSource(Path(), files=against.srs)
    for circuit in checked.manifest.circuits:
        try:
            srs = source.find(circuit.logrows)
        except ConfigError as error:
            checked.refuse("srs_mismatch", error.message, circuit.srs)
            continue
        if srs is None or not same_secret(srs.of_verifier(), checked.files[circuit.srs]):
            checked.refuse("srs_mismatch", f"it is not from {against.srs}", circuit.srs)


def _trusted(manifest: ProofManifest, against: Against) -> tuple[str, ...]:
    proved = any(isinstance(part, ProvedSlice) for part in manifest.slices)
    replayed = any(isinstance(part, ReplayedSlice) for part in manifest.slices)
    trusted = []
    if proved:
        trusted.append(
            f"the proof system and its implementation in this machine's ezkl ({manifest.backend} "
            "made the proofs)"
        )
        if manifest.srs_origin == "development":
            trusted.append(f"{DEVELOPMENT_WARNING} (the bundle says so itself)")
        elif against.srs is None and against.model is not None:
            # Without a file keys are made again under this machine's own, or not at all.
            trusted.append(f"{DEVELOPMENT_WARNING} (no --srs names a ceremony's)")
        elif against.srs is None:
            trusted.append(
                "that the reference string is a ceremony's: it is the bundle's own word until "
                "--srs names the file"
            )
        else:
            trusted.append(f"that nobody knows the secret of the SRS at {against.srs}")
        trusted.append(
            f"that the model is the slices in fixed point at 2^-{manifest.layout.get('scale')}: "
            "the proofs are about these integers, not about floats"
        )
    if against.model is None:
        trusted.append(
            f"that keys, settings and slices belong to the model sha256:{manifest.model_sha256}: "
            "attested by whoever made the bundle; --model settles it"
        )
    if replayed:
        trusted.append("ONNX Runtime on this machine, for the slices that it ran again")
        if against.tolerance:
            trusted.append(
                "that an output which was run again may differ from the recorded one by up to "
                f"{against.tolerance:g} times its largest value"
            )
    trusted.append("nothing says where the input came from")
    return tuple(map(printable, trusted))


def to_plain(verdict: Verdict) -> dict[str, object]:
    """The verdict in JSON's own types."""
    found: dict[str, object] = msgspec.to_builtins(verdict)
    return found
