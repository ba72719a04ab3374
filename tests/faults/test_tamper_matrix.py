"""One part of a signed, certified bundle altered alone: refused, and for a reason of its own.

Each alteration is tried as its forger would leave it: with a manifest that fits where one can.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.projective import columns_model, pairs

from interlock.bundle import Bundle
from interlock.bundle.manifest import MANIFEST, METADATA, MODEL, SIGNATURE, manifest_of
from interlock.errors import BundleError
from interlock.strict import (
    InferenceConfig,
    calibrate_tau,
    export_bundle,
    load_onnx_runtime_bundle,
    validate_bundle,
)

pytest.importorskip("model_signing", reason="needs the extra `sign`")

from support.keys import write_key_pair

from interlock.bundle.sign import sign

Files = dict[str, bytes]

X = pairs(4_000, 1)


class Original(NamedTuple):
    """A certified bundle, its files with manifest and signature, and who signed it."""

    bundle: Bundle
    files: Files
    key: Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    place = tmp_path_factory.mktemp("original")
    size = np.abs(X[:, 2])
    unsafe = np.random.default_rng(2).random(4_000) < 1e-4 / size
    certificate = calibrate_tau(size, unsafe, 0.02, 0.1).certificate
    assert certificate is not None
    bundle = export_bundle(
        columns_model(),
        place / "b",
        example_inputs=(X,),
        config=InferenceConfig(certificate.tau, 2 * certificate.tau),
        certificate=certificate,
    )
    private, public = write_key_pair(place)
    sign(bundle.path, private)
    files = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    return Original(bundle, files, public)


def _metadata(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    document = msgspec.json.decode(files[METADATA])
    change(document)
    return _fitting({**files, METADATA: msgspec.json.encode(document)})


def _graph(files: Files, change: Callable[[onnx.GraphProto], None]) -> Files:
    model = onnx.load_model_from_string(files[MODEL])
    change(model.graph)
    return _fitting({**files, MODEL: model.SerializeToString()})


def _fitting(files: Files) -> Files:
    listed = {name: data for name, data in files.items() if name in (MODEL, METADATA)}
    return {**files, MANIFEST: manifest_of(listed).encode()}


def _metadata_tau(files: Files) -> Files:
    def lower(document: dict[str, Any]) -> None:
        document["strict"]["tau_infer"] /= 2

    return _metadata(files, lower)


def _graph_tau(files: Files) -> Files:
    def lower(graph: onnx.GraphProto) -> None:
        tensor = next(t for t in graph.initializer if t.name == "tau_infer")
        value = numpy_helper.to_array(tensor) / np.float32(2)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), "tau_infer"))

    return _graph(files, lower)


def _both_taus(files: Files) -> Files:
    """Lowered in graph and metadata alike, without the smoke vectors that would tell."""
    return _metadata(_metadata_tau(_graph_tau(files)), lambda document: document.pop("smoke"))


def _digest(files: Files) -> Files:
    entry = manifest_of({MODEL: files[MODEL]}).files[0].sha256.encode()
    other = (b"1" if entry[:1] == b"0" else b"0") + entry[1:]
    return {**files, MANIFEST: files[MANIFEST].replace(entry, other)}


def _signature(files: Files) -> Files:
    """The first digit of the signature itself, which stays well-formed base64."""
    document = msgspec.json.decode(files[SIGNATURE])
    signed = document["dsseEnvelope"]["signatures"][0]
    signed["sig"] = ("A" if signed["sig"][8] != "A" else "B").join(
        (signed["sig"][:8], signed["sig"][9:])
    )
    return {**files, SIGNATURE: msgspec.json.encode(document)}


def _outputs_of_the_graph(files: Files) -> Files:
    """The two masks change places: a gap would pass as the bottom."""

    def swap(graph: onnx.GraphProto) -> None:
        names = {"bottom_mask": "gap_mask", "gap_mask": "bottom_mask"}
        for node in graph.node:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]

    return _graph(files, swap)


def _outputs_of_the_metadata(files: Files) -> Files:
    def swap(document: dict[str, Any]) -> None:
        outputs = document["outputs"]
        outputs[1], outputs[2] = outputs[2], outputs[1]

    return _metadata(files, swap)


def _certificate(field: str, change: Callable[[Any], Any]) -> Callable[[Files], Files]:
    def alter(document: dict[str, Any]) -> None:
        certificate = document["extensions"]["calibration"]
        certificate[field] = change(certificate[field])

    return lambda files: _metadata(files, alter)


class Case(NamedTuple):
    """What is altered, and the code and a part of the reason with which it must be refused.

    {tau} in a reason is the original threshold, {half} half of it.
    """

    alter: Callable[[Files], Files]
    code: str
    reason: str


MATRIX = {
    "metadata tau": Case(
        _metadata_tau, "bundle_contract", "tau_infer is {tau} in the graph and {half} in the"
    ),
    "graph tau": Case(
        _graph_tau, "bundle_contract", "tau_infer is {half} in the graph and {tau} in the"
    ),
    "both taus": Case(
        _both_taus, "bundle_contract", "the certificate is for tau {tau}; tau_infer is {half}"
    ),
    "digest": Case(_digest, "bundle_integrity", "SHA-256 of model.onnx differs"),
    "signature": Case(_signature, "signature", "does not belong to this bundle"),
    "outputs of the graph": Case(
        _outputs_of_the_graph, "bundle_contract", "smoke[0]: 'bottom_mask' is not reproduced"
    ),
    "outputs of the metadata": Case(_outputs_of_the_metadata, "bundle_format", "must start with"),
    "certificate: bound": Case(
        _certificate("bound", lambda bound: bound / 2), "bundle_format", "the counts give"
    ),
    "certificate: alpha": Case(
        _certificate("alpha", lambda alpha: alpha / 100), "bundle_format", "above alpha"
    ),
    "certificate: of another model": Case(
        _certificate("model", lambda model: "sha256:" + "0" * 64),
        "bundle_contract",
        "the certificate is for the model",
    ),
}


@pytest.fixture(params=MATRIX)
def altered(
    request: pytest.FixtureRequest, original: Original, tmp_path: Path
) -> tuple[Path, Case]:
    case = MATRIX[request.param]
    files = case.alter(original.files)
    assert files != original.files
    (tmp_path / "b").mkdir()
    for name, data in files.items():
        (tmp_path / "b" / name).write_bytes(data)
    return tmp_path / "b", case


def test_unaltered_it_is_taken(original: Original) -> None:
    options: dict[str, Any] = {
        "expected_digest": original.bundle.digest, "require_signature": original.key,
    }  # fmt: skip
    assert validate_bundle(original.bundle.path, **options).signed_by is not None
    runtime = load_onnx_runtime_bundle(original.bundle.path, **options)
    assert runtime.certificate is not None


def test_it_is_refused_for_its_own_reason_though_nothing_is_known_of_its_maker(
    altered: tuple[Path, Case], original: Original
) -> None:
    """Only what contradicts itself can be found out so; a signature is not looked at."""
    path, case = altered
    key = original.key if case.code == "signature" else None
    strict = original.bundle.metadata.strict
    assert strict is not None
    reason = case.reason.format(tau=strict.tau_infer, half=strict.tau_infer / 2)
    for opening in (validate_bundle, load_onnx_runtime_bundle):
        with pytest.raises(BundleError) as refusal:
            opening(path, require_signature=key)
        assert refusal.value.code == case.code
        assert reason in refusal.value.message


def test_no_two_alterations_share_a_reason() -> None:
    assert len({case.reason for case in MATRIX.values()}) == len(MATRIX)


def test_the_required_signature_refuses_it(altered: tuple[Path, Case], original: Original) -> None:
    path, case = altered
    expected = "bundle_integrity" if case.code == "bundle_integrity" else "signature"
    with pytest.raises(BundleError) as refusal:
        load_onnx_runtime_bundle(path, require_signature=original.key)
    assert refusal.value.code == expected


def test_the_expected_digest_refuses_it(altered: tuple[Path, Case], original: Original) -> None:
    """All but a changed signature, which the digest does not cover."""
    path, case = altered
    if case.code == "signature":
        assert validate_bundle(path, expected_digest=original.bundle.digest).signed_by is None
        return
    with pytest.raises(BundleError) as refusal:
        load_onnx_runtime_bundle(path, expected_digest=original.bundle.digest)
    assert refusal.value.code == "bundle_integrity"
