"""`proof_manifest.json`: what a proof bundle claims, and the digest of everything that backs it.

A proof bundle is one flat directory for one inference. The manifest has exactly one encoding; its
SHA-256 names the bundle and stands in `proof_manifest.sha256` beside it. Every tensor that
crosses a cut is in the bundle once, by name, and every proof's instances must be cuts of these
tensors: that is what links the slices. All of it is hostile until `proof_verify` has been through.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import BundleFormatError
from interlock.verified.tiling import Geometry, Piece

MANIFEST = "proof_manifest.json"
DIGEST = "proof_manifest.sha256"
SCHEMA = 1

MAX_MANIFEST_BYTES = 8 << 20
MAX_FILE_BYTES = 256 << 20
MAX_TOTAL_BYTES = 2 << 30
MAX_FILES = 4096

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the bundle: name, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that enters the model or leaves a slice: little-endian values in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str


class Circuit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A circuit that pieces are proved with.

    digest         of its graph, layout and SRS, see `circuit_prover.circuit_digest`
    graph_sha256   of the lowered ONNX graph that it was compiled from, which is not in the bundle
    settings, verifying_key, srs   files; `srs` is the verifier's part of the reference string
    srs_sha256     of the whole reference string
    """

    digest: str
    graph_sha256: str
    logrows: int
    settings: str
    verifying_key: str
    srs: str
    srs_sha256: str


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proof of a piece: which part of the slice, under which circuit, in which file."""

    piece: Piece
    circuit: str
    file: str


class ProvedSlice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="proved"):
    """A slice backed by proofs; its weights are not in the bundle."""

    name: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    geometry: Geometry
    proofs: tuple[Proof, ...]


class ReplayedSlice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="replayed"):
    """A slice that ONNX answered: its model is in the bundle, for the verifier to run.

    reason  why no circuit proved it
    """

    name: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: str
    optimization: Literal["none", "basic", "extended", "all"]
    reason: str


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the bundle says of itself; the verifier counts again."""

    slices: int
    proved: int
    replayed: int
    overall_security: float


class ProofManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a bundle claims.

    model_sha256    of the whole model's file
    layout          how circuits are laid out, by name; `scale` is the fixed point's
    srs_origin      "development": made on the prover's machine; "file": given to it
    inputs, outputs  of the whole model, by name
    """

    schema_version: int
    created_by: str
    backend: str
    model_sha256: str
    layout: dict[str, int]
    srs_origin: Literal["development", "file"]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    slices: tuple[ProvedSlice | ReplayedSlice, ...]
    circuits: tuple[Circuit, ...]
    claims: Claims
    files: tuple[File, ...]

    def encode(self) -> bytes:
        """The one encoding."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


_DECODER = msgspec.json.Decoder(ProofManifest)


def parse(data: bytes) -> ProofManifest:
    """Read a manifest; BundleFormatError where it is not the one encoding of sound entries."""
    manifest = decode_json(data, _DECODER, MANIFEST)
    if manifest.schema_version != SCHEMA:
        raise BundleFormatError(
            f"{MANIFEST}: schema_version is {manifest.schema_version}, this release reads {SCHEMA}"
        )
    if len(manifest.files) > MAX_FILES:
        raise BundleFormatError(
            f"{MANIFEST} lists {len(manifest.files)} files; the limit is {MAX_FILES}"
        )
    listed = [entry.name for entry in manifest.files]
    for entry in manifest.files:
        if not _NAME.fullmatch(entry.name) or entry.name in (MANIFEST, DIGEST):
            raise BundleFormatError(f"{MANIFEST}: {entry.name[:80]!r} is no name of a file in it")
        if not 0 <= entry.size <= MAX_FILE_BYTES or not _SHA256.fullmatch(entry.sha256):
            raise BundleFormatError(f"{MANIFEST}: the entry of {entry.name} is malformed")
    if listed != sorted(set(listed)):
        raise BundleFormatError(f"{MANIFEST}: the files are not sorted, or one is listed twice")
    if sum(entry.size for entry in manifest.files) > MAX_TOTAL_BYTES:
        raise BundleFormatError(f"the files of the bundle exceed {MAX_TOTAL_BYTES} bytes together")
    named = set(_named(manifest))
    if named != set(listed):
        odd = min(named ^ set(listed))
        raise BundleFormatError(f"{MANIFEST}: the file {odd[:80]!r} is used or listed, not both")
    for digest in _digests(manifest):
        if not _SHA256.fullmatch(digest):
            raise BundleFormatError(f"{MANIFEST}: {digest[:80]!r} is no SHA-256")
    seen: set[str] = set()
    for name in _own(manifest):
        if name in seen:
            raise BundleFormatError(f"{MANIFEST}: the file {name[:80]!r} is used twice")
        seen.add(name)
    if manifest.encode() != data:
        raise BundleFormatError(f"{MANIFEST} is not in the canonical encoding")
    return manifest


def file_entry(name: str, data: bytes) -> File:
    """The entry of a file with that content."""
    return File(name, len(data), hashlib.sha256(data).hexdigest())


def _named(manifest: ProofManifest) -> Iterable[str]:
    yield from (circuit.srs for circuit in manifest.circuits)
    yield from _own(manifest)


def _digests(manifest: ProofManifest) -> Iterable[str]:
    yield manifest.model_sha256
    yield from (part.sha256 for part in manifest.slices)
    for circuit in manifest.circuits:
        yield from (circuit.digest, circuit.graph_sha256, circuit.srs_sha256)


def _own(manifest: ProofManifest) -> Iterable[str]:
    """Files with one use each, so that checking costs what their bytes cost and no more."""
    yield from (tensor.file for tensor in manifest.tensors)
    for circuit in manifest.circuits:
        yield from (circuit.settings, circuit.verifying_key)
    for part in manifest.slices:
        if isinstance(part, ReplayedSlice):
            yield part.model
        else:
            yield from (proof.file for proof in part.proofs)
