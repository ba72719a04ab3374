"""Certificates in bundles: attached, read back, and refused where they do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from support.bundles import plain_metadata, plain_model
from support.projective import columns_model, pairs

from interlock.bundle import Bundle, load, pack
from interlock.errors import (
    BundleContractError,
    BundleError,
    BundleFormatError,
    BundleIntegrityError,
    ConfigError,
)
from interlock.strict import (
    Certificate,
    InferenceConfig,
    attach_certificate,
    calibrate_tau,
    certificate_of,
    export_bundle,
    load_onnx_runtime_bundle,
    risk_coverage,
    validate_bundle,
)
from interlock.strict.calibration_record import (
    Abstention,
    curve_of,
    extensions_of,
    read_abstention,
    read_curve,
)
from interlock.strict.certified import EXTENSION

X = pairs(4_000, 1)
Q = np.abs(X[:, 2])
FOUND = calibrate_tau(Q, np.random.default_rng(2).random(4_000) < 1e-4 / Q, 0.02, 0.1)
assert FOUND.certificate is not None
CERTIFICATE: Certificate = FOUND.certificate
CONFIG = InferenceConfig(tau_infer=CERTIFICATE.tau)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("certified") / "columns"
    return export_bundle(
        columns_model(), path, example_inputs=(X,), config=CONFIG, certificate=CERTIFICATE
    )


def repacked(bundle: Bundle, directory: Path, extension: Any) -> Path:
    """The bundle with another extension and a manifest that fits: what a forger can do."""
    if isinstance(extension, dict) and "tau" in extension:
        extension = {"model": bundle.model_digest} | extension
    metadata = msgspec.structs.replace(bundle.metadata, extensions={EXTENSION: extension})
    pack(directory, bundle.model, metadata)
    return directory


def test_export_keeps_the_certificate_and_loading_gives_it_back(bundle: Bundle) -> None:
    runtime = load_onnx_runtime_bundle(bundle.path, expected_digest=bundle.digest)
    bound = msgspec.structs.replace(CERTIFICATE, model=bundle.model_digest)
    assert runtime.certificate == bound == certificate_of(bundle)
    assert runtime.config.tau_infer == CERTIFICATE.tau
    _, bottom, _ = runtime.run(X)
    assert int((~bottom[:, 0]).sum()) == int((CERTIFICATE.tau <= Q).sum())


def test_it_can_be_attached_later(tmp_path: Path) -> None:
    plain = export_bundle(columns_model(), tmp_path / "b", example_inputs=(X,), config=CONFIG)
    assert load_onnx_runtime_bundle(plain.path).certificate is None
    with pytest.raises(BundleIntegrityError):
        attach_certificate(plain.path, CERTIFICATE, expected_digest="sha256:" + "0" * 64)
    attached = attach_certificate(plain.path, CERTIFICATE, expected_digest=plain.digest)
    assert attached.digest != plain.digest
    assert attached.model == plain.model
    found = certificate_of(load(tmp_path / "b"))
    assert found == msgspec.structs.replace(CERTIFICATE, model=plain.model_digest)
    assert attach_certificate(plain.path, found).digest == attached.digest


def test_a_certificate_of_another_model_with_the_same_threshold_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Its tau, dtype and counts all fit: only the model behind |Q| is another."""
    model = columns_model()
    next(node for node in model.graph.node if "Q" in node.output).output[0] = "signed"
    model.graph.node.append(onnx.helper.make_node("Abs", ["signed"], ["Q"]))
    other = export_bundle(model, tmp_path / "b", example_inputs=(X,), config=CONFIG)
    theirs = certificate_of(bundle)
    assert theirs is not None
    assert other.model_digest != theirs.model
    path = repacked(other, tmp_path / "c", theirs.to_plain())
    for opening in (validate_bundle, load_onnx_runtime_bundle):
        with pytest.raises(BundleContractError, match="the certificate is for the model"):
            opening(path)
    with pytest.raises(ConfigError, match="was put beside the model"):
        attach_certificate(other.path, theirs)
    with pytest.raises(ConfigError, match="was put beside the model"):
        export_bundle(model, tmp_path / "d", example_inputs=(X,), config=CONFIG, certificate=theirs)
    unbound = repacked(other, tmp_path / "e", {**CERTIFICATE.to_plain(), "model": None})
    with pytest.raises(BundleContractError, match="for the model None"):
        validate_bundle(unbound)


def test_a_fresh_certificate_takes_the_place_of_what_an_earlier_calibration_left(
    tmp_path: Path,
) -> None:
    curve = curve_of(risk_coverage(Q, Q < 1e-5), 0.02)
    gone = Abstention(reason="few rows", alpha=0.02, delta=0.1, n=9, pilot=0, split="old")
    extensions = {**extensions_of(curve, gone), "kept": 1}
    plain = export_bundle(
        columns_model(), tmp_path / "b", example_inputs=(X,), config=CONFIG, extensions=extensions
    )
    attached = attach_certificate(plain.path, CERTIFICATE)
    assert set(attached.metadata.extensions) == {EXTENSION, "kept"}
    attached = attach_certificate(plain.path, CERTIFICATE, curve=curve)
    assert read_curve(attached.metadata) == curve
    assert read_abstention(attached.metadata) is None


