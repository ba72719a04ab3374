"""P/Q inference with fail-closed bottom and gap masks."""

from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult, strict_inference

__all__ = ["InferenceConfig", "StrictResult", "strict_inference"]
