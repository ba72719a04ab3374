"""From the logits of a text's windows to the text's calibrated score: the only place that does it.

Training, evaluation and the detector call the same function with the settings of `detector.json`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interlock.detect.settings import FuseSettings

Logits = np.ndarray[Any, np.dtype[np.floating[Any]]]


def fused_logit(logits: Logits, settings: FuseSettings, own: int | None = None) -> float:
    """The calibrated logit of a text from the logits (W,) of its windows, W at least 1.

    The maximum, or for a temperature t above 0 the soft maximum t·log Σ exp(z/t), less
    `settings.windows` · log `own`, up to `settings.counted`, since the maximum of several harmless
    windows is larger than that of one; then scaled and shifted. The bound keeps one bad window in a
    long text visible. Raises ValueError for no windows and for a logit that is NaN.

    own  windows of the text in the reading that the maximum is from, see `windows_beside`; all W
         by default
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"logits have shape {values.shape}; at least one window is needed")
    if np.isnan(values).any():
        raise ValueError("a window's logit is NaN")
    top = float(values.max())
    if settings.temperature > 0 and np.isfinite(top):
        with np.errstate(over="ignore"):  # of a quotient that is as good as minus infinity
            spread = np.exp((values - top) / settings.temperature).sum()
        top += settings.temperature * float(np.log(spread))
    top -= settings.windows * float(np.log(min(own or len(values), settings.counted)))
    return settings.scale * top + settings.shift


def probability(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow."""
    if logit >= 0:
        return float(1.0 / (1.0 + np.exp(-min(logit, 700.0))))
    small = float(np.exp(max(logit, -700.0)))
    return small / (1.0 + small)


def fused_score(logits: Logits, settings: FuseSettings) -> float:
    """The text's score, 0 … 1: the probability of `fused_logit`."""
    return probability(fused_logit(logits, settings))


def worst_windows(logits: Logits, most: int = 3) -> list[int]:
    """The indices of the `most` windows with the highest logits, highest first, ties in order."""
    values = np.asarray(logits, dtype=np.float64)
    return [int(index) for index in np.argsort(-values, kind="stable")[:most]]