def test_a_certificate_for_another_threshold_is_not_attached(tmp_path: Path) -> None:
    other = InferenceConfig(tau_infer=CERTIFICATE.tau / 2)
    with pytest.raises(ConfigError, match="the certificate is for tau"):
        export_bundle(
            columns_model(), tmp_path / "b", example_inputs=(X,), config=other,
            certificate=CERTIFICATE,
        )  # fmt: skip
    assert not (tmp_path / "b").exists()
    double = X.astype(np.float64)
    with pytest.raises(ConfigError, match="float32; the bundle has float64"):
        export_bundle(
            columns_model("float64"), tmp_path / "b", example_inputs=(double,), config=CONFIG,
            certificate=CERTIFICATE,
        )  # fmt: skip
    export_bundle(columns_model(), tmp_path / "b", example_inputs=(X,), config=other)
    with pytest.raises(ConfigError, match="the certificate is for tau"):
        attach_certificate(tmp_path / "b", CERTIFICATE)


def test_a_model_without_strict_decode_takes_none(tmp_path: Path) -> None:
    model = plain_model()
    pack(tmp_path / "b", model, plain_metadata(model))
    with pytest.raises(ConfigError, match="no strict decode"):
        attach_certificate(tmp_path / "b", CERTIFICATE)
    metadata = msgspec.structs.replace(
        plain_metadata(model), extensions={EXTENSION: CERTIFICATE.to_plain()}
    )
    with pytest.raises(BundleContractError, match="no strict decode"):
        certificate_of(pack(tmp_path / "b", model, metadata))


PLAIN = {key: value for key, value in CERTIFICATE.to_plain().items() if key != "model"}
LOWER = float(np.nextafter(np.float32(CERTIFICATE.tau), np.float32(0)))


@pytest.mark.parametrize(
    ("extension", "error"),
    [
        (
            {**PLAIN, "tau": LOWER},
            "Contract",
        ),
        ({**PLAIN, "alpha": PLAIN["bound"] / 2}, "Format"),
        ({**PLAIN, "delta": PLAIN["delta"] / 2}, "Format"),
        ({**PLAIN, "bound": PLAIN["bound"] / 2}, "Format"),
        ({**PLAIN, "unsafe": 0}, "Format"),
        ({**PLAIN, "accepted": PLAIN["accepted"] - 1}, "Format"),
        ({**PLAIN, "n": 0}, "Format"),
        ({**PLAIN, "dtype": "float64"}, "Contract"),
        ({**PLAIN, "data": ""}, "Format"),
        ({**PLAIN, "model": "sha256:" + "0" * 64}, "Contract"),
        ({**PLAIN, "model": None}, "Contract"),
        ({**PLAIN, "model": "mine"}, "Format"),
        ({**PLAIN, "more": 1}, "Format"),
        ({}, "Format"),
        ([PLAIN], "Format"),
        (None, "Format"),
        ("trust me", "Format"),
    ],
)
def test_a_forged_certificate_is_refused_though_the_manifest_fits(
    bundle: Bundle, tmp_path: Path, extension: Any, error: str
) -> None:
    path = repacked(bundle, tmp_path / "b", extension)
    kinds = {"Contract": BundleContractError, "Format": BundleFormatError}
    for opening in (validate_bundle, load_onnx_runtime_bundle):
        with pytest.raises(kinds[error], match="certificate"):
            opening(path)


@pytest.mark.parametrize("field", sorted(PLAIN))
def test_editing_one_field_in_place_is_refused(bundle: Bundle, tmp_path: Path, field: str) -> None:
    """Whatever the new value: the manifest no longer fits; alpha or split alone are no
    contradiction otherwise."""
    document = msgspec.json.decode((bundle.path / "metadata.json").read_bytes())
    value = document["extensions"][EXTENSION][field]
    document["extensions"][EXTENSION][field] = 0.5 if isinstance(value, float) else "x"
    for name, data in bundle.files.items():
        target = tmp_path / "b" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    (tmp_path / "b" / "manifest.json").write_bytes((bundle.path / "manifest.json").read_bytes())
    assert validate_bundle(tmp_path / "b").digest == bundle.digest
    (tmp_path / "b" / "metadata.json").write_bytes(msgspec.json.encode(document))
    with pytest.raises(BundleError):
        validate_bundle(tmp_path / "b")
    with pytest.raises(BundleError):
        load_onnx_runtime_bundle(tmp_path / "b", expected_digest=bundle.digest)
