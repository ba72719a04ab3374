"""Why an answer is bottom: a fault in the numbers, or a denominator below the threshold.

Experimental, and computed only where `InferenceConfig(provenance="experimental")` asks for it.
Consumers depend on the three stable fields and read these with `getattr(result, name, None)`.

    semantic  |Q| < tau_infer, or Q = 0
    fault     P or Q is not finite, or P/Q is not although |Q| >= tau_infer

Bottom is their union, element for element, or row for row where masks are per row.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np

from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult
from interlock.strict.tensors import is_tensor


class BottomCode(IntEnum):
    """What `bottom_provenance` holds."""

    NONE = 0
    FAULT = 1
    SEMANTIC = 2
    MIXED = 3


class ExplainedResult(StrictResult):
    """A StrictResult that also says why; what was not asked for is absent.

    fault_mask, semantic_bottom_mask  bool, shape of the masks; with "split_masks"
    bottom_provenance                 uint8, the same shape, BottomCode; with "codes"
    """

    fault_mask: Any
    semantic_bottom_mask: Any
    bottom_provenance: Any


def explain(P: Any, Q: Any, result: StrictResult, config: InferenceConfig) -> ExplainedResult:
    """`result`, which strict decode gave for P and Q, with its provenance in the form asked for."""
    tensors = is_tensor(Q)
    xp: Any = np
    if tensors:
        import torch

        xp, P, Q = torch, P.detach(), Q.detach()
    else:
        P, Q = np.asarray(P), np.asarray(Q)
    tau = config.in_format(str(Q.dtype).removeprefix("torch.") if tensors else Q.dtype.name).infer
    bottom = result.bottom_mask
    shape = tuple(bottom.shape)
    width = math.prod(P.shape[len(shape) :])
    # NumPy warns where the magnitude of a finite complex number overflows.
    with np.errstate(all="ignore"):
        finite = xp.isfinite(P).reshape((*shape, width)).all(-1) & xp.isfinite(Q)
        semantic = bottom & (xp.abs(Q) < tau)
    # Whatever is bottom for another reason than the threshold is a fault.
    fault = bottom & ~(semantic & finite)
    if not tensors:
        semantic, fault = np.asarray(semantic), np.asarray(fault)
    found = ExplainedResult(*result)
    if config.provenance_representation == "split_masks":
        found.fault_mask, found.semantic_bottom_mask = fault, semantic
    else:
        codes = xp.zeros_like(bottom, dtype=xp.uint8)
        codes[fault] = BottomCode.FAULT
        codes[semantic] = BottomCode.SEMANTIC
        codes[fault & semantic] = BottomCode.MIXED
        found.bottom_provenance = codes
    return found
