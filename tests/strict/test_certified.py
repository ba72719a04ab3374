"""Certificates in bundles: attached, read back, and refused where they do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
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
    validate_bundle,
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
    metadata = msgspec.structs.replace(bundle.metadata, extensions={EXTENSION: extension})
    pack(directory, bundle.model, metadata)
    return directory


def test_export_keeps_the_certificate_and_loading_gives_it_back(bundle: Bundle) -> None:
    runtime = load_onnx_runtime_bundle(bundle.path, expected_digest=bundle.digest)
    assert runtime.certificate == CERTIFICATE == certificate_of(bundle)
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
    assert certificate_of(load(tmp_path / "b")) == CERTIFICATE
    assert attach_certificate(plain.path, CERTIFICATE).digest == attached.digest


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


PLAIN = CERTIFICATE.to_plain()
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
