"""Every way to edit a proof bundle that we could think of is refused, each with its own reason.

The adversary holds the bundle and recomputes every digest in it. What such an adversary can make
without the model's weights is refused from the bundle alone; what belongs to another model is
refused once the verifier has the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.circuits import image, infer, ready_prover, shared_cache, tiny
from support.counts import count
from support.forged_proofs import padded_proof
from support.models import endless_loop
from support.proof_bundles import Manifest, edit_json, edited, element, seal

from interlock.errors import DeadlineError
from interlock.kernel.clock import Deadline
from interlock.verified.chain import ChainRun
from interlock.verified.circuit_prover import CircuitProver
from interlock.verified.ezkl_backend import CircuitSettings
from interlock.verified.field import quantise
from interlock.verified.proof_bundle import write_bundle
from interlock.verified.proof_verify import Against, BundleVerifier, Verdict
from interlock.verified.srs import SrsSource

pytestmark = pytest.mark.zk

SCALE = CircuitSettings().scale


@pytest.fixture(scope="module")
def prover() -> Iterator[CircuitProver]:
    yield from ready_prover((0, 1))


@pytest.fixture(scope="module")
def verifier() -> Iterator[BundleVerifier]:
    with BundleVerifier() as verifier:
        yield verifier


@pytest.fixture(scope="module")
def run(prover: CircuitProver) -> ChainRun:
    return infer(prover, excluded=("slice_2",))


@pytest.fixture(scope="module")
def bundle(prover: CircuitProver, run: ChainRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices 0 (six pieces) and 1 proved, slice 2 answered by ONNX."""
    directory = tmp_path_factory.mktemp("honest") / "bundle"
    write_bundle(directory, run, prover)
    return directory


