"""P/Q inference with fail-closed bottom and gap masks.

Names are imported when first used, so `import interlock.strict` needs neither onnx nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from interlock.kernel.errors import MissingExtraError

if TYPE_CHECKING:
    from interlock.strict.calibrate import Calibration, calibrate_tau, check_certificate
    from interlock.strict.certificate import Certificate
    from interlock.strict.certified import attach_certificate, certificate_of
    from interlock.strict.compare import Agreement
    from interlock.strict.config import InferenceConfig
    from interlock.strict.decode import StrictResult, strict_inference
    from interlock.strict.engine import StrictEngine
    from interlock.strict.export import export_bundle
    from interlock.strict.graph import append_decode
    from interlock.strict.guards import MaskGuard
    from interlock.strict.metrics import tau_infer_sweep_from_q_abs, write_tau_infer_sweep
    from interlock.strict.risk import RiskCoverage, risk_coverage
    from interlock.strict.runtime import (
        StrictRuntime,
        load_onnx_runtime_bundle,
        run_bundle_reference_smoke_test,
        validate_bundle,
    )
    from interlock.strict.wrapper import SCMInferenceWrapper as SCMInferenceWrapper

_MODULES = {
    "Agreement": "compare",
    "Calibration": "calibrate",
    "Certificate": "certificate",
    "InferenceConfig": "config",
    "MaskGuard": "guards",
    "RiskCoverage": "risk",
    "SCMInferenceWrapper": "wrapper",
    "StrictEngine": "engine",
    "StrictResult": "decode",
    "StrictRuntime": "runtime",
    "append_decode": "graph",
    "attach_certificate": "certified",
    "calibrate_tau": "calibrate",
    "certificate_of": "certified",
    "check_certificate": "calibrate",
    "export_bundle": "export",
    "load_onnx_runtime_bundle": "runtime",
    "risk_coverage": "risk",
    "run_bundle_reference_smoke_test": "runtime",
    "strict_inference": "decode",
    "tau_infer_sweep_from_q_abs": "metrics",
    "validate_bundle": "runtime",
    "write_tau_infer_sweep": "metrics",
}

# Without SCMInferenceWrapper, so that a star import works where torch is not installed.
__all__ = [
    "Agreement",
    "Calibration",
    "Certificate",
    "InferenceConfig",
    "MaskGuard",
    "RiskCoverage",
    "StrictEngine",
    "StrictResult",
    "StrictRuntime",
    "append_decode",
    "attach_certificate",
    "calibrate_tau",
    "certificate_of",
    "check_certificate",
    "export_bundle",
    "load_onnx_runtime_bundle",
    "risk_coverage",
    "run_bundle_reference_smoke_test",
    "strict_inference",
    "tau_infer_sweep_from_q_abs",
    "validate_bundle",
    "write_tau_infer_sweep",
]


if not TYPE_CHECKING:  # else a type checker would take any name for granted

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingExtraError("torch", name) from None
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
