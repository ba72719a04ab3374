"""Strict inference under the peer's names.

The peer's configuration has a default threshold and its results always say why an answer is
bottom, so provenance is always asked for here, in both representations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from interlock import strict
from interlock.errors import ConfigError
from interlock.strict import BottomCode

BOTTOM_PROVENANCE_FINITE = int(BottomCode.NONE)
BOTTOM_PROVENANCE_FAULT = int(BottomCode.FAULT)
BOTTOM_PROVENANCE_SEMANTIC = int(BottomCode.SEMANTIC)
BOTTOM_PROVENANCE_MIXED = int(BottomCode.MIXED)
PROVENANCE_REPRESENTATION_ENUM = "bottom_provenance"
STRICT_INFERENCE_FIELDS = strict.StrictResult._fields
INFERENCE_OUTPUT_SCHEMA_KEY = "inference_output_schema"
EXPERIMENTAL_INFERENCE_OUTPUT_SCHEMA_KEY = "experimental_inference_output_schema"

# Imported, and never reached, by the tests of the peer's bundle format.
STRICT_INFERENCE_ONNX_FIELDS = STRICT_INFERENCE_FIELDS
STRICT_INFERENCE_SCHEMA_VERSION = 2
STRICT_INFERENCE_EXPORT_KIND_EXPERIMENTAL_PROVENANCE_OUTPUTS = "not offered"
STRICT_INFERENCE_EXPORT_KIND_MERGED_ONLY_MASKS = "not offered"
STRICT_INFERENCE_EXPORT_KIND_STABLE_PROVENANCE_OUTPUTS = "not offered"


@dataclasses.dataclass(frozen=True)
class InferenceConfig(strict.InferenceConfig):
    """The product's, with the peer's default threshold and its word for codes.

    The two further thresholds are carried for a monitor and never change a mask, as at the peer.
    """

    tau_infer: float = 1e-6
    numerical_hazard_threshold: float | None = None
    provenance_fault_threshold: float | None = None

    def __post_init__(self) -> None:
        """Checked by the product."""
        if self.provenance_representation == PROVENANCE_REPRESENTATION_ENUM:
            object.__setattr__(self, "provenance_representation", "codes")
        super().__post_init__()


@contextmanager
def peers_wording() -> Iterator[None]:
    """The product's refusal of a threshold that rounds to 0, in the words the tests look for."""
    try:
        yield
    except ConfigError as error:
        if "rounds to 0" in error.message:
            raise ValueError(f"{error.message}: it underflows to 0") from error
        raise


def strict_inference(
    numerator: Any,
    denominator: Any,
    *,
    config: strict.InferenceConfig | None = None,
    experimental_provenance: bool | None = None,
    validity_factors: Sequence[Any] = (),
    validity_taus: Sequence[float] = (),
) -> Any:
    """The product's, with both forms of provenance; factors are further denominators."""
    config = InferenceConfig() if config is None else config
    result = _explained(numerator, denominator, config)
    for factor, tau in zip(validity_factors, validity_taus, strict=True):
        result = _and_denominator(result, factor, InferenceConfig(tau, max(tau, 1e-30)))
    return result


strict_inference_numpy = strict_inference


def _explained(P: Any, Q: Any, config: strict.InferenceConfig) -> Any:
    with peers_wording():
        asked = dataclasses.replace(
            config, provenance="experimental", provenance_representation="split_masks"
        )
        result: Any = strict.strict_inference(P, Q, config=asked)
        asked = dataclasses.replace(asked, provenance_representation="codes")
        codes: Any = strict.strict_inference(P, Q, config=asked)
    result.bottom_provenance = codes.bottom_provenance
    return result


def _and_denominator(result: Any, Q: Any, config: strict.InferenceConfig) -> Any:
    """`result` where Q is a second denominator: bottom where either is, as docs/ show it."""
    second = _explained(torch.zeros_like(Q), Q, config)
    bottom = result.bottom_mask | second.bottom_mask
    both = strict.ExplainedResult(
        strict.reject_on_bottom(result.decoded, bottom).decoded_safe,
        bottom,
        (result.gap_mask | second.gap_mask) & ~bottom,
    )
    both.fault_mask = result.fault_mask | second.fault_mask
    both.semantic_bottom_mask = result.semantic_bottom_mask | second.semantic_bottom_mask
    both.bottom_provenance = result.bottom_provenance | second.bottom_provenance
    return both


class SCMInferenceWrapper(torch.nn.Module):  # type: ignore[misc]
    """The product's wrapper; a pair as the only input is the model's input and a denominator."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        config: strict.InferenceConfig | None = None,
        experimental_provenance: bool | None = None,
    ) -> None:
        super().__init__()
        config = InferenceConfig() if config is None else config
        self.wrapped = strict.SCMInferenceWrapper(model, config)

    def forward(self, *inputs: Any) -> Any:
        """P and Q in training mode, the strict result else."""
        if self.training:
            return self.wrapped.projective(*inputs)
        config = self.wrapped.config
        if len(inputs) == 1 and isinstance(inputs[0], tuple):
            pair = self.wrapped.projective(inputs[0][0])
            return _and_denominator(_explained(*pair, config), inputs[0][1], config)
        return _explained(*self.wrapped.projective(*inputs), config)


def not_offered(name: str) -> Callable[..., Any]:
    """A stand-in for what the tests import and the product does not have; calling it fails."""

    def refuse(*arguments: object, **options: object) -> Any:
        raise NotImplementedError(f"{name} is not part of the product")

    return refuse


strict_inference_jax = not_offered("strict_inference_jax")
script_module = not_offered("script_module")
get_inference_output_schema = not_offered("get_inference_output_schema")
get_experimental_inference_output_schema = not_offered("get_experimental_inference_output_schema")
InferenceProvenanceResult = not_offered("InferenceProvenanceResult")
InferenceEnumProvenanceResult = not_offered("InferenceEnumProvenanceResult")
_torch_build_result = not_offered("_torch_build_result")
