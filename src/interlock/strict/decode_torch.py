"""Strict decode of torch tensors, on their own device; imported only when P or Q is one."""

from __future__ import annotations

import math
from typing import Any

import torch

from interlock.kernel.errors import InputError
from interlock.strict.config import InferenceConfig
from interlock.strict.shapes import mask_shape

_FORMAT = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}


def decode(P: Any, Q: Any, config: InferenceConfig) -> tuple[Any, Any, Any]:
    """Decoded, bottom and gap by the rules of `interlock.strict.decode`, without gradients."""
    _check("P", P)
    _check("Q", Q)
    if P.device != Q.device:
        raise InputError(f"P is on {P.device} and Q on {Q.device}; they must share a device")
    trailing = tuple(range(Q.ndim, P.ndim)) if len(mask_shape(P.shape, Q.shape)) < P.ndim else ()
    thresholds = config.in_format(_FORMAT[Q.dtype])
    expand = (..., *(None for _ in trailing))
    with torch.no_grad():
        decoded = torch.div(P, Q[expand])
        accepted = torch.isfinite(decoded)
        if decoded.is_complex():
            # Nothing promises that a complex quotient of an infinite P is not finite.
            accepted &= torch.isfinite(P)
        if trailing:
            accepted = accepted.all(dim=trailing)
        size = torch.abs(Q)
        accepted = accepted & (torch.isfinite(Q) & (size >= thresholds.infer))
        if thresholds.train is None:
            gap = torch.zeros_like(accepted)
        else:
            gap = accepted & (size < thresholds.train)
        bottom = ~accepted
        nan = complex(math.nan, math.nan) if decoded.is_complex() else math.nan
        decoded.masked_fill_(bottom[expand], nan)
    return decoded, bottom, gap


def _check(name: str, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            f"{name} is a {type(tensor).__name__}; P and Q must both be torch tensors or both "
            "NumPy arrays"
        )
    if tensor.layout != torch.strided:
        raise InputError(f"{name} has layout {tensor.layout}; it must be dense")
    if tensor.dtype not in _FORMAT:
        raise InputError(
            f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}; "
            f"it must be one of {', '.join(_FORMAT.values())}"
        )
