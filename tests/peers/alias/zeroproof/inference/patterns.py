"""Three-way censoring under the peer's names; it has no class for a side that is not known."""

from __future__ import annotations

import math
from typing import Any

from interlock import strict
from interlock.strict import BottomCode, CensoredClass
from interlock.strict import CensoredResult as SemanticDecodeResult

from .mode import peers_wording


def decode_strict_censored_3way(
    numerator: Any,
    denominator: Any,
    *,
    tau_infer: float,
    direction_logits: Any = None,
    fault_mask: Any = None,
    semantic_bottom_mask: Any = None,
    bottom_provenance: Any = None,
) -> SemanticDecodeResult:
    """The product's; a mere fault that the caller knows of is put into the numerator."""
    if bottom_provenance is not None:
        fault_mask = bottom_provenance == int(BottomCode.FAULT)
    elif fault_mask is not None and semantic_bottom_mask is not None:
        fault_mask = fault_mask & ~semantic_bottom_mask
    if fault_mask is not None:
        numerator = numerator.masked_fill(fault_mask, math.nan)
    with peers_wording():
        found = strict.decode_strict_censored_3way(
            numerator, denominator, tau_infer=tau_infer, direction_logits=direction_logits
        )
    unknown = found.class_id == CensoredClass.UNDECIDED
    return found._replace(class_id=found.class_id.masked_fill(unknown, CensoredClass.IN_RANGE))
