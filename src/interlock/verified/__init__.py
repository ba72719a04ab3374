"""Models run slice by slice, each proved by a zero-knowledge circuit or replayed by ONNX Runtime.

Names are imported when first used, so `import interlock.verified` needs neither onnx nor ezkl.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interlock.verified.chain import ChainRun, SliceChain, SliceRun
    from interlock.verified.circuit_prover import CircuitProver
    from interlock.verified.directory import ModelDirectory, VerifiedWarning
    from interlock.verified.metadata import RunnerMetadata
    from interlock.verified.proof_bundle import write_bundle
    from interlock.verified.proof_verify import Against, BundleVerifier, Verdict, verify_bundle
    from interlock.verified.prover import CircuitPlan, Limits, NoProver, Prover, SliceProof
    from interlock.verified.result import InferenceResult, SliceResult
    from interlock.verified.runner import Runner
    from interlock.verified.slices import Slice, SlicedModel
    from interlock.verified.slicing import slice_model
    from interlock.verified.steps import Policy

_MODULES = {
    "Against": "proof_verify",
    "BundleVerifier": "proof_verify",
    "ChainRun": "chain",
    "CircuitPlan": "prover",
    "CircuitProver": "circuit_prover",
    "InferenceResult": "result",
    "Limits": "prover",
    "ModelDirectory": "directory",
    "NoProver": "prover",
    "Policy": "steps",
    "Prover": "prover",
    "Runner": "runner",
    "RunnerMetadata": "metadata",
    "Slice": "slices",
    "SliceChain": "chain",
    "SliceProof": "prover",
    "SliceResult": "result",
    "SliceRun": "chain",
    "SlicedModel": "slices",
    "Verdict": "proof_verify",
    "VerifiedWarning": "directory",
    "slice_model": "slicing",
    "verify_bundle": "proof_verify",
    "write_bundle": "proof_bundle",
}

__all__ = [
    "Against",
    "BundleVerifier",
    "ChainRun",
    "CircuitPlan",
    "CircuitProver",
    "InferenceResult",
    "Limits",
    "ModelDirectory",
    "NoProver",
    "Policy",
    "Prover",
    "Runner",
    "RunnerMetadata",
    "Slice",
    "SliceChain",
    "SliceProof",
    "SliceResult",
    "SliceRun",
    "SlicedModel",
    "Verdict",
    "VerifiedWarning",
    "slice_model",
    "verify_bundle",
    "write_bundle",
]


if not TYPE_CHECKING:  # else a type checker would take any name for granted

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
