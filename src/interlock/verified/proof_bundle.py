"""Writes a proof bundle: one inference, with all that a stranger needs to check it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from interlock import __version__
from interlock.bundle.publish import publish
from interlock.engines.onnx import Optimization
from interlock.kernel.batch import Array
from interlock.kernel.errors import ConfigError, EngineUnavailableError
from interlock.verified.chain import ChainRun, SliceRun
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.proof_manifest import (
    DIGEST,
    MANIFEST,
    SCHEMA,
    Circuit,
    Claims,
    Proof,
    ProofManifest,
    ProvedSlice,
    ReplayedSlice,
    Tensor,
    file_entry,
)
from interlock.verified.proof_system import GRAPH, SETTINGS, VERIFYING_KEY
from interlock.verified.srs import Srs


def write_bundle(
    directory: Path,
    run: ChainRun,
    prover: CircuitProver,
    *,
    optimization: Optimization = "all",
) -> str:
    """Write the bundle of a recorded inference; returns its digest, the manifest's SHA-256.

    directory     that does not exist yet; it appears in one step
    run           an inference with `record=True`, so that every slice has its inputs and outputs
    optimization  that ONNX Runtime ran the slices with

    Raises ConfigError for a run without its record, for a slice that only has a witness, and for
    a directory that exists, EngineUnavailableError where a key has left the cache since, and
    BundleError where the file system refuses.
    """
    if directory.exists():
        raise ConfigError(f"{directory} exists", hint="name a directory that does not exist yet")
    writer = _Writer(prover, optimization)
    files, manifest = writer.bundle(run)
    data = manifest.encode()
    digest = hashlib.sha256(data).hexdigest()
    publish(directory, {**files, MANIFEST: data, DIGEST: f"{digest}\n".encode()})
    return digest


class _Writer:
    def __init__(self, prover: CircuitProver, optimization: Optimization) -> None:
        self._prover = prover
        self._optimization = optimization
        self.files: dict[str, bytes] = {}
        self._circuits: dict[str, Circuit] = {}

    def bundle(self, run: ChainRun) -> tuple[dict[str, bytes], ProofManifest]:
        tensors = dict(run.inputs)
        slices: list[ProvedSlice | ReplayedSlice] = []
        for entry in run.slices:
            if not entry.outputs:
                raise ConfigError(
                    f"{entry.part.name} has no record of its tensors",
                    hint="infer with record=True",
                )
            tensors |= entry.outputs
            slices.append(self._proved(entry) if entry.proof is not None else self._onnx(entry))
        proved = sum(isinstance(part, ProvedSlice) for part in slices)
        listed = tuple(
            self._tensor(place, name, array) for place, (name, array) in enumerate(tensors.items())
        )
        manifest = ProofManifest(
            schema_version=SCHEMA,
            created_by=f"interlock {__version__}",
            backend=self._prover.backend_name(),
            model_sha256=run.model.sha256,
            layout=self._prover.settings.told(),
            srs_origin=self._prover.srs.origin,
            inputs=tuple(run.inputs),
            outputs=tuple(run.model.outputs),
            tensors=listed,
            slices=tuple(slices),
            circuits=tuple(self._circuits.values()),
            claims=Claims(len(slices), proved, len(slices) - proved, 100 * proved / len(slices)),
            files=tuple(file_entry(name, data) for name, data in sorted(self.files.items())),
        )
        return self.files, manifest

    def _tensor(self, place: int, name: str, array: Array) -> Tensor:
        file = f"tensor-{place}.bin"
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        self.files[file] = little.tobytes()
        return Tensor(name, array.dtype.name, array.shape, file)

    def _proved(self, entry: SliceRun) -> ProvedSlice:
        assert entry.proof is not None
        part = entry.part
        tiling, _ = self._prover.circuits_of(part)
        if [piece.name for piece in tiling.pieces] != [one.piece for one in entry.proof.pieces]:
            raise ConfigError(f"{part.name} was set up in other pieces since it was proved")
        proofs = []
        for number, (piece, proof) in enumerate(
            zip(tiling.pieces, entry.proof.pieces, strict=True)
        ):
            file = f"{part.name}-{number}.proof.json"
            self.files[file] = proof.proof
            proofs.append(Proof(piece, self._circuit(proof.circuit), file))
        return ProvedSlice(
            name=part.name,
            sha256=part.sha256,
            inputs=tuple(spec.name for spec in part.inputs),
            outputs=tuple(spec.name for spec in part.outputs),
            geometry=tiling.geometry,
            proofs=tuple(proofs),
        )

    def _onnx(self, entry: SliceRun) -> ReplayedSlice:
        if entry.method == "witness":
            raise ConfigError(
                f"{entry.part.name} has a witness and no proof; a bundle holds proofs and replays"
            )
        part = entry.part
        file = f"{part.name}.onnx"
        self.files[file] = part.model
        return ReplayedSlice(
            name=part.name,
            sha256=part.sha256,
            inputs=tuple(spec.name for spec in part.inputs),
            outputs=tuple(spec.name for spec in part.outputs),
            model=file,
            optimization=self._optimization,
            reason=entry.fallback or "no circuit was asked for",
        )

    def _circuit(self, digest: str) -> str:
        if digest not in self._circuits:
            with self._prover.keys.use(digest) as entry:
                about = self._prover.keys.about(digest)
                srs = None if about is None else self._prover.srs.find(about.logrows)
                if entry is None or about is None or srs is None:
                    raise EngineUnavailableError(
                        f"the verifying key of {digest[:16]} has left the cache",
                        hint="set the slice up again and prove again",
                    )
                graph = hashlib.sha256((entry / GRAPH).read_bytes()).hexdigest()
                settings, key = f"{digest[:24]}.settings.json", f"{digest[:24]}.vk"
                self.files[settings] = (entry / SETTINGS).read_bytes()
                self.files[key] = (entry / VERIFYING_KEY).read_bytes()
            self._circuits[digest] = Circuit(
                digest, graph, about.logrows, settings, key, self._srs(srs), srs.sha256
            )
        return digest

    def _srs(self, srs: Srs) -> str:
        file = f"{srs.sha256[:24]}.srs"
        self.files.setdefault(file, srs.of_verifier())
        return file
