"""Checks a proof bundle that a stranger made: reads, links, verifies, replays, and says what is
trusted.

Nothing in the bundle is believed before it is checked, and no check depends on one that failed.
The order is: the manifest, every file's digest, the chain's wiring, the instances of each proof
against the tensors, the proofs themselves, and the replays. What remains to be trusted is listed
in the verdict, whatever the outcome.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from interlock.bundle.read import open_directory, read_file
from interlock.engines.onnx import SessionConfig
from interlock.engines.worker import WorkerPool
from interlock.kernel.batch import Array
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import BundleError, EngineError, InputError, MissingExtraError
from interlock.verified.circuit_prover import circuit_digest
from interlock.verified.ezkl_backend import CircuitSettings, EzklBackend
from interlock.verified.field import quantise
from interlock.verified.proof_file import ReadableValueError, read_proof
from interlock.verified.proof_manifest import (
    DIGEST,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Circuit,
    ProofManifest,
    ProvedSlice,
    ReplayedSlice,
    Tensor,
    parse,
)
from interlock.verified.proof_rebuild import Finding, belongs
from interlock.verified.proof_settings import problem_of_settings
from interlock.verified.proof_system import Statement
from interlock.verified.slices import SlicedModel
from interlock.verified.slicing import parse as parse_onnx
from interlock.verified.srs import DEVELOPMENT_WARNING, VERIFIER_BYTES, SrsSource
from interlock.verified.tiling import input_cut, output_cut, problem_of

MEMORY_LIMIT = 4 << 30
"""Bytes of the process that verifies proofs, and of each that replays."""

_DTYPES = {"float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"}
_MAX_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Verdict:
    """What a verifier found.

    accepted    whether every check passed
    digest      SHA-256 of the manifest: the bundle's name
    reasons     why it was refused; empty where it was accepted
    proved, replayed, slices
                slices whose proofs verified, that were run again with the same result, and all
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


@dataclass
class _Checked:
    """A bundle on its way through the checks."""

    manifest: ProofManifest
    files: dict[str, bytes]
    tensors: dict[str, Array] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def refuse(self, code: str, text: str, where: str = "") -> None:
        self.findings.append(Finding(code, where, text))


class BundleVerifier:
    """Verifies bundles with one worker process, which starts with the first proof.

    Safe across threads; checks of proofs run one bundle at a time.
    """

    def __init__(self) -> None:
        self._backend = EzklBackend(memory_limit=MEMORY_LIMIT, threads=os.cpu_count() or 1)

    def start(self) -> None:
        """Start the worker now; raises MissingExtraError where ezkl is not installed."""
        self._backend.start()

    def close(self) -> None:
        """End the worker."""
        self._backend.close()

    def __enter__(self) -> BundleVerifier:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def verify(
        self, directory: Path, against: Against = NOTHING, *, deadline: Deadline = NO_DEADLINE
    ) -> Verdict:
        """The verdict on a bundle.

        Raises MissingExtraError where it holds proofs and ezkl is not installed, and
        DeadlineError. Whatever is wrong with the bundle is in the verdict.
        """
        started = time.perf_counter()
        digest = ""
        try:
            digest, files, manifest = _read(directory)
            checked = _Checked(manifest, files)
            _check_files(checked)
        except _Refusal as refusal:
            return _refused(digest, refusal.finding, started)
        except BundleError as error:
            return _refused(digest, Finding("malformed", directory.name, error.message), started)
        if against.digest is not None and against.digest.removeprefix("sha256:") != digest:
            checked.refuse("other_bundle", f"the bundle's digest is {digest}")
        proved = replayed = 0
        if not checked.findings:
            _check_wiring(checked)
            _check_circuits(checked)
        if not checked.findings:
            _check_instances(checked)
        if not checked.findings:
            self._check_proofs(checked, deadline)
            _check_replays(checked, against.tolerance, deadline)
            _check_srs(checked, against)
            if against.model is not None:
                checked.findings += belongs(
                    manifest, files, against.model, srs=against.srs, cache=against.cache
                )
            proved = sum(isinstance(part, ProvedSlice) for part in manifest.slices)
            replayed = len(manifest.slices) - proved
        failed = {finding.where for finding in checked.findings}
        if checked.findings:
            proved = (
                sum(
                    isinstance(part, ProvedSlice) and part.name not in failed
                    for part in manifest.slices
                )
                if proved
                else 0
            )
            replayed = 0
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

    def _check_proofs(self, checked: _Checked, deadline: Deadline) -> None:
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
            reasons = self._backend.verify(statements, deadline=deadline)
        except MissingExtraError:
            raise
        except EngineError as error:
            if error.code == "deadline":
                raise
            checked.refuse("verifier_crashed", f"a proof or key ends the verifier: {error.message}")
            return
        for (name, piece), reason in zip(names, reasons, strict=True):
            if reason is not None:
                checked.refuse(
                    "proof_rejected", f"the proof of {piece} does not hold: {reason}", name
                )


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
            entry.name: read_file(opened, entry.name, limit=entry.size) for entry in manifest.files
        }
    return digest, files, manifest


