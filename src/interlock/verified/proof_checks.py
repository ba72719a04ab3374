"""Checks of a bundle that need no proof system: digests, wiring, circuits, and the links.

Each check adds findings to the bundle it looks at. A later check may rely on what an earlier one
let pass, so the caller stops where one found something.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError, ReadableValueError
from interlock.verified.circuit_records import circuit_digest
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.field import dequantise, quantise
from interlock.verified.proof_file import read_proof
from interlock.verified.proof_manifest import (
    ProofManifest,
    ProvedSlice,
    ReplayedSlice,
    Tensor,
)
from interlock.verified.proof_rebuild import Finding
from interlock.verified.proof_settings import instance_sizes, problem_of_settings
from interlock.verified.srs import VERIFIER_BYTES, generators_fit
from interlock.verified.tiling import input_cut, input_size, output_cut, problem_of

_DTYPES = {"float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"}
_MAX_ELEMENTS = 1 << 26
# Of an array in NumPy, and of what a circuit's layer takes and gives.
_MAX_AXES, _MAX_LAYER_AXES = 64, 4

LEAST_SCALE = 8
"""Fewer fractional bits would make a fixed point that is the model in name only."""


@dataclass
class CheckedBundle:
    """A bundle on its way through the checks: its files, then its tensors, and what was found."""

    manifest: ProofManifest
    files: dict[str, bytes]
    tensors: dict[str, Array] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def refuse(self, code: str, text: str, where: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(code, where, text))


def check_files(checked: CheckedBundle) -> None:
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


def check_wiring(checked: CheckedBundle) -> None:
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
        if len(set(part.outputs)) < len(part.outputs) or len(set(part.inputs)) < len(part.inputs):
            checked.refuse("wiring", "it names a tensor twice", part.name)
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


def _load(checked: CheckedBundle, tensor: Tensor) -> str | None:
    """Put the tensor's values into `checked.tensors`; returns what is wrong with it."""
    # The axes first: a product of half a million of them takes minutes.
    if len(tensor.shape) > _MAX_AXES:
        return f"no array has its shape of {len(tensor.shape)} axes"
    if tensor.dtype not in _DTYPES or not all(0 <= dim < 1 << 63 for dim in tensor.shape):
        return f"dtype {tensor.dtype!r} with shape {tensor.shape} is not accepted"
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    count = math.prod(tensor.shape)
    data = checked.files[tensor.file]
    if count > _MAX_ELEMENTS or count * dtype.itemsize != len(data):
        return f"its file has {len(data)} bytes, which is not its shape {tensor.shape}"
    try:
        values = np.frombuffer(data, dtype=dtype).reshape(tensor.shape)
    except ValueError:  # an empty one beyond any size
        return f"no array has its shape of {len(tensor.shape)} axes"
    checked.tensors[tensor.name] = values.astype(tensor.dtype, copy=False)
    return None


def check_circuits(checked: CheckedBundle) -> None:
    """Circuits are what their digests say, laid out as the manifest says, all public."""
    manifest = checked.manifest
    known = {circuit.digest for circuit in manifest.circuits}
    if len(known) != len(manifest.circuits):
        checked.refuse("circuit", "a circuit is listed twice")
    scale = manifest.layout.get("scale", 0)
    if not LEAST_SCALE <= scale <= 20 or manifest.layout != CircuitSettings(scale).told():
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
        elif not generators_fit(checked.files[circuit.srs]):
            checked.refuse("srs", "its generators are not those of the curve", circuit.srs)
        if srs_of.setdefault(circuit.srs_sha256, circuit.srs) != circuit.srs:
            checked.refuse("srs", "one reference string has two verifier's parts", circuit.srs)
    for part in manifest.slices:
        if isinstance(part, ReplayedSlice):
            continue
        if any(proof.circuit not in known for proof in part.proofs):
            checked.refuse("circuit", "a proof is under a circuit that is not listed", part.name)
        problem = _misfit(checked, part) or problem_of(
            part.geometry, [proof.piece for proof in part.proofs]
        )
        if problem is not None:
            checked.refuse("pieces", problem, part.name)


def _misfit(checked: CheckedBundle, part: ProvedSlice) -> str | None:
    """Why the slice's tensors are not those of its geometry, by their size; None where they are."""
    if not part.inputs:
        return "no circuit takes nothing"
    if part.geometry.kind == "whole":
        return None
    for names, what, shape in (
        (part.inputs, "input", part.geometry.in_shape),
        (part.outputs, "output", part.geometry.out_shape),
    ):
        if len(shape) > _MAX_LAYER_AXES:
            return f"the geometry's {what} has {len(shape)} axes"
        sizes = [checked.tensors[name].size for name in names if name in checked.tensors]
        if sizes != [math.prod(shape)]:
            return f"the geometry's {what} is not the slice's"
    return None


def check_instances(checked: CheckedBundle) -> None:
    """The instances of every proof are cuts of the recorded tensors: this links the slices."""
    scale = checked.manifest.layout["scale"]
    declared = {
        circuit.digest: instance_sizes(checked.files[circuit.settings])
        for circuit in checked.manifest.circuits
    }
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
                exact = dequantise(integers[name], scale)
                # The bits, since a zero with a sign is no circuit's and means something to ONNX.
                if exact.tobytes() != checked.tensors[name].tobytes():
                    raise InputError(f"'{name}' holds values that no circuit gives")
            _link(checked, part, integers, declared, scale)
        except ReadableValueError as error:
            checked.refuse("readable_value", error.message, part.name)
        except InputError as error:
            code = "malformed_proof" if error.code == "malformed_proof" else "instances"
            checked.refuse(code, error.message, part.name)


def _link(
    checked: CheckedBundle,
    part: ProvedSlice,
    integers: dict[str, Array],
    declared: dict[str, list[int]],
    scale: int,
) -> None:
    geometry = part.geometry
    for proof in part.proofs:
        found = read_proof(checked.files[proof.file])
        outputs = [output_cut(geometry, proof.piece, integers[name]) for name in part.outputs]
        if geometry.kind == "whole":
            taken = [integers[name].size for name in part.inputs]
        else:
            taken = [input_size(geometry, proof.piece)]
        given = [len(value) for value in outputs]
        # What follows a circuit's own instances no constraint touches, and ezkl lets it pass.
        if declared[proof.circuit] != [*taken, *given]:
            raise InputError(
                f"the circuit of {proof.piece.name} has other inputs or outputs than the slice"
            )
        # Before anything is cut: a geometry may see far more rows than there are.
        if len(found.instances) != sum(taken) + sum(given):
            raise InputError(f"the proof of {proof.piece.name} has another number of instances")
        inputs = [input_cut(geometry, proof.piece, integers[name]) for name in part.inputs]
        entering, leaving = np.concatenate(inputs), np.concatenate(outputs)
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
        found.check_readable(scale, taken, given)
