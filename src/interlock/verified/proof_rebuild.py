"""Settles whether a bundle's verifying keys belong to a model, by making the keys again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx

from interlock.kernel.errors import ConfigError, EngineUnavailableError, InterlockError
from interlock.verified.circuit_prover import CircuitProver, default_cache
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.lowering import lower
from interlock.verified.proof_manifest import Circuit, ProofManifest, ProvedSlice
from interlock.verified.proof_system import GRAPH, SETTINGS, VERIFYING_KEY
from interlock.verified.slices import Slice, SlicedModel, sizes
from interlock.verified.srs import Srs, same_secret
from interlock.verified.tiling import WHOLE, Piece, layer_of


@dataclass(frozen=True)
class Finding:
    """Why a bundle is refused: a stable code, the slice or file, and a sentence.

    Both may quote the bundle, which must not draw on a terminal: what cannot be printed is left
    out, and long texts are cut.
    """

    code: str
    where: str
    text: str

    def __post_init__(self) -> None:
        """Leave out what cannot be printed."""
        object.__setattr__(self, "where", printable(self.where))
        object.__setattr__(self, "text", printable(self.text))

    def __str__(self) -> str:
        return f"{self.code}: {self.where + ': ' if self.where else ''}{self.text}"


def printable(text: str) -> str:
    """The first 500 characters of `text`, those that cannot be printed as question marks."""
    return "".join(char if char.isprintable() else "?" for char in text[:500])


def belongs(
    manifest: ProofManifest,
    files: Mapping[str, bytes],
    model: SlicedModel,
    *,
    srs: Path | None,
    cache: Path | None,
) -> list[Finding]:
    """What shows that the bundle is of another model; empty where all of it is the model's."""
    if manifest.model_sha256 != model.sha256:
        return [Finding("other_model", "", f"the bundle names the model {manifest.model_sha256}")]
    if (manifest.inputs, manifest.outputs) != (
        tuple(spec.name for spec in model.inputs),
        model.outputs,
    ):
        return [Finding("other_model", "", "the model's inputs or outputs are other ones")]
    told = [(part.name, part.sha256, part.inputs, part.outputs) for part in manifest.slices]
    cut = [
        (
            part.name,
            part.sha256,
            tuple(spec.name for spec in part.inputs),
            tuple(spec.name for spec in part.outputs),
        )
        for part in model.slices
    ]
    if told != cut:
        return [Finding("other_slices", "", "the slices are not those that the model is cut into")]
    outputs = (spec for part in model.slices for spec in part.outputs)
    given = {spec.name: (spec.dtype, sizes(spec)) for spec in (*model.inputs, *outputs)}
    findings = [
        Finding("other_slices", tensor.name, f"no {tensor.dtype} {tensor.shape} in the model")
        for tensor in manifest.tensors
        if (tensor.dtype, tensor.shape) != given[tensor.name]
    ]
    settings = CircuitSettings(manifest.layout["scale"])
    with CircuitProver(cache or default_cache(), settings=settings, srs=srs) as prover:
        done: dict[str, Finding | None] = {}
        for part, source in zip(manifest.slices, model.slices, strict=True):
            if isinstance(part, ProvedSlice):
                findings += _circuits(manifest, files, part, source, prover, done)
    return findings


def _circuits(
    manifest: ProofManifest,
    files: Mapping[str, bytes],
    part: ProvedSlice,
    source: Slice,
    prover: CircuitProver,
    done: dict[str, Finding | None],
) -> list[Finding]:
    circuits = {circuit.digest: circuit for circuit in manifest.circuits}
    parsed = onnx.load_from_string(source.model)
    layer = layer_of(parsed)
    if part.geometry != WHOLE and (layer is None or layer.geometry != part.geometry):
        return [Finding("geometry", part.name, "the pieces are cut for another layer")]
    findings = []
    seen: set[tuple[str, tuple[int, int], int]] = set()
    for proof in part.proofs:
        rows = proof.piece.rows[1] - proof.piece.rows[0]
        key = (proof.circuit, proof.piece.channels, rows)
        if key in seen:
            continue
        seen.add(key)
        try:
            if part.geometry == WHOLE:
                graph = lower(parsed)
            else:
                assert layer is not None
                graph = layer.model(Piece(proof.piece.channels, proof.piece.rows))
        except EngineUnavailableError as error:
            text = f"no circuit of {proof.piece.name} is the model's: {error.message}"
            findings.append(Finding("foreign_circuit", part.name, text))
            continue
        circuit = circuits[proof.circuit]
        digest = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()
        if digest != circuit.graph_sha256:
            text = f"the circuit of {proof.piece.name} is of another graph"
            findings.append(Finding("foreign_circuit", part.name, text))
            continue
        if circuit.digest not in done:
            done[circuit.digest] = _rebuilt(files, circuit, graph, prover, part.name)
        found = done[circuit.digest]
        if found is not None:
            findings.append(found)
    return findings


def _same(one: bytes, other: bytes) -> bool:
    """Whether two settings files say the same.

    ezkl builds the constraints from them, so weaker ones under the right key must not pass. Its
    count of constants differs from run to run; a wrong one only changes how the key is read.
    """
    plain = [msgspec.json.decode(data, type=dict[str, Any]) for data in (one, other)]
    for settings in plain:
        settings.pop("total_const_size", None)
    return plain[0] == plain[1]


def _rebuilt(
    files: Mapping[str, bytes],
    circuit: Circuit,
    graph: onnx.ModelProto,
    prover: CircuitProver,
    name: str,
) -> Finding | None:
    """Make the circuit's keys again and compare the verifying key's bytes."""
    srs: Srs | None = None
    with suppress(ConfigError):  # none of the user's files has that size
        srs = prover.srs.find(circuit.logrows)
    if srs is None or srs.sha256 != circuit.srs_sha256:
        return Finding(
            "srs_unknown",
            name,
            "its keys cannot be made again without the SRS sha256:" + circuit.srs_sha256,
        )
    # The digest says nothing of the verifier's part, whose secret its maker may know.
    if not same_secret(srs.of_verifier(), files[circuit.srs]):
        return Finding("srs_mismatch", name, f"{circuit.srs} is not of the SRS whose digest it has")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        try:
            prover.rebuild(graph, circuit.logrows, srs, directory)
        except InterlockError as error:
            return Finding("rebuild_failed", name, error.message)
        assert (directory / GRAPH).exists()
        if (directory / VERIFYING_KEY).read_bytes() != files[circuit.verifying_key]:
            return Finding("foreign_key", name, "its verifying key is not the model's")
        if not _same((directory / SETTINGS).read_bytes(), files[circuit.settings]):
            return Finding("foreign_settings", name, "its settings are not the model's")
    return None
