"""Choose tau_infer on held-out rows, with a guarantee, or abstain.

Learn then Test (A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan, L. Lei, "Learn then
Test: Calibrating Predictive Algorithms to Achieve Risk Control", 2021) by fixed-sequence testing:
thresholds are tested from a safe one downwards, and the last one before the first failure is
taken.

With rows drawn independently from one distribution, A(t) the rows with |Q| >= t and R(t) the
probability that a row is unsafe given that t accepts it, a threshold t passes if

    P(Binomial(accepted rows, alpha) <= unsafe rows among them) <= delta

and every set A(t) that occurs on the way down from `start` has to pass.

Why R(tau) <= alpha with probability at least 1 - delta: let b be the highest t <= start with
R(t) > alpha, or the limit of such t, where R(b) >= alpha since R is continuous from the left; b
depends on the distribution and on `start` alone, and a tau with R(tau) > alpha has tau <= b, so
A(b) was tested on the way and passed. Given its size, the unsafe rows in A(b) are
Binomial(size, R(b)) with R(b) >= alpha, so that A(b) passes with probability at most delta.

The proof needs a `start` that does not depend on the tested rows, and no monotone risk. Unless the
caller gives one, a tenth of the rows, at most 1,000, are set aside at random and their |Q| alone
chooses it.

With rate "all" the risk is P(accepted and unsafe), which cannot fall as t falls, and the count is
Binomial(n, risk) for every t. Then the same argument holds from the empty set down, without a
start.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from interlock import __version__
from interlock.kernel.errors import ConfigError, InputError
from interlock.kernel.intervals import binomial_cdf, clopper_pearson_upper
from interlock.strict.certificate import Certificate, Rate, check_levels, check_split
from interlock.strict.config import rounded_threshold
from interlock.strict.held_out import AcceptedSets, read_held_out

PILOT_SHARE, PILOT_MOST = 0.1, 1_000
"""How many rows choose the start: this share, at most so many."""

_SEED = 20_210_602
_LEAST_START = 0.05


@dataclass(frozen=True)
class Calibration:
    """A certificate, or the reason why there is none.

    n         rows that were tested
    pilot     rows that only chose where to start
    """

    certificate: Certificate | None
    reason: str
    n: int
    pilot: int

    @property
    def abstained(self) -> bool:
        """Whether no threshold could be certified."""
        return self.certificate is None

    @property
    def tau(self) -> float | None:
        """The certified threshold, for `InferenceConfig(tau_infer=…)`; None after abstaining."""
        return None if self.certificate is None else self.certificate.tau


def calibrate_tau(
    q_abs: Any,
    loss: Any,
    alpha: float,
    delta: float,
    *,
    tolerance: float | None = None,
    rate: Rate = "accepted",
    start: float | None = None,
    lowest: float | None = None,
    dtype: str | None = None,
    split: str = "held_out",
) -> Calibration:
    """The lowest threshold on |Q| whose unsafe-accept rate is certified, or the reason for none.

    q_abs      (n,) or (n, 1): |Q| of rows that are independent draws from what is deployed on and
               took no part in training or in choosing the model. Array or tensor. 0, NaN and
               infinity are bottom whatever the threshold; give NaN where P / Q is not finite.
    loss       (n,) or (n, 1): bool or 0 and 1, true where accepting the answer would be unsafe;
               or, with `tolerance`, an error. NaN is unsafe.
    alpha      the largest allowed unsafe-accept rate, from 1e-9 up to below 1
    delta      the allowed probability of certifying a threshold whose rate is above alpha, in the
               same range
    tolerance  the largest loss that is safe
    rate       "accepted": unsafe rows as a share of the accepted ones; "all": rows that are
               accepted and unsafe as a share of all rows, which is never larger
    start      where testing begins; must be known before these rows are looked at, as a training
               threshold is. By default some of the rows choose it: see the module's docstring.
    lowest     thresholds below it are not considered. With `start` equal to it, one threshold is
               certified or not; with rate "all" it does so alone where every set above passes.
    dtype      dtype of the deployed Q where `q_abs` has another; |Q| is rounded to it
    split      what these rows are called in the certificate

    Thresholds that are tried are the |Q| that occur, so the result needs no rounding, and equality
    is accepted, as in the decode. With a `start` the order of the rows does not matter; without
    one it decides which rows are set aside.

    Raises InputError for the arrays and ConfigError for the rest.
    """
    check_levels(alpha, delta)
    check_split(split)
    if rate not in get_args(Rate):
        raise ConfigError(f"rate is {rate!r}; it must be one of {', '.join(get_args(Rate))}")
    if rate == "all" and start is not None:
        raise ConfigError("start is given, but rate 'all' needs none")
    data = read_held_out(q_abs, loss, tolerance=tolerance, dtype=dtype)
    begin, floor = _rounded("start", start, data.q), _rounded("lowest", lowest, data.q)
    if begin is not None and floor is not None and begin < floor:
        raise ConfigError(f"start is {begin!r}; it must not be below lowest, {floor!r}")

    pilot, tested = np.empty(0, np.intp), np.arange(len(data))
    if rate == "accepted" and begin is None:
        pilot, tested = _set_aside(len(data))
    n, least = len(tested), _least_rows(alpha, delta)

    def abstain(reason: str) -> Calibration:
        return Calibration(None, reason, n, len(pilot))

    if n < least:
        return abstain(
            f"{n} rows can be tested; alpha {alpha:g} at delta {delta:g} takes at least {least}, "
            "all of them safe"
        )
    sets = data.rows(tested).accepted_sets()
    if floor is not None:
        sets = sets.down_to(floor)
    if rate == "all":
        found = _walk_all(sets, n, alpha, delta)
    else:
        if begin is None:
            begin = _quantile(data.q[pilot], _start_share(n, alpha, delta, least))
            if begin is None:
                return abstain(f"|Q| is 0 or not finite in all of the {len(pilot)} pilot rows")
            begin = begin if floor is None else max(begin, floor)
        found = _walk_accepted(sets, begin, alpha, delta)
    if found.passed is None:
        return abstain(_why_not(found, begin, least, alpha, delta))
    tau, accepted, unsafe = found.passed
    if floor is not None and accepted == _largest(sets):
        tau = floor
    total = accepted if rate == "accepted" else n
    certificate = Certificate(
        tau=tau,
        alpha=float(alpha),
        delta=float(delta),
        rate=rate,
        n=n,
        pilot=len(pilot),
        accepted=accepted,
        unsafe=unsafe,
        bound=clopper_pearson_upper(unsafe, total, 1 - delta),
        start=begin,
        tolerance=None if tolerance is None else float(tolerance),
        dtype=cast(Any, data.q.dtype.name),
        data=data.digest(),
        split=split,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"interlock": __version__, "numpy": np.__version__},
    )
    return Calibration(certificate, "", n, len(pilot))


def check_certificate(certificate: Certificate, q_abs: Any, loss: Any) -> None:
    """Raise InputError unless these rows give the certificate: same digest, start, counts, bound.

    The rows must be in the order in which they were calibrated on.
    """
    found = calibrate_tau(
        q_abs,
        loss,
        certificate.alpha,
        certificate.delta,
        tolerance=certificate.tolerance,
        rate=certificate.rate,
        start=None if certificate.pilot else certificate.start,
        lowest=certificate.tau,
        dtype=certificate.dtype,
        split=certificate.split,
    )
    if found.certificate is None:
        raise InputError(f"the rows do not give the certificate: {found.reason}")
    given, again = certificate.to_plain(), found.certificate.to_plain()
    for field in ("data", "n", "pilot", "start", "tau", "accepted", "unsafe"):
        if given[field] != again[field]:
            raise InputError(
                f"the rows do not give the certificate: {field} is {given[field]!r} in it, "
                f"{again[field]!r} from the rows"
            )


@dataclass(frozen=True)
class _Walk:
    """The counts at the first set, and (tau, accepted, unsafe) of the last that passed."""

    accepted: int
    unsafe: int
    passed: tuple[float, int, int] | None


def _walk_accepted(sets: AcceptedSets, start: float, alpha: float, delta: float) -> _Walk:
    """Test every accepted set from `start` down, until one fails."""
    # sets.tau descends; those up to `first` are accepted by the start.
    first = int(np.searchsorted(-sets.tau, -np.asarray(start, sets.tau.dtype), side="right"))
    accepted = int(sets.accepted[first - 1]) if first else 0
    unsafe = int(sets.unsafe[first - 1]) if first else 0
    if binomial_cdf(unsafe, accepted, alpha) > delta:
        return _Walk(accepted, unsafe, None)
    # More accepted rows with no more unsafe ones pass where fewer did.
    before = np.concatenate([[unsafe], sets.unsafe[first:]])[:-1]
    last = len(sets.tau)
    for index in first + np.flatnonzero(sets.unsafe[first:] > before):
        if binomial_cdf(int(sets.unsafe[index]), int(sets.accepted[index]), alpha) > delta:
            last = int(index)
            break
    if last == first:
        return _Walk(accepted, unsafe, (start, accepted, unsafe))
    return _Walk(accepted, unsafe, _at(sets, last - 1))


def _walk_all(sets: AcceptedSets, n: int, alpha: float, delta: float) -> _Walk:
    """The last set whose unsafe rows are few enough among all `n`."""
    allowed = bisect_right(range(n), delta, key=lambda k: binomial_cdf(k, n, alpha)) - 1
    passing = int(np.searchsorted(sets.unsafe, allowed, side="right"))
    if passing:
        return _Walk(0, 0, _at(sets, passing - 1))
    accepted, unsafe = (int(sets.accepted[0]), int(sets.unsafe[0])) if len(sets.tau) else (0, 0)
    return _Walk(accepted, unsafe, None)


def _rounded(field: str, value: float | None, q: npt.NDArray[Any]) -> float | None:
    return None if value is None else rounded_threshold(field, value, q.dtype.name)


def _largest(sets: AcceptedSets) -> int:
    return int(sets.accepted[-1]) if len(sets.tau) else 0


def _at(sets: AcceptedSets, index: int) -> tuple[float, int, int]:
    return float(sets.tau[index]), int(sets.accepted[index]), int(sets.unsafe[index])


def _least_rows(alpha: float, delta: float) -> int:
    """The fewest rows that pass with none unsafe: (1 - alpha)^rows <= delta."""
    rows = max(1, math.ceil(math.log(delta) / math.log1p(-alpha)) - 1)
    while binomial_cdf(0, rows, alpha) > delta:
        rows += 1
    return rows


def _set_aside(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pilot rows and tested rows; NumPy promises that this bit stream does not change."""
    pilot = min(math.ceil(n * PILOT_SHARE), PILOT_MOST)
    order = np.argsort(np.random.PCG64(_SEED).random_raw(n), kind="stable") if n else np.arange(0)
    return order[:pilot], order[pilot:]


