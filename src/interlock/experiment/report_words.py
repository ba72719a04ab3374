"""How a report writes shares and names variants."""

from __future__ import annotations

from interlock.experiment.figures import Analysis
from interlock.experiment.rates import Rate
from interlock.report.blocks import Tone

TONES: tuple[Tone, ...] = ("routed", "flagged", "accepted", "refused", "failed", "plain")


def percent(share: float | None, *, signed: bool = False) -> str:
    """A share in per cent with one decimal; empty for None."""
    if share is None:
        return ""
    text = f"{100 * share:+.1f}%" if signed else f"{100 * share:.1f}%"
    return text.replace("-", "−")


def interval_words(rate: Rate) -> str:
    """Interval and n of a rate."""
    return f"{percent(rate.low)} to {percent(rate.high)}, n = {rate.n:,}"


def labels(found: Analysis) -> dict[str, str]:
    """What a reader calls each variant, in the order of the run."""
    return {summary.variant: summary.label for summary in found.variants}


def tones(found: Analysis) -> dict[str, Tone]:
    """A colour for each variant."""
    return {
        summary.variant: TONES[place % len(TONES)] for place, summary in enumerate(found.variants)
    }
