"""Rejection and routing under the peer's names and argument order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from interlock import strict
from interlock.strict import BottomCode, reject_on_bottom, reject_on_gap

from .mode import not_offered

__all__ = ["reject_on_bottom", "reject_on_gap", "route_to_analytic_solver", "safe_sentinel"]

safe_sentinel = not_offered("safe_sentinel")


def route_to_analytic_solver(
    decoded: Any,
    invalid_mask: Any,
    *,
    inputs: Any,
    solver_fn: Callable[[Any], Any],
    bottom_mask: Any = None,
    fault_mask: Any = None,
    semantic_bottom_mask: Any = None,
    bottom_provenance: Any = None,
) -> Any:
    """The product's on all rows but the semantic bottoms, which the peer leaves as they are."""
    semantic = torch.zeros(len(decoded), dtype=torch.bool)
    if semantic_bottom_mask is not None:
        semantic = semantic_bottom_mask
    elif bottom_provenance is not None:
        semantic = (bottom_provenance & int(BottomCode.SEMANTIC)) != 0
    rows = ~semantic
    routed = strict.route_to_analytic_solver(
        decoded[rows],
        bottom_mask=invalid_mask[rows],
        analytic_solver=solver_fn,
        inputs=inputs[rows],
    )
    resolved = decoded.clone()
    resolved[rows] = routed.resolved
    return resolved
