"""The monitor under the peer's names."""

from __future__ import annotations

from typing import Any

from interlock.strict import StrictInferenceMonitor


def strict_inference_rates(bottom_mask: Any, gap_mask: Any = None, **masks: Any) -> Any:
    """The rates of one batch."""
    monitor = StrictInferenceMonitor()
    monitor.update(bottom_mask, gap_mask, **masks)
    return monitor.rates()