@pytest.fixture(scope="module")
def other(prover: CircuitProver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of another input."""
    directory = tmp_path_factory.mktemp("other") / "bundle"
    write_bundle(directory, infer(prover, seed=1, excluded=("slice_2",)), prover)
    return directory


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


def test_the_honest_bundle_is_accepted(verifier: BundleVerifier, bundle: Path) -> None:
    verdict = verifier.verify(bundle)
    assert verdict.reasons == ()
    assert verdict.accepted
    assert (verdict.proved, verdict.replayed, verdict.slices) == (2, 1, 3)
    assert verdict.overall_security == pytest.approx(100 * 2 / 3)
    assert any("development SRS: not sound" in sentence for sentence in verdict.trusted)
    assert any("--model settles it" in sentence for sentence in verdict.trusted)


def test_the_honest_bundle_belongs_to_its_model(verifier: BundleVerifier, bundle: Path) -> None:
    verdict = verifier.verify(bundle, Against(model=tiny(), cache=shared_cache()))
    assert verdict.reasons == ()
    assert not any("--model settles it" in sentence for sentence in verdict.trusted)


# What a careless hand changes: the digest of the file does not fit any more.
FLIPS = {
    "slice_0-0.proof.json": "proof_changed",
    "slice_2.onnx": "onnx_model_changed",
    "tensor-1.bin": "tensor_changed",
    ".vk": "verifying_key_changed",
    ".settings.json": "settings_changed",
    ".srs": "srs_changed",
    "proof_manifest.json": "manifest_edited",
}


@pytest.mark.parametrize("ending", FLIPS)
def test_a_flipped_byte_is_found_and_named(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path, ending: str
) -> None:
    def flip(directory: Path, manifest: Manifest) -> None:
        path = next(path for path in directory.iterdir() if path.name.endswith(ending))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    verdict = verifier.verify(edited(bundle, tmp_path, flip, reseal=False))
    assert not verdict.accepted
    assert codes(verdict) == {FLIPS[ending]}


def proof_of(directory: Path, name: str = "slice_1-0") -> Path:
    return directory / f"{name}.proof.json"


def set_instance(place: int, integer: int, *, readable: bool) -> Callable[[Any], None]:
    def change(proof: Any) -> None:
        proof["instances"][0][place] = element(integer)
        if readable:
            pretty = proof["pretty_public_inputs"]
            pretty["inputs"][0][place] = "0x" + bytes.fromhex(element(integer))[::-1].hex()
            pretty["rescaled_inputs"][0][place] = str(integer / (1 << SCALE))

    return change


def an_instance(directory: Path, manifest: Manifest) -> None:
    edit_json(proof_of(directory), set_instance(0, 77, readable=True))


def an_instance_and_the_tensors(directory: Path, manifest: Manifest) -> None:
    """The output of slice 1 moved by one unit wherever it stands, its replay included."""
    path = proof_of(directory)
    document = json.loads(path.read_bytes())
    shown = document["pretty_public_inputs"]
    tensor = next(t for t in manifest["tensors"] if t["name"] == "e")
    values = np.frombuffer((directory / tensor["file"]).read_bytes(), "<f4").copy()
    integers = quantise(values, SCALE) + 1
    (directory / tensor["file"]).write_bytes((integers / (1 << SCALE)).astype("<f4").tobytes())
    count = len(integers)
    document["instances"][0][-count:] = [element(int(i)) for i in integers]
    shown["outputs"][0] = ["0x" + bytes.fromhex(element(int(i)))[::-1].hex() for i in integers]
    shown["rescaled_outputs"][0] = [str(i / (1 << SCALE)) for i in integers]
    path.write_text(json.dumps(document))


def a_proof_byte(directory: Path, manifest: Manifest) -> None:
    def change(proof: Any) -> None:
        proof["proof"][40] ^= 1

    edit_json(proof_of(directory), change)


def a_proof_byte_in_both_forms(directory: Path, manifest: Manifest) -> None:
    def change(proof: Any) -> None:
        proof["proof"][40] ^= 1
        proof["hex_proof"] = "0x" + bytes(proof["proof"]).hex()

    edit_json(proof_of(directory), change)


def a_readable_value(directory: Path, manifest: Manifest) -> None:
    def change(proof: Any) -> None:
        proof["pretty_public_inputs"]["rescaled_outputs"][0][0] = "99.5"

    edit_json(proof_of(directory), change)


def a_readable_element(directory: Path, manifest: Manifest) -> None:
    def change(proof: Any) -> None:
        proof["pretty_public_inputs"]["outputs"][0][0] = "0x" + 64 * "0"

    edit_json(proof_of(directory), change)


def an_input_shown_as_an_output(directory: Path, manifest: Manifest) -> None:
    def change(proof: Any) -> None:
        pretty = proof["pretty_public_inputs"]
        for inputs, outputs in (("inputs", "outputs"), ("rescaled_inputs", "rescaled_outputs")):
            pretty[outputs][0].insert(0, pretty[inputs][0].pop())

    edit_json(proof_of(directory), change)


def an_element_in_two_halves(directory: Path, manifest: Manifest) -> None:
    """Hexadecimal digits with spaces between them, so that two elements read as one."""

    def change(proof: Any) -> None:
        first = proof["instances"][0][0]
        halves = [
            " ".join(part[i : i + 2] for i in range(0, 32, 2)).ljust(64)
            for part in (first[:32], first[32:])
        ]
        proof["instances"][0][:1] = halves
        pretty = proof["pretty_public_inputs"]
        pretty["inputs"][0].insert(0, pretty["inputs"][0][0])
        pretty["rescaled_inputs"][0].insert(0, pretty["rescaled_inputs"][0][0])

    edit_json(proof_of(directory), change)


def an_element_out_of_range(directory: Path, manifest: Manifest) -> None:
    edit_json(proof_of(directory), set_instance(0, 1 << 40, readable=True))


def slices_in_another_order(directory: Path, manifest: Manifest) -> None:
    manifest["slices"][0], manifest["slices"][1] = manifest["slices"][1], manifest["slices"][0]


def slices_with_swapped_names(directory: Path, manifest: Manifest) -> None:
    slices_in_another_order(directory, manifest)
    manifest["slices"][0]["name"], manifest["slices"][1]["name"] = "slice_0", "slice_1"


def proofs_of_two_pieces_swapped(directory: Path, manifest: Manifest) -> None:
    proofs = manifest["slices"][0]["proofs"]
    proofs[0]["file"], proofs[1]["file"] = proofs[1]["file"], proofs[0]["file"]


def proofs_of_two_channels_swapped(directory: Path, manifest: Manifest) -> None:
    """The pieces see the same input rows, under circuits with other weights."""
    proofs = manifest["slices"][0]["proofs"]
    proofs[0]["file"], proofs[3]["file"] = proofs[3]["file"], proofs[0]["file"]


def circuits_of_two_channels_swapped(directory: Path, manifest: Manifest) -> None:
    proofs = manifest["slices"][0]["proofs"]
    proofs[0]["circuit"], proofs[3]["circuit"] = proofs[3]["circuit"], proofs[0]["circuit"]


def a_piece_left_out(directory: Path, manifest: Manifest) -> None:
    del manifest["slices"][0]["proofs"][2]


def a_piece_that_covers_others(directory: Path, manifest: Manifest) -> None:
    """One proof is said to cover all rows of its channel."""
    proofs = manifest["slices"][0]["proofs"]
    del proofs[1:3]
    proofs[0]["piece"]["rows"] = [0, 3]


def a_proof_used_for_two_pieces(directory: Path, manifest: Manifest) -> None:
    proofs = manifest["slices"][0]["proofs"]
    proofs[1]["file"] = proofs[0]["file"]


def a_file_of_two_tensors(directory: Path, manifest: Manifest) -> None:
    """A short manifest must not make the verifier hold one file many times."""
    manifest["tensors"].append({**manifest["tensors"][0], "name": "again"})


def a_digest_that_is_none(directory: Path, manifest: Manifest) -> None:
    manifest["model_sha256"] = "\x1b[2J"


def an_output_named_twice(directory: Path, manifest: Manifest) -> None:
    manifest["slices"][1]["outputs"] *= 2


def rows_that_see_less(directory: Path, manifest: Manifest) -> None:
    manifest["slices"][0]["geometry"]["step"] = 1


def a_verifying_key_of_another_circuit(directory: Path, manifest: Manifest) -> None:
    circuits = manifest["circuits"]
    circuits[0]["verifying_key"], circuits[1]["verifying_key"] = (
        circuits[1]["verifying_key"],
        circuits[0]["verifying_key"],
    )


def junk_as_a_verifying_key(directory: Path, manifest: Manifest) -> None:
    (directory / manifest["circuits"][0]["verifying_key"]).write_bytes(b"\x03" + bytes(2000))


def another_srs(directory: Path, manifest: Manifest) -> None:
    found = SrsSource(shared_cache() / "srs").find(9)
    assert found is not None
    path = directory / manifest["circuits"][0]["srs"]
    data = bytearray(path.read_bytes())
    # The last point of G2 is the secret's; the one before it is the generator.
    data[-128:] = data[-256:-128]
    path.write_bytes(data)


def another_generator(directory: Path, manifest: Manifest) -> None:
    """The point that evaluations are committed to: under another one, other values hold."""
    path = directory / manifest["circuits"][0]["srs"]
    data = bytearray(path.read_bytes())
    data[4:68] = data[68:132]
    path.write_bytes(data)


def another_srs_digest(directory: Path, manifest: Manifest) -> None:
    for circuit in manifest["circuits"]:
        circuit["srs_sha256"] = 64 * "0"


def weaker_settings(directory: Path, manifest: Manifest) -> None:
    def change(settings: Any) -> None:
        settings["run_args"]["output_visibility"] = "Private"

    edit_json(directory / manifest["circuits"][0]["settings"], change)


def another_layout(directory: Path, manifest: Manifest) -> None:
    manifest["layout"]["decomposition_legs"] = 1


def a_dropped_slice(directory: Path, manifest: Manifest) -> None:
    del manifest["slices"][1]
    manifest["slices"][1]["name"] = "slice_1"
    manifest["claims"] = {"slices": 2, "proved": 1, "replayed": 1, "overall_security": 50.0}
    used = {proof["circuit"] for proof in manifest["slices"][0]["proofs"]}
    manifest["circuits"] = [c for c in manifest["circuits"] if c["digest"] in used]


def a_dropped_end(directory: Path, manifest: Manifest) -> None:
    del manifest["slices"][2]
    manifest["claims"] = {"slices": 2, "proved": 2, "replayed": 0, "overall_security": 100.0}


def claims_of_more(directory: Path, manifest: Manifest) -> None:
    manifest["claims"] = {"slices": 3, "proved": 3, "replayed": 0, "overall_security": 100.0}


def a_share_of_more(directory: Path, manifest: Manifest) -> None:
    manifest["claims"]["overall_security"] = 100.0


def a_replay_called_proved(directory: Path, manifest: Manifest) -> None:
    replayed = manifest["slices"][2]
    whole = manifest["slices"][1]["geometry"]
    kept = {key: replayed[key] for key in ("name", "sha256", "inputs", "outputs")}
    manifest["slices"][2] = {"type": "proved", **kept, "geometry": whole, "proofs": []}
    claims_of_more(directory, manifest)


def another_fallback_model(directory: Path, manifest: Manifest) -> None:
    part = manifest["slices"][2]
    path = directory / part["model"]
    model = onnx.load_from_string(path.read_bytes())
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 0.25, weight.name))
    path.write_bytes(model.SerializeToString())


def another_fallback_model_and_digest(directory: Path, manifest: Manifest) -> None:
    another_fallback_model(directory, manifest)
    part = manifest["slices"][2]
    part["sha256"] = hashlib.sha256((directory / part["model"]).read_bytes()).hexdigest()


def a_fallback_model_that_is_none(directory: Path, manifest: Manifest) -> None:
    part = manifest["slices"][2]
    (directory / part["model"]).write_bytes(b"not a model")
    part["sha256"] = hashlib.sha256(b"not a model").hexdigest()


def another_output(directory: Path, manifest: Manifest) -> None:
    tensor = next(t for t in manifest["tensors"] if t["name"] == "y")
    values = np.frombuffer((directory / tensor["file"]).read_bytes(), "<f4").copy()
    values[0] += 5
    (directory / tensor["file"]).write_bytes(values.tobytes())


def a_zero_with_a_sign(directory: Path, manifest: Manifest) -> None:
    """It equals zero, and is another value to ONNX's Reciprocal."""
    tensor = next(t for t in manifest["tensors"] if t["name"] == "e")
    path = directory / tensor["file"]
    values = np.frombuffer(path.read_bytes(), "<f4")
    assert (values == 0).any()
    path.write_bytes(np.where(values == 0, np.float32(-0.0), values).astype("<f4").tobytes())


def a_slice_that_takes_nothing(directory: Path, manifest: Manifest) -> None:
    manifest["slices"][1]["inputs"] = []
    last = manifest["slices"][2]  # what slice 0 makes must be taken by something
    last["inputs"] = ["e", "f"]

    def change(proof: Any) -> None:
        pretty = proof["pretty_public_inputs"]
        count = len(pretty["outputs"][0])
        proof["instances"][0] = proof["instances"][0][-count:]
        pretty["inputs"] = pretty["rescaled_inputs"] = []

    edit_json(proof_of(directory), change)

    def declare(settings: Any) -> None:
        settings["model_instance_shapes"] = settings["model_instance_shapes"][1:]

    used = manifest["slices"][1]["proofs"][0]["circuit"]
    (circuit,) = (c for c in manifest["circuits"] if c["digest"] == used)
    edit_json(directory / circuit["settings"], declare)


def shapes_that_are_none(directory: Path, manifest: Manifest) -> None:
    def change(settings: Any) -> None:
        settings["model_instance_shapes"] = [[1, True], "x"]

    edit_json(directory / manifest["circuits"][0]["settings"], change)


def shapes_of_other_sizes(directory: Path, manifest: Manifest) -> None:
    def change(settings: Any) -> None:
        settings["model_instance_shapes"][-1].append(2)

    edit_json(directory / manifest["circuits"][0]["settings"], change)


def a_tensor_that_is_nan(directory: Path, manifest: Manifest) -> None:
    tensor = manifest["tensors"][0]
    values = np.full(tensor["shape"], np.nan, "<f4")
    (directory / tensor["file"]).write_bytes(values.tobytes())


def a_tensor_of_another_size(directory: Path, manifest: Manifest) -> None:
    manifest["tensors"][0]["shape"] = [1 << 40]


def a_tensor_of_a_hundred_axes(directory: Path, manifest: Manifest) -> None:
    manifest["tensors"][0]["shape"] += 100 * [1]


def an_empty_tensor_of_any_size(directory: Path, manifest: Manifest) -> None:
    tensor = manifest["tensors"][0]
    tensor["shape"] = [0, (1 << 63) - 1, (1 << 63) - 1]
    (directory / tensor["file"]).write_bytes(b"")


def a_circuit_listed_twice(directory: Path, manifest: Manifest) -> None:
    again = dict(manifest["circuits"][0])
    for key in ("settings", "verifying_key"):
        shutil.copy(directory / again[key], directory / f"again-{again[key]}")
        again[key] = f"again-{again[key]}"
    manifest["circuits"].append(again)


ATTACKS: list[tuple[Callable[[Path, Manifest], None], str]] = [
    (an_instance, "input_link"),
    (an_instance_and_the_tensors, "proof_rejected"),
    (a_proof_byte, "malformed_proof"),
    (a_proof_byte_in_both_forms, "proof_rejected"),
    (a_readable_value, "readable_value"),
    (a_readable_element, "readable_value"),
    (an_input_shown_as_an_output, "readable_value"),
    (an_element_in_two_halves, "instances"),
    (an_element_out_of_range, "instances"),
    (slices_in_another_order, "slice_order"),
    (slices_with_swapped_names, "wiring"),
    (proofs_of_two_pieces_swapped, "input_link"),
    (proofs_of_two_channels_swapped, "output_link"),
    (circuits_of_two_channels_swapped, "proof_rejected"),
    (a_piece_left_out, "pieces"),
    (a_piece_that_covers_others, "instances"),
    (a_proof_used_for_two_pieces, "malformed"),
    (a_file_of_two_tensors, "malformed"),
    (a_digest_that_is_none, "malformed"),
    (an_output_named_twice, "wiring"),
    (rows_that_see_less, "input_link"),
    (a_verifying_key_of_another_circuit, "proof_rejected"),
    (junk_as_a_verifying_key, "proof_rejected"),
    (another_srs, "proof_rejected"),
    (another_generator, "srs"),
    (another_srs_digest, "circuit_digest"),
    (weaker_settings, "settings"),
    (another_layout, "layout"),
    (a_dropped_slice, "wiring"),
    (a_dropped_end, "slice_missing"),
    (claims_of_more, "claims"),
    (a_share_of_more, "claims"),
    (a_replay_called_proved, "pieces"),
    (another_fallback_model, "onnx_digest"),
    (another_fallback_model_and_digest, "replay_differs"),
    (a_fallback_model_that_is_none, "replay_failed"),
    (another_output, "replay_differs"),
    (a_zero_with_a_sign, "instances"),
    (a_slice_that_takes_nothing, "pieces"),
    (shapes_that_are_none, "settings"),
    (shapes_of_other_sizes, "instances"),
    (a_tensor_that_is_nan, "instances"),
    (a_tensor_of_another_size, "tensor"),
    (a_tensor_of_a_hundred_axes, "tensor"),
    (an_empty_tensor_of_any_size, "tensor"),
    (a_circuit_listed_twice, "circuit"),
]


@pytest.mark.parametrize(("attack", "code"), ATTACKS, ids=[a.__name__ for a, _ in ATTACKS])
def test_an_edit_with_fitting_digests_is_refused(
    verifier: BundleVerifier,
    bundle: Path,
    tmp_path: Path,
    attack: Callable[[Path, Manifest], None],
    code: str,
) -> None:
    verdict = verifier.verify(edited(bundle, tmp_path, attack))
    assert not verdict.accepted
    assert code in codes(verdict), verdict.reasons
    assert all(reason.text for reason in verdict.reasons)
    assert (verdict.proved, verdict.replayed, verdict.overall_security) == (0, 0, 0)


def test_a_proof_of_another_input_is_refused(
    verifier: BundleVerifier, bundle: Path, other: Path, tmp_path: Path
) -> None:
    def swap(directory: Path, manifest: Manifest) -> None:
        shutil.copy(proof_of(other), proof_of(directory))

    verdict = verifier.verify(edited(bundle, tmp_path, swap))
    assert codes(verdict) == {"input_link", "output_link"}


def test_a_slice_of_another_run_is_refused(
    verifier: BundleVerifier, bundle: Path, other: Path, tmp_path: Path
) -> None:
    """With its proofs, and with the output that they give."""

    def splice(directory: Path, manifest: Manifest) -> None:
        theirs = json.loads((other / "proof_manifest.json").read_bytes())
        shutil.copy(proof_of(other), proof_of(directory))
        for mine, yours in zip(manifest["tensors"], theirs["tensors"], strict=True):
            if mine["name"] == "e":
                shutil.copy(other / yours["file"], directory / mine["file"])

    verdict = verifier.verify(edited(bundle, tmp_path, splice))
    assert {"input_link", "replay_differs"} & codes(verdict)
    assert not verdict.accepted


@pytest.fixture(scope="module")
def padded(prover: CircuitProver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slice 2 proved, its output with a fourth value, 999, that its proof holds and nothing
    computes."""
    part = tiny().slices[2]
    prover.setup(part)
    run = infer(prover, excluded=("slice_0", "slice_1"))
    directory = tmp_path_factory.mktemp("padded")
    write_bundle(directory / "bundle", run, prover)
    (digest,) = prover.circuits_of(part)[1]
    srs = prover.srs.find(9)
    assert srs is not None
    more = 999 << SCALE
    proof = padded_proof(prover.keys.path(digest), srs.path, run.slices[2].inputs["e"], more)

    def pad(directory: Path, manifest: Manifest) -> None:
        proof_of(directory, "slice_2-0").write_bytes(proof)
        tensor = next(t for t in manifest["tensors"] if t["name"] == "y")
        values = np.append(run.slices[2].outputs["y"], np.float32(999))
        (directory / tensor["file"]).write_bytes(values.astype("<f4").tobytes())
        tensor["shape"] = [1, 4]

    return edited(directory / "bundle", directory, pad)


@pytest.mark.parametrize("known", [Against(), Against(model=tiny(), cache=shared_cache())])
def test_a_value_that_no_constraint_touches_is_refused(
    verifier: BundleVerifier, padded: Path, known: Against
) -> None:
    """ezkl accepts a proof with more instances than its circuit has."""
    verdict = verifier.verify(padded, known)
    assert codes(verdict) == {"instances"}


def test_settings_that_declare_the_value_too_are_refused_with_the_model(
    verifier: BundleVerifier, padded: Path, tmp_path: Path
) -> None:
    def declare(directory: Path, manifest: Manifest) -> None:
        def change(settings: Any) -> None:
            settings["model_instance_shapes"][-1] = [1, 4]

        edit_json(directory / manifest["circuits"][0]["settings"], change)

    copy = edited(padded, tmp_path, declare)
    verdict = verifier.verify(copy, Against(model=tiny(), cache=shared_cache()))
    assert codes(verdict) == {"other_slices", "foreign_settings"}


def another_shape(directory: Path, manifest: Manifest) -> None:
    """The values as they are, in another order for whoever reads them."""
    tensor = next(t for t in manifest["tensors"] if t["name"] == "f")
    tensor["shape"] = [4, 3]


def test_a_tensor_of_another_shape_is_refused_with_the_model(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    copy = edited(bundle, tmp_path, another_shape)
    assert verifier.verify(copy).accepted  # no proof knows of shapes
    verdict = verifier.verify(copy, Against(model=tiny(), cache=shared_cache()))
    assert codes(verdict) == {"other_slices"}


def test_bytes_of_a_verifying_key_that_ezkl_ignores_are_found_with_the_model(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """ezkl verifies under a key whose unused bytes were changed; that it is not the model's key
    shows when the keys are made again."""

    def flip(directory: Path, manifest: Manifest) -> None:
        path = directory / manifest["circuits"][0]["verifying_key"]
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)

    copy = edited(bundle, tmp_path, flip)
    assert verifier.verify(copy).accepted
    verdict = verifier.verify(copy, Against(model=tiny(), cache=shared_cache()))
    assert codes(verdict) == {"foreign_key"}


def test_weaker_constraints_under_the_right_key_are_refused_with_the_model(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """ezkl builds the constraints from the settings, so they must be the model's too."""

    def weaken(directory: Path, manifest: Manifest) -> None:
        def change(settings: Any) -> None:
            settings["required_range_checks"] = settings["required_range_checks"][:1]

        edit_json(directory / manifest["circuits"][0]["settings"], change)

    verdict = verifier.verify(
        edited(bundle, tmp_path, weaken), Against(model=tiny(), cache=shared_cache())
    )
    assert "foreign_settings" in codes(verdict)


def test_a_fixed_point_too_coarse_is_refused(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    def change(directory: Path, manifest: Manifest) -> None:
        manifest["layout"]["scale"] = 2

    assert codes(verifier.verify(edited(bundle, tmp_path, change))) == {"layout"}


def test_without_ezkl_a_bundle_of_proofs_names_the_extra(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    from interlock.errors import MissingExtraError

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with BundleVerifier() as verifier, pytest.raises(MissingExtraError, match="extra 'zk'"):
        verifier.verify(bundle)


def test_a_bundle_of_another_model_is_refused_with_the_model(
    verifier: BundleVerifier, bundle: Path
) -> None:
    model = replace(tiny(), model=tiny().model + b"\x00")
    verdict = verifier.verify(bundle, Against(model=model, cache=shared_cache()))
    assert codes(verdict) == {"other_model"}


def test_a_graph_that_is_not_the_models_is_refused_with_the_model(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    def change(directory: Path, manifest: Manifest) -> None:
        manifest["slices"][1]["sha256"] = 64 * "0"

    copy = edited(bundle, tmp_path, change)
    assert verifier.verify(copy).accepted  # attested only, and the verdict says so
    verdict = verifier.verify(copy, Against(model=tiny(), cache=shared_cache()))
    assert codes(verdict) == {"other_slices"}


def test_a_slice_that_no_circuit_can_be_made_of_is_refused_with_the_model(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """The bundle says that it proves one."""
    parts = list(tiny().slices)
    graph = onnx.load_from_string(parts[1].model)
    graph.graph.node[-1].op_type = "Sigmoid"
    parts[1] = replace(parts[1], model=graph.SerializeToString())

    def change(directory: Path, manifest: Manifest) -> None:
        manifest["slices"][1]["sha256"] = parts[1].sha256

    model = replace(tiny(), slices=tuple(parts))
    copy = edited(bundle, tmp_path, change)
    verdict = verifier.verify(copy, Against(model=model, cache=shared_cache()))
    assert codes(verdict) == {"foreign_circuit"}


def test_a_replay_that_never_ends_is_refused(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline was given, so the verifier's own holds."""
    monkeypatch.setattr("interlock.verified.proof_replay.SECONDS", 2.0)

    def change(directory: Path, manifest: Manifest) -> None:
        part = manifest["slices"][2]
        (directory / part["model"]).write_bytes(endless_loop("e", (1, 4)))
        data = (directory / part["model"]).read_bytes()
        part["sha256"] = hashlib.sha256(data).hexdigest()

    copy = edited(bundle, tmp_path, change)
    assert codes(verifier.verify(copy)) == {"replay_failed"}
    with pytest.raises(DeadlineError):
        verifier.verify(copy, deadline=Deadline.after(1))
    assert verifier.verify(bundle).accepted


def test_an_srs_that_is_not_the_one_it_names_is_refused_with_the_model(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """Whoever knows the secret of the one in the bundle can open any commitment of the model's key.

    The digest beside it is that of the verifier's own.
    """
    copy = edited(bundle, tmp_path, another_srs)
    assert codes(verifier.verify(copy)) == {"proof_rejected"}
    verdict = verifier.verify(copy, Against(model=tiny(), cache=shared_cache()))
    assert "srs_mismatch" in codes(verdict)


def test_a_development_srs_is_not_taken_for_a_ceremonys(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """The bundle says so; the keys were made again under one of this machine's."""

    def claim(directory: Path, manifest: Manifest) -> None:
        manifest["srs_origin"] = "file"

    copy = edited(bundle, tmp_path, claim)
    assert any("it is the bundle's own word" in line for line in verifier.verify(copy).trusted)
    verdict = verifier.verify(copy, Against(model=tiny(), cache=shared_cache()))
    assert verdict.accepted
    assert any("development SRS: not sound" in line for line in verdict.trusted)
    assert not any("own word" in line for line in verdict.trusted)


def test_keys_cannot_be_made_again_without_the_srs(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    verdict = verifier.verify(bundle, Against(model=tiny(), cache=tmp_path))
    assert codes(verdict) == {"srs_unknown"}


def test_an_srs_that_the_verifier_knows_otherwise_is_refused(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    own = SrsSource(shared_cache() / "srs").find(9)
    assert own is not None
    assert verifier.verify(bundle, Against(srs=own.path)).accepted
    data = bytearray(own.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "kzg9.srs").write_bytes(data)
    verdict = verifier.verify(bundle, Against(srs=tmp_path))
    assert codes(verdict) == {"srs_mismatch"}
    assert verdict.proved == 0


def test_a_size_that_the_verifiers_files_do_not_have_is_refused(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    own = SrsSource(shared_cache() / "srs").find(9)
    assert own is not None
    (tmp_path / "kzg8.srs").write_bytes(own.path.read_bytes())
    verdict = verifier.verify(bundle, Against(srs=tmp_path))
    assert codes(verdict) == {"srs_mismatch"}
    verdict = verifier.verify(bundle, Against(model=tiny(), srs=tmp_path))
    assert codes(verdict) == {"srs_mismatch", "srs_unknown"}


def test_a_bundle_cannot_draw_on_the_verifiers_terminal(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    def change(directory: Path, manifest: Manifest) -> None:
        manifest["slices"][2]["inputs"] = ["\x1b[2J\x1b[Haccepted: 3 of 3\n" + 9999 * "e"]
        manifest["backend"] = "\x1b[1A"

    verdict = verifier.verify(edited(bundle, tmp_path, change))
    assert not verdict.accepted
    for text in (*map(str, verdict.reasons), *verdict.trusted):
        assert text.isprintable()
        assert len(text) < 700


def test_a_tolerance_is_among_what_the_verdict_rests_on(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """An output that was moved within it is accepted, and nobody takes it for the same bits."""
    verdict = verifier.verify(edited(bundle, tmp_path, another_output), Against(tolerance=10.0))
    assert verdict.accepted
    assert any("by up to 10 times its largest value" in line for line in verdict.trusted)
    assert not any("largest value" in line for line in verifier.verify(bundle).trusted)


def test_another_bundle_than_the_expected_one_is_refused(
    verifier: BundleVerifier, bundle: Path, other: Path
) -> None:
    digest = verifier.verify(bundle).digest
    assert verifier.verify(bundle, Against(digest=f"sha256:{digest}")).accepted
    verdict = verifier.verify(other, Against(digest=digest))
    assert codes(verdict) == {"other_bundle"}


def hostile_name(directory: Path, manifest: Manifest) -> None:
    manifest["tensors"][0]["file"] = "../../etc/passwd"


@pytest.mark.parametrize("name", ["../tensor-0.bin", "/etc/hostname", "a/b", "..", ""])
def test_a_path_out_of_the_bundle_is_never_followed(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path, name: str
) -> None:
    def change(directory: Path, manifest: Manifest) -> None:
        text = (directory / "proof_manifest.json").read_text()
        (directory / "proof_manifest.json").write_text(
            text.replace('"tensor-0.bin"', json.dumps(name))
        )
        data = (directory / "proof_manifest.json").read_bytes()
        (directory / "proof_manifest.sha256").write_text(hashlib.sha256(data).hexdigest())

    verdict = verifier.verify(edited(bundle, tmp_path, change, reseal=False))
    assert codes(verdict) == {"malformed"}


def test_a_symbolic_link_is_refused(verifier: BundleVerifier, bundle: Path, tmp_path: Path) -> None:
    def link(directory: Path, manifest: Manifest) -> None:
        (directory / "tensor-0.bin").unlink()
        (directory / "tensor-0.bin").symlink_to(bundle / "tensor-0.bin")

    verdict = verifier.verify(edited(bundle, tmp_path, link, reseal=False))
    assert codes(verdict) == {"malformed"}


def test_a_file_that_the_manifest_does_not_list_is_refused(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    def add(directory: Path, manifest: Manifest) -> None:
        (directory / "slice_0.pkl").write_bytes(b"\x80\x04.")

    verdict = verifier.verify(edited(bundle, tmp_path, add, reseal=False))
    assert codes(verdict) == {"unlisted_file"}


def test_what_is_no_bundle_is_refused(verifier: BundleVerifier, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        verdict = verifier.verify(place)
        assert codes(verdict) == {"malformed"}


def test_random_flips_are_refused_and_never_end_the_verifier(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    rng = random.Random(20260101)
    names = sorted(os.listdir(bundle))  # noqa: PTH208
    for turn in range(count(20, 400)):
        place = tmp_path / str(turn)
        place.mkdir()

        def flip(directory: Path, manifest: Manifest) -> None:
            path = directory / rng.choice(names)
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)

        verdict = verifier.verify(edited(bundle, place, flip, reseal=False))
        assert not verdict.accepted
        assert verdict.reasons


def test_random_edits_of_proofs_with_fitting_digests_never_end_the_verifier(
    verifier: BundleVerifier, bundle: Path, tmp_path: Path
) -> None:
    """Keys, settings and SRS with flipped bytes reach ezkl, whose panics stay in its process."""
    rng = random.Random(20260102)
    for turn in range(count(8, 200)):
        place = tmp_path / str(turn)
        place.mkdir()

        def flip(directory: Path, manifest: Manifest) -> None:
            circuit = manifest["circuits"][0]
            path = directory / circuit[rng.choice(["verifying_key", "srs"])]
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            seal(directory, manifest)

        verdict = verifier.verify(edited(bundle, place, flip))
        known = {"proof_rejected", "verifier_crashed", "srs"}
        assert verdict.accepted or codes(verdict) <= known


def test_the_input_is_the_one_that_was_given(bundle: Path) -> None:
    """What the proofs are about is the image itself."""
    manifest = json.loads((bundle / "proof_manifest.json").read_bytes())
    tensor = next(t for t in manifest["tensors"] if t["name"] == "x")
    stored = np.frombuffer((bundle / tensor["file"]).read_bytes(), "<f4")
    assert np.array_equal(stored, image()["x"].reshape(-1))
