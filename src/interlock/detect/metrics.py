"""How well scores tell attacks from harmless texts, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernel.intervals import wilson_interval

Floats = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Interval = tuple[float, float]

RESAMPLES = 1000
_SEED = 20_260


@dataclass(frozen=True, slots=True)
class Counts:
    """What one threshold makes of `n` texts."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def fpr(self) -> float | None:
        """Share of the harmless texts that reached the threshold."""
        return _share(self.false_positive, self.false_positive + self.true_negative)

    @property
    def recall(self) -> float | None:
        """Share of the attacks that reached it."""
        return _share(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None without attacks."""
        if self.true_positive + self.false_negative == 0:
            return None
        wrong = self.false_positive + self.false_negative
        return 2 * self.true_positive / (2 * self.true_positive + wrong)

    @property
    def accuracy(self) -> float | None:
        """Share of the texts that were told right."""
        right = self.true_positive + self.true_negative
        return _share(right, right + self.false_positive + self.false_negative)

    def figures(self) -> dict[str, float | None]:
        """`fpr`, `recall`, `f1` and `accuracy`."""
        return {name: getattr(self, name) for name in ("fpr", "recall", "f1", "accuracy")}

    def intervals(self) -> dict[str, list[float]]:
        """95% score intervals of the shares among the figures."""
        harmless = self.false_positive + self.true_negative
        attacks = self.true_positive + self.false_negative
        right = self.true_positive + self.true_negative
        shares = {
            "fpr": (self.false_positive, harmless),
            "recall": (self.true_positive, attacks),
            "accuracy": (right, harmless + attacks),
        }
        return {
            name: list(wilson_interval(count, total))
            for name, (count, total) in shares.items()
            if total
        }


def count(scores: Floats, attacks: Truth, threshold: float) -> Counts:
    """What `threshold` makes of the texts; a score that equals it counts as an attack."""
    reached = scores >= threshold
    return Counts(
        int((reached & attacks).sum()),
        int((reached & ~attacks).sum()),
        int((~reached & attacks).sum()),
        int((~reached & ~attacks).sum()),
    )


def auc(scores: Floats, attacks: Truth) -> tuple[float, Interval] | None:
    """Area under the ROC curve with its 95% interval; None where a class is missing.

    The variance is that of E. R. DeLong et al., Biometrics 44 (1988) 837-845; the interval is
    taken on the logit scale, so that it stays within 0 and 1. Where every pair is in order there is
    no variance, and the bound is that of as many pairs apart as there are texts of the rarer class:
    all k of them are in order with a probability of area^k.
    """
    positive, negative = scores[attacks], scores[~attacks]
    if not len(positive) or not len(negative):
        return None
    above = _below(negative, positive)
    under = 1 - _below(positive, negative)
    area = float(above.mean())
    if area in (0.0, 1.0):
        least = 0.025 ** (1 / min(len(positive), len(negative)))
        return area, ((least, 1.0) if area else (0.0, 1.0 - least))
    if len(positive) < 2 or len(negative) < 2:
        return area, (0.0, 1.0)
    error = math.sqrt(above.var(ddof=1) / len(positive) + under.var(ddof=1) / len(negative))
    if error == 0:
        # Every pair is alike, a tie mostly: so are as many further ones, as above.
        slack = 1 - 0.025 ** (1 / min(len(positive), len(negative)))
        return area, (max(0.0, area - slack), min(1.0, area + slack))
    middle = math.log(area / (1 - area))
    half = 1.959964 * error / (area * (1 - area))
    return area, (1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle)))


def _below(reference: Floats, values: Floats) -> Floats:
    """For each value the share of `reference` below it, equal ones counted half."""
    ordered = np.sort(reference)
    left = np.searchsorted(ordered, values, "left")
    right = np.searchsorted(ordered, values, "right")
    return np.asarray((left + right) / (2 * len(reference)), np.float64)


def threshold_at(harmless: Floats, share: float) -> float:
    """The lowest threshold that at most `share` of the harmless scores reach.

    Above every score where even one would be too many.
    """
    allowed = int(share * len(harmless) + 1e-9)
    ordered = np.sort(harmless)[::-1]
    if allowed >= len(ordered):
        return 0.0 if not len(ordered) else float(ordered[-1])
    # Just above the first score that must not reach it.
    return float(np.nextafter(ordered[allowed], np.inf))


def recall_at(
    scores: Floats, attacks: Truth, share: float, *, resamples: int = RESAMPLES
) -> tuple[float, float, Interval] | None:
    """Recall at the threshold that at most `share` of these harmless texts reach.

    Returns recall, threshold, and the 95% interval over `resamples` bootstrap samples of both
    classes, with the threshold found anew in each; None where a class is missing. Where all samples
    agree, which few texts soon do, it is the score interval of the recall.
    """
    positive, negative = scores[attacks], scores[~attacks]
    if not len(positive) or not len(negative):
        return None
    threshold = threshold_at(negative, share)
    recall = float((positive >= threshold).mean())
    draw = np.random.default_rng(_SEED)
    found = np.empty(resamples)
    for at in range(resamples):
        cut = threshold_at(draw.choice(negative, len(negative)), share)
        found[at] = (draw.choice(positive, len(positive)) >= cut).mean()
    low, high = np.quantile(found, [0.025, 0.975])
    if low == high:
        low, high = wilson_interval(round(recall * len(positive)), len(positive))
    return recall, threshold, (float(low), float(high))


def report(
    scores: Floats, attacks: Truth, threshold: float, shares: Sequence[float] = (0.01, 0.001, 0.05)
) -> dict[str, Any]:
    """All figures of one set of texts, as `detect evaluate --json` prints them."""
    counts = count(scores, attacks, threshold)
    area = auc(scores, attacks)
    found: dict[str, Any] = {
        "n": len(scores),
        "attacks": int(attacks.sum()),
        "threshold": threshold,
        "at_threshold": counts.figures(),
        "recall_at_fpr": {},
        "auc": None if area is None else area[0],
        "intervals": {"at_threshold": counts.intervals(), "recall_at_fpr": {}},
        "threshold_at_fpr": {},
    }
    if area is not None:
        found["intervals"]["auc"] = list(area[1])
    for share in shares:
        at = recall_at(scores, attacks, share)
        name = f"{share:g}"
        found["recall_at_fpr"][name] = None if at is None else at[0]
        if at is not None:
            found["threshold_at_fpr"][name] = at[1]
            found["intervals"]["recall_at_fpr"][name] = list(at[2])
    return found


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
