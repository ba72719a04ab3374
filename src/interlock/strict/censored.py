"""Three-way censoring: a bottom answer that still says on which side of the range it lies."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from interlock.kernel.errors import InputError
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import strict_inference
from interlock.strict.tensors import floating_kind, is_tensor, to_numpy


class CensoredClass(IntEnum):
    """What `class_id` holds.

    BELOW, ABOVE  bottom, and beyond the lower or the upper limit of what can be decoded
    IN_RANGE      decoded; never where bottom
    UNDECIDED     bottom, and nothing trustworthy says on which side. Beyond the three classes, so
                  that using it as an index into them fails.
    """

    BELOW = 0
    IN_RANGE = 1
    ABOVE = 2
    UNDECIDED = 3


class CensoredResult(NamedTuple):
    """Unpacks as `decoded, bottom_mask, class_id`, all of the shape of P.

    decoded      P/Q, NaN where bottom
    bottom_mask  bool: the value must not be used
    class_id     int64, CensoredClass; IN_RANGE exactly where not bottom
    """

    decoded: Any
    bottom_mask: Any
    class_id: Any


def decode_strict_censored_3way(
    P: Any, Q: Any, *, tau_infer: float, direction_logits: Any = None
) -> CensoredResult:
    """Decode P/Q strictly, and give every bottom a side where one can be known.

    P, Q              real, of one and the same shape, any number of axes: NumPy arrays or tensors
    tau_infer         the threshold on |Q|, as in InferenceConfig
    direction_logits  shape of P and then 2: the logits of below and above, used where |Q| is below
                      the threshold, also where P has overflowed there. Without them the sign of P
                      decides where P is finite, which assumes a model whose Q is never negative.

    UNDECIDED are: P = NaN, Q not finite, and |Q| at or above the threshold with P/Q not finite;
    logits that are equal or not finite; without logits, P = 0, P infinite and Q < 0.

    Raises InputError for shapes and types that do not belong together, and what strict_inference
    raises.
    """
    config = InferenceConfig(tau_infer, provenance="experimental")
    found: Any = strict_inference(P, Q, config=config)
    if floating_kind(found.decoded) == "c":
        raise InputError("P and Q are complex; below and above need real numbers")
    shape = tuple(P.shape)
    if tuple(Q.shape) != shape:
        raise InputError(
            f"P has shape {shape} and Q has shape {tuple(Q.shape)}; they must be the same",
            hint="squeeze the last axis of both where it is 1",
        )
    xp: Any = np
    if is_tensor(P):
        import torch

        xp = torch
    zeros = xp.zeros_like(found.bottom_mask, dtype=xp.int64)
    if direction_logits is None:
        below, above = (P < 0) & (Q >= 0), (P > 0) & (Q >= 0)
        decided = found.semantic_bottom_mask & ~found.fault_mask
    else:
        below, above = _sides(direction_logits, P, shape, xp)
        # An infinite P over a vanishing Q is as far beyond the range as an answer can be. NaN says
        # that the network broke, and its logits with it.
        decided = found.semantic_bottom_mask & ~xp.isnan(P)
    class_id = zeros + CensoredClass.UNDECIDED
    for code, where in (
        (CensoredClass.BELOW, below & decided),
        (CensoredClass.ABOVE, above & decided),
        (CensoredClass.IN_RANGE, ~found.bottom_mask),
    ):
        class_id = xp.where(where, zeros + code, class_id)
    return CensoredResult(found.decoded, found.bottom_mask, class_id)


def _sides(logits: Any, like: Any, shape: tuple[int, ...], xp: Any) -> tuple[Any, Any]:
    if is_tensor(logits) != is_tensor(like):
        raise InputError("direction_logits, P and Q must all be NumPy arrays or all torch tensors")
    array = logits.detach() if is_tensor(logits) else to_numpy("direction_logits", logits)
    if tuple(array.shape) != (*shape, 2):
        raise InputError(
            f"direction_logits has shape {tuple(array.shape)} for P of shape {shape}; "
            f"it must be {(*shape, 2)}"
        )
    if floating_kind(array) != "f":
        raise InputError(f"direction_logits has dtype {array.dtype}; it must be floating-point")
    finite = xp.isfinite(array).all(-1)
    below, above = array[..., 0], array[..., 1]
    return finite & (below > above), finite & (above > below)