def _check_files(checked: _Checked) -> None:
    """Every file has its digest; the finding says what the file is."""
    manifest = checked.manifest
    roles = {tensor.file: "tensor" for tensor in manifest.tensors}
    for circuit in manifest.circuits:
        roles |= {circuit.settings: "settings", circuit.verifying_key: "verifying_key"}
        roles[circuit.srs] = "srs"
    for part in manifest.slices:
        if isinstance(part, ReplayedSlice):
            roles[part.model] = "onnx_model"
        else:
            roles |= {proof.file: "proof" for proof in part.proofs}
    for entry in manifest.files:
        data = checked.files[entry.name]
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            checked.refuse(
                f"{roles[entry.name]}_changed",
                "the file is not the one in the manifest",
                entry.name,
            )


def _check_wiring(checked: _Checked) -> None:
    """Tensors have one maker each, slices are all there in order, and the counts are right."""
    manifest = checked.manifest
    for tensor in manifest.tensors:
        problem = _load(checked, tensor)
        if problem is not None:
            checked.refuse("tensor", problem, tensor.name)
    names = [tensor.name for tensor in manifest.tensors]
    if len(set(names)) != len(names):
        checked.refuse("tensor", "a tensor is listed twice")
    known = set(manifest.inputs)
    if not known <= set(names) or not manifest.inputs:
        checked.refuse("wiring", "an input of the model is not among the tensors")
    for place, part in enumerate(manifest.slices):
        if part.name != f"slice_{place}":
            checked.refuse(
                "slice_order", f"slice_{place} is missing or out of order: {part.name!r} is there"
            )
            return
        for name in part.inputs:
            if name not in known:
                checked.refuse("wiring", f"no slice before it makes '{name}'", part.name)
        for name in part.outputs:
            if name in known or name not in checked.tensors:
                checked.refuse("wiring", f"'{name}' is made twice, or not recorded", part.name)
        if not part.outputs:
            checked.refuse("wiring", "it gives nothing", part.name)
        known |= set(part.outputs)
    for name in (*manifest.outputs, *names):
        if name not in known:
            checked.refuse("slice_missing", f"no slice makes '{name}'")
    used = {name for part in manifest.slices for name in part.inputs} | set(manifest.outputs)
    for name in known - used:
        checked.refuse("slice_missing", f"no slice takes '{name}', and it is no output")
    if not manifest.outputs or not manifest.slices:
        checked.refuse("slice_missing", "the bundle has no slice, or the model no output")
    total = len(manifest.slices)
    proved = sum(isinstance(part, ProvedSlice) for part in manifest.slices)
    claims = manifest.claims
    if (claims.slices, claims.proved, claims.replayed) != (total, proved, total - proved) or (
        total and not math.isclose(claims.overall_security, 100 * proved / total, rel_tol=1e-12)
    ):
        checked.refuse(
            "claims",
            f"it claims {claims.proved} of {claims.slices} slices proved and "
            f"{claims.overall_security:g}%; it holds proofs of {proved} of {total}",
        )