def _start_share(n: int, alpha: float, delta: float, least: int) -> float:
    """The share of rows to begin with: so many that two thirds of alpha would pass, if half are."""
    wanted = float(least)
    while wanted < n and binomial_cdf(int(wanted * alpha * 2 / 3), int(wanted), alpha) > delta:
        wanted *= 1.1
    if wanted > n / 2:
        wanted = max(1.2 * least, n / 2)
    return min(1.0, max(_LEAST_START, wanted / n))


def _quantile(q: npt.NDArray[Any], share: float) -> float | None:
    """The |Q| that `share` of the rows reach, or the lowest usable one where fewer do."""
    usable = np.sort(q[q > 0])[::-1]
    if not len(usable):
        return None
    return float(usable[min(math.ceil(share * len(q)), len(usable)) - 1])


def _why_not(walk: _Walk, start: float | None, least: int, alpha: float, delta: float) -> str:
    if start is None:
        return (
            "no row has a usable |Q|"
            if not walk.accepted
            else f"{walk.unsafe} of the {walk.accepted} rows with the highest |Q| are unsafe"
        )
    where = f"the start, |Q| >= {start:g}, accepts {walk.accepted} of the tested rows"
    if walk.accepted < least:
        return f"{where}; alpha {alpha:g} at delta {delta:g} takes at least {least}"
    bound = clopper_pearson_upper(walk.unsafe, walk.accepted, 1 - delta)
    return (
        f"{where}, {walk.unsafe} of them unsafe: the rate may be as high as {bound:.3g}, "
        f"above alpha {alpha:g}"
    )
