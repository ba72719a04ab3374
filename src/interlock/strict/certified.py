"""Calibration certificates in strict bundles: attached on export or later, checked on loading."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from interlock.bundle import Bundle, load, pack
from interlock.bundle.manifest import METADATA, MODEL
from interlock.kernel.errors import BundleContractError, BundleFormatError, ConfigError, InputError
from interlock.strict.calibration_record import ABSTENTION, CURVE, RiskCurve, extensions_of
from interlock.strict.certificate import Certificate
from interlock.strict.config import rounded_threshold

EXTENSION = "calibration"
"""The key in `Metadata.extensions` under which a certificate is kept."""


def certificate_of(bundle: Bundle) -> Certificate | None:
    """The bundle's calibration certificate; None where it has none.

    Raises BundleFormatError for one that is malformed or contradicts itself, its bound recomputed
    from its counts, and BundleContractError for one whose threshold or dtype is not the bundle's,
    or that was put into a bundle of another model.
    """
    if EXTENSION not in bundle.metadata.extensions:
        return None
    try:
        certificate = Certificate.from_plain(bundle.metadata.extensions[EXTENSION])
    except InputError as error:
        raise BundleFormatError(
            error.message, hint="attach a certificate as `interlock strict calibrate` wrote it"
        ) from None
    strict = bundle.metadata.strict
    if strict is None:
        raise BundleContractError("the bundle has a certificate but no strict decode")
    difference = _difference(certificate, strict.tau_infer, strict.dtype)
    if difference is not None:
        raise BundleContractError(difference)
    if certificate.model != bundle.model_digest:
        raise BundleContractError(
            f"the certificate is for the model {certificate.model}; the bundle's is "
            f"{bundle.model_digest}",
            hint="calibrate the bundle's own model: `interlock strict calibrate DATA --bundle DIR`",
        )
    return certificate


def attach_certificate(
    directory: str | os.PathLike[str],
    certificate: Certificate,
    *,
    curve: RiskCurve | None = None,
    expected_digest: str | None = None,
) -> Bundle:
    """Publish the bundle in `directory` again with `certificate` in its metadata.

    curve  risk and coverage on the same rows, for reports

    The new bundle has another digest and no signature; sign it afterwards. The certificate, the
    abstention or the risk-coverage curve of an earlier calibration is not kept, nor are reports
    beside the bundle.

    Raises ConfigError where tau_infer or the dtype is not the certificate's, or where it was put
    into a bundle of another model before, and what `interlock.bundle.load` and `pack` raise.
    """
    bundle = load(directory, expected_digest=expected_digest, probe=False)
    strict = bundle.metadata.strict
    if strict is None:
        raise ConfigError(f"the bundle {bundle.metadata.name!r} has no strict decode to certify")
    kept = bundle.metadata.extensions.items()
    extensions = with_certificate(
        {key: value for key, value in kept if key not in (ABSTENTION, CURVE)}
        | extensions_of(curve, None),
        certificate,
        strict.tau_infer,
        strict.dtype,
        bundle.model_digest,
    )
    metadata = msgspec.structs.replace(bundle.metadata, extensions=extensions)
    rest = {name: data for name, data in bundle.files.items() if name not in (MODEL, METADATA)}
    return pack(directory, bundle.files[MODEL], metadata, rest)


def with_certificate(
    extensions: dict[str, Any], certificate: Certificate, tau_infer: float, dtype: str, model: str
) -> dict[str, Any]:
    """`extensions` with the certificate, which names the model from now on.

    model  the `Bundle.model_digest` of the bundle that they are for

    Raises ConfigError where the certificate is for another threshold, dtype or model.
    """
    difference = _difference(certificate, tau_infer, dtype)
    if difference is not None:
        raise ConfigError(difference, hint="export with InferenceConfig(tau_infer=certificate.tau)")
    if certificate.model not in (None, model):
        raise ConfigError(
            f"the certificate was put beside the model {certificate.model}; this one is {model}",
            hint="calibrate this model",
        )
    bound = msgspec.structs.replace(certificate, model=model)
    return {**extensions, EXTENSION: bound.to_plain()}


def _difference(certificate: Certificate, tau_infer: float, dtype: str) -> str | None:
    if certificate.dtype != dtype:
        return f"the certificate is for Q in {certificate.dtype}; the bundle has {dtype}"
    # What the graph compares with: a threshold is rounded to the dtype of Q.
    if certificate.tau != rounded_threshold("tau_infer", tau_infer, dtype):
        return f"the certificate is for tau {certificate.tau!r}; tau_infer is {tau_infer!r}"
    return None
