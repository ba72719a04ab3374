"""Money: what was spent, what may have been, what is at stake, and a hard stop before all of it.

A request is sent only where its worst case still fits into the budget, together with everything
spent and the worst cases of what is in flight. So the budget holds whatever the answers cost.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

SLACK = 1e-8
"""US dollars that sums of floats may be off by."""


@dataclass(frozen=True, slots=True)
class Spending:
    """US dollars.

    spent      by the usage that providers reported
    uncertain  worst cases of requests that may have been billed, though no usage came
    at_stake   worst cases of what is in flight
    """

    spent: float
    uncertain: float
    at_stake: float


class Ledger:
    """The account book of one run. Safe across threads.

    `budget` is None for no limit. What was spent before this start is entered with `spend`.
    """

    def __init__(self, budget: float | None = None) -> None:
        self.budget = budget
        self._spent = 0.0
        self._uncertain = 0.0
        self._at_stake = 0.0
        self._lock = threading.Lock()

    def reserve(self, worst: float) -> bool:
        """Put `worst` at stake, or return False where the budget leaves no room for it."""
        with self._lock:
            if not self._fits(worst):
                return False
            self._at_stake += worst
            return True

    def room(self, worst: float) -> float:
        """How many requests of this worst case could be reserved now; infinity without a budget."""
        with self._lock:
            if self.budget is None or worst <= 0:
                return math.inf
            return math.floor((self.budget + SLACK - self._total()) / worst)

    @property
    def used_up(self) -> bool:
        """Whether nothing of the budget is left; what costs nothing uses nothing up."""
        with self._lock:
            return self.budget is not None and 0 < self._total() >= self.budget - SLACK

    def release(self, worst: float, *, spent: float = 0.0, uncertain: float = 0.0) -> None:
        """A request ended: it cost `spent`, or up to `uncertain`."""
        with self._lock:
            # Sums of floats round; an empty book must read as zero.
            self._at_stake = max(0.0, self._at_stake - worst)
            self._spent += spent
            self._uncertain += uncertain

    def spend(self, spent: float, uncertain: float = 0.0) -> None:
        """Enter what an earlier start of the run spent."""
        with self._lock:
            self._spent += spent
            self._uncertain += uncertain

    def read(self) -> Spending:
        """How it stands."""
        with self._lock:
            return Spending(self._spent, self._uncertain, self._at_stake)

    def _fits(self, worst: float) -> bool:
        return self.budget is None or self._total() + worst <= self.budget + SLACK

    def _total(self) -> float:
        return self._spent + self._uncertain + self._at_stake
