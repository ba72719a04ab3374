"""A model directory with a contract: what is deployed is what was hashed, checked and probed.

    from interlock.bundle import load
    bundle = load("arm", expected_digest="sha256:…")

The digest in a bundle only catches accidents. `expected_digest` and `require_signature` are the
root of trust.
"""

from interlock.bundle.contract import TAU_INFER, TAU_TRAIN, signature_of, thresholds
from interlock.bundle.limits import DEFAULT_LIMITS, BundleLimits
from interlock.bundle.load import Bundle, load
from interlock.bundle.manifest import REPORTS
from interlock.bundle.metadata import Metadata, SmokeVector, StrictContract, TensorSpec
from interlock.bundle.pack import pack

__all__ = [
    "DEFAULT_LIMITS",
    "REPORTS",
    "TAU_INFER",
    "TAU_TRAIN",
    "Bundle",
    "BundleLimits",
    "Metadata",
    "SmokeVector",
    "StrictContract",
    "TensorSpec",
    "load",
    "pack",
    "signature_of",
    "thresholds",
]
