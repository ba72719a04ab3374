"""Calibration certificates in strict bundles: attached on export or later, checked on loading."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from interlock.bundle import Bundle, load, pack
from interlock.bundle.manifest import METADATA, MODEL
from interlock.kernel.errors import BundleContractError, BundleFormatError, ConfigError, InputError
from interlock.strict.certificate import Certificate
from interlock.strict.config import rounded_threshold

EXTENSION = "calibration"
"""The key in `Metadata.extensions` under which a certificate is kept."""


def certificate_of(bundle: Bundle) -> Certificate | None:
    """The bundle's calibration certificate; None where it has none.

    Raises BundleFormatError for one that is malformed or contradicts itself, its bound recomputed
    from its counts, and BundleContractError for one whose threshold or dtype is not the bundle's.
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
    return certificate


def attach_certificate(
    directory: str | os.PathLike[str],
    certificate: Certificate,
    *,
    expected_digest: str | None = None,
) -> Bundle:
    """Publish the bundle in `directory` again with `certificate` in its metadata.

    The new bundle has another digest and no signature; sign it afterwards. A certificate that is
    there already is replaced, reports beside the bundle are not kept.

    Raises ConfigError where tau_infer or the dtype is not the certificate's, and what
    `interlock.bundle.load` and `pack` raise.
    """
    bundle = load(directory, expected_digest=expected_digest, probe=False)
    strict = bundle.metadata.strict
    if strict is None:
        raise ConfigError(f"the bundle {bundle.metadata.name!r} has no strict decode to certify")
    extensions = with_certificate(
        bundle.metadata.extensions, certificate, strict.tau_infer, strict.dtype
    )
    metadata = msgspec.structs.replace(bundle.metadata, extensions=extensions)
    rest = {name: data for name, data in bundle.files.items() if name not in (MODEL, METADATA)}
    return pack(directory, bundle.files[MODEL], metadata, rest)


def with_certificate(
    extensions: dict[str, Any], certificate: Certificate, tau_infer: float, dtype: str
) -> dict[str, Any]:
    """`extensions` with the certificate; ConfigError where it is for another threshold or dtype."""
    difference = _difference(certificate, tau_infer, dtype)
    if difference is not None:
        raise ConfigError(difference, hint="export with InferenceConfig(tau_infer=certificate.tau)")
    return {**extensions, EXTENSION: certificate.to_plain()}


def _difference(certificate: Certificate, tau_infer: float, dtype: str) -> str | None:
    if certificate.dtype != dtype:
        return f"the certificate is for Q in {certificate.dtype}; the bundle has {dtype}"
    # What the graph compares with: a threshold is rounded to the dtype of Q.
    if certificate.tau != rounded_threshold("tau_infer", tau_infer, dtype):
        return f"the certificate is for tau {certificate.tau!r}; tau_infer is {tau_infer!r}"
    return None
