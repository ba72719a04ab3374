"""Names that the peer's tests import from `zeroproof.inference`."""

from .bundle import validate_bundle
from .mode import (
    InferenceConfig,
    SCMInferenceWrapper,
    script_module,
    strict_inference,
    strict_inference_jax,
    strict_inference_numpy,
)
from .patterns import decode_strict_censored_3way

__all__ = [
    "InferenceConfig",
    "SCMInferenceWrapper",
    "decode_strict_censored_3way",
    "script_module",
    "strict_inference",
    "strict_inference_jax",
    "strict_inference_numpy",
    "validate_bundle",
]
