"""A torch module that returns (P, Q), wrapped so that it answers strictly; imports torch."""

from __future__ import annotations

from typing import Any

import torch

from interlock.kernel.errors import ConfigError, InputError
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult, strict_inference


class SCMInferenceWrapper(torch.nn.Module):  # type: ignore[misc]
    """`model` with strict decode at its end.

    In eval mode `wrapped(x)` is a `StrictResult`, which unpacks as `decoded, bottom_mask,
    gap_mask`, without gradients. In training mode it is the model's pair (P, Q), for a loss. It
    starts in the mode that `model` is in.

    Raises ConfigError for a model that is no torch module or a config that is none, and when
    called InputError for a model that does not return two tensors, or whose P and Q do not belong
    together.
    """

    def __init__(self, model: torch.nn.Module, config: InferenceConfig) -> None:
        super().__init__()
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        if not isinstance(config, InferenceConfig):
            raise ConfigError(f"config is a {type(config).__name__}; it must be an InferenceConfig")
        self.model = model
        self.config = config
        self.training = model.training

    def projective(self, *inputs: Any, **named: Any) -> tuple[Any, Any]:
        """P and Q as the model returns them, in either mode."""
        answer = self.model(*inputs, **named)
        pair = isinstance(answer, tuple | list) and len(answer) == 2
        if not pair or not all(isinstance(part, torch.Tensor) for part in answer):
            raise InputError(
                f"the model returned {_described(answer)}; it must return two tensors, P and Q"
            )
        return answer[0], answer[1]

    def forward(self, *inputs: Any, **named: Any) -> StrictResult | tuple[Any, Any]:
        """The strict result in eval mode, (P, Q) in training mode."""
        p, q = self.projective(*inputs, **named)
        if self.training:
            return p, q
        return strict_inference(p, q, config=self.config)


def _described(answer: object) -> str:
    name = type(answer).__name__
    if isinstance(answer, tuple | list):
        return f"a {name} of {', '.join(type(part).__name__ for part in answer) or 'nothing'}"
    return f"a {name}"