def _load(checked: _Checked, tensor: Tensor) -> str | None:
    """Put the tensor's values into `checked.tensors`; returns what is wrong with it."""
    if tensor.dtype not in _DTYPES or not all(dim >= 0 for dim in tensor.shape):
        return f"dtype {tensor.dtype!r} with shape {tensor.shape} is not accepted"
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    count = math.prod(tensor.shape)
    data = checked.files[tensor.file]
    if count > _MAX_ELEMENTS or count * dtype.itemsize != len(data):
        return f"its file has {len(data)} bytes, which is not its shape {tensor.shape}"
    values = np.frombuffer(data, dtype=dtype).reshape(tensor.shape)
    checked.tensors[tensor.name] = values.astype(tensor.dtype)
    return None


def _check_circuits(checked: _Checked) -> None:
    """Circuits are what their digests say, laid out as the manifest says, all public."""
    manifest = checked.manifest
    known = {circuit.digest for circuit in manifest.circuits}
    if len(known) != len(manifest.circuits):
        checked.refuse("circuit", "a circuit is listed twice")
    scale = manifest.layout.get("scale", 0)
    if not 1 <= scale <= 20 or manifest.layout != CircuitSettings(scale).told():
        checked.refuse(
            "layout", f"the circuits' layout {manifest.layout} is none of this release's"
        )
        return
    srs_of: dict[str, str] = {}
    for circuit in manifest.circuits:
        expected = circuit_digest(
            manifest.backend,
            CircuitSettings(scale),
            circuit.logrows,
            circuit.graph_sha256,
            circuit.srs_sha256,
        )
        if circuit.digest != expected:
            checked.refuse("circuit_digest", "its digest is not that of its parts", circuit.digest)
        problem = problem_of_settings(checked.files[circuit.settings], manifest.layout, circuit)
        if problem is not None:
            checked.refuse("settings", problem, circuit.settings)
        if len(checked.files[circuit.srs]) != VERIFIER_BYTES:
            checked.refuse("srs", f"it has not {VERIFIER_BYTES} bytes", circuit.srs)
        if srs_of.setdefault(circuit.srs_sha256, circuit.srs) != circuit.srs:
            checked.refuse("srs", "one reference string has two verifier's parts", circuit.srs)
    for part in manifest.slices:
        if isinstance(part, ReplayedSlice):
            continue
        if any(proof.circuit not in known for proof in part.proofs):
            checked.refuse("circuit", "a proof is under a circuit that is not listed", part.name)
        problem = problem_of(part.geometry, [proof.piece for proof in part.proofs])
        if problem is not None:
            checked.refuse("pieces", problem, part.name)


def _check_instances(checked: _Checked) -> None:
    """The instances of every proof are cuts of the recorded tensors: this links the slices."""
    scale = checked.manifest.layout["scale"]
    circuits = {circuit.digest: circuit for circuit in checked.manifest.circuits}
    integers: dict[str, Array] = {}
    for part in checked.manifest.slices:
        if isinstance(part, ReplayedSlice):
            continue
        try:
            for name in (*part.inputs, *part.outputs):
                if name not in integers:
                    if checked.tensors[name].dtype != np.float32:
                        raise InputError(f"'{name}' is not float32")
                    integers[name] = quantise(checked.tensors[name], scale, name)
            for name in part.outputs:
                exact = integers[name].astype(np.float64) / (1 << scale)
                if not np.array_equal(exact.astype(np.float32), checked.tensors[name]):
                    raise InputError(f"'{name}' holds values that no circuit gives")
            _link(checked, part, integers, circuits, scale)
        except ReadableValueError as error:
            checked.refuse("readable_value", error.message, part.name)
        except InputError as error:
            code = "malformed_proof" if error.code == "malformed_proof" else "instances"
            checked.refuse(code, error.message, part.name)


def _link(
    checked: _Checked,
    part: ProvedSlice,
    integers: dict[str, Array],
    circuits: dict[str, Circuit],
    scale: int,
) -> None:
    geometry = part.geometry
    if geometry.kind != "whole":
        shapes = (geometry.in_shape, geometry.out_shape)
        tensors = ((part.inputs, "input"), (part.outputs, "output"))
        for (names, what), shape in zip(tensors, shapes, strict=True):
            if len(names) != 1 or integers[names[0]].size != math.prod(shape):
                raise InputError(f"the geometry's {what} is not the slice's")
    for proof in part.proofs:
        found = read_proof(checked.files[proof.file])
        entering = np.concatenate(
            [input_cut(geometry, proof.piece, integers[name]) for name in part.inputs]
        )
        leaving = np.concatenate(
            [output_cut(geometry, proof.piece, integers[name]) for name in part.outputs]
        )
        if len(found.instances) != len(entering) + len(leaving):
            raise InputError(f"the proof of {proof.piece.name} has another number of instances")
        if not np.array_equal(found.instances[: len(entering)], entering):
            checked.refuse(
                "input_link",
                f"the proof of {proof.piece.name} is not about what enters the slice",
                part.name,
            )
        if not np.array_equal(found.instances[len(entering) :], leaving):
            checked.refuse(
                "output_link",
                f"the proof of {proof.piece.name} does not give what leaves the slice",
                part.name,
            )
        found.check_readable(scale)


def _check_replays(checked: _Checked, tolerance: float, deadline: Deadline) -> None:
    for part in checked.manifest.slices:
        if isinstance(part, ProvedSlice):
            continue
        model = checked.files[part.model]
        if hashlib.sha256(model).hexdigest() != part.sha256:
            checked.refuse("onnx_digest", "its model is not the one it names", part.name)
            continue
        try:
            parse_onnx(model)
            config = SessionConfig(optimization=part.optimization)
            inputs = {name: checked.tensors[name] for name in part.inputs}
            with WorkerPool(model, config, name="replay", memory_limit=MEMORY_LIMIT) as pool:
                outputs = pool.run(inputs, outputs=part.outputs, deadline=deadline)
        except (BundleError, EngineError, InputError) as error:
            if error.code == "deadline":
                raise
            checked.refuse("replay_failed", f"it cannot be run again: {error.message}", part.name)
            continue
        for name in part.outputs:
            problem = _differs(checked.tensors[name], outputs[name], tolerance)
            if problem is not None:
                checked.refuse("replay_differs", f"'{name}': {problem}", part.name)


def _differs(told: Array, found: Array, tolerance: float) -> str | None:
    if told.dtype != found.dtype or told.shape != found.shape:
        return f"running again gives {found.dtype} {found.shape}"
    if told.tobytes() == found.tobytes():
        return None
    if told.dtype.kind != "f":
        return "running again gives other values"
    worst = float(np.max(np.abs(told.astype(np.float64) - found), initial=0.0))
    largest = float(np.max(np.abs(found), initial=0.0))
    if worst <= tolerance * largest:
        return None
    return f"running again differs by up to {worst:.3g} (largest value {largest:.3g})"


def _check_srs(checked: _Checked, against: Against) -> None:
    if against.srs is None:
        return
    source = SrsSource(Path(), files=against.srs)
    for circuit in checked.manifest.circuits:
        srs = source.find(circuit.logrows)
        if srs is None or srs.of_verifier()[-256:] != checked.files[circuit.srs][-256:]:
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
            f"that keys and slices belong to the model sha256:{manifest.model_sha256}: attested "
            "by whoever made the bundle; --model settles it"
        )
    if replayed:
        trusted.append("ONNX Runtime on this machine, for the slices that it ran again")
    trusted.append("nothing says where the input came from")
    return tuple(trusted)


def to_plain(verdict: Verdict) -> dict[str, object]:
    """The verdict in JSON's own types."""
    found: dict[str, object] = msgspec.to_builtins(verdict)
    return found
