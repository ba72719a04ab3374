"""How a threshold on |Q| trades rejection against unsafe accepts, over a list of thresholds.

A sweep shows the trade-off. Picking a threshold from it gives no guarantee, since the same rows
chose it: `interlock.strict.calibrate_tau` does.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interlock.kernel.errors import ConfigError, InputError
from interlock.report.blocks import Tone
from interlock.report.page import write_whole
from interlock.report.svg import Axis, Dots, document, scatter
from interlock.strict.config import rounded_threshold
from interlock.strict.held_out import read_held_out
from interlock.strict.tensors import to_numpy

CURVES: dict[str, tuple[str, Tone]] = {
    "coverage": ("accepted", "accepted"),
    "bottom_rate": ("bottom", "plain"),
    "fn_in": ("bottom, of those in range", "flagged"),
    "fp_cens": ("accepted, of those out of range", "routed"),
    "unsafe_accept_rate": ("out of range, of those accepted", "refused"),
}
"""The curves of a sweep: what each is the share of, and its tone in the plot."""


def tau_infer_sweep_from_q_abs(
    q_abs: Any, *, is_in_range: Any, taus: Iterable[float]
) -> dict[str, list[float]]:
    """What each threshold of `taus` would accept and refuse, from |Q| alone.

    q_abs        (n,) or (n, 1): |Q| of held-out rows, array or tensor
    is_in_range  the same shape, bool: true where accepting the row is right
    taus         thresholds, in any order; compared after rounding to the dtype of `q_abs`

    The result has lists of one value a threshold, all shares; NaN is a share of nothing:

    taus                the thresholds as they were given
    coverage            rows that are accepted, |Q| >= tau
    bottom_rate         rows that are refused; NaN and infinite |Q| are
    fn_in               rows in range that are refused, of those in range
    fp_cens             rows out of range that are accepted, of those out of range
    unsafe_accept_rate  rows out of range that are accepted, of the accepted ones

    Raises InputError for the arrays and ConfigError for a threshold that the dtype cannot hold.
    """
    data = read_held_out(q_abs, _outside(is_in_range))
    values = [float(tau) for tau in taus]
    rounded = [rounded_threshold("taus", tau, data.q.dtype.name) for tau in values]
    sets = data.accepted_sets()
    # sets.tau descends. Position 0 of the counts is the empty set.
    at = np.searchsorted(-sets.tau, -np.array(rounded, data.q.dtype), side="right")
    accepted = np.append(0, sets.accepted)[at]
    unsafe = np.append(0, sets.unsafe)[at]
    n, outside = len(data), int(data.unsafe.sum())
    return {
        "taus": values,
        "coverage": _shares(accepted, n),
        "bottom_rate": _shares(n - accepted, n),
        "fn_in": _shares(n - outside - (accepted - unsafe), n - outside),
        "fp_cens": _shares(unsafe, outside),
        "unsafe_accept_rate": _shares(unsafe, accepted),
    }


def write_tau_infer_sweep(
    directory: str | os.PathLike[str],
    curves: Mapping[str, Sequence[float]],
    *,
    provenance: Mapping[str, Any] | None = None,
    basename: str = "tau_infer_sweep",
) -> dict[str, Any]:
    """Write `<basename>.json`, `.md` and `.svg` into `directory`, and return what the JSON holds.

    curves      as `tau_infer_sweep_from_q_abs` gives them
    provenance  where the rows come from: plain JSON

    Raises InputError for curves that are no sweep or a provenance that is no JSON, ConfigError for
    a basename with a path in it, and StorageError where writing fails.
    """
    if not basename or Path(basename).name != basename:
        raise ConfigError(f"basename is {basename!r}; it must be a file's name")
    _check_curves(curves)
    payload: dict[str, Any] = {
        "curves": {
            name: [float(value) if math.isfinite(value) else None for value in values]
            for name, values in curves.items()
        }
    }
    if provenance is not None:
        payload["provenance"] = dict(provenance)
    try:
        text = json.dumps(payload, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance cannot be written as JSON: {error}") from None
    parts = {
        ".json": text + "\n",
        ".md": tau_infer_sweep_report(curves),
        ".svg": _plot(curves),
    }
    for suffix, content in parts.items():
        write_whole(Path(directory) / f"{basename}{suffix}", content)
    return payload


def tau_infer_sweep_report(
    curves: Mapping[str, Sequence[float]], *, title: str = "tau_infer sweep"
) -> str:
    """A sweep as Markdown: a table of one line a threshold."""
    names = [name for name in CURVES if name in curves]
    lines = [
        f"# {title}",
        "",
        "A row is bottom where |Q| < tau_infer. Each column is a share.",
        "",
        "| tau_infer | " + " | ".join(names) + " |",
        "| ---: |" + " ---: |" * len(names),
    ]
    for index, tau in enumerate(curves["taus"]):
        cells = [_percent(curves[name][index]) for name in names]
        lines.append(f"| {tau:g} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"- `{name}`: {CURVES[name][0]}" for name in names]
    return "\n".join(lines) + "\n"


def _outside(is_in_range: Any) -> Any:
    inside = to_numpy("is_in_range", is_in_range)
    if inside.dtype != np.bool_:
        raise InputError(f"is_in_range has dtype {inside.dtype}; it must be bool")
    return ~inside


def _shares(counts: Any, totals: Any) -> list[float]:
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: list[float] = np.true_divide(counts, totals).tolist()
    return shares


def _check_curves(curves: Mapping[str, Sequence[float]]) -> None:
    if not curves.get("taus"):
        raise InputError("curves has no thresholds: 'taus' is missing or empty")
    for name, values in curves.items():
        if len(values) != len(curves["taus"]):
            raise InputError(
                f"curves: {name!r} has {len(values)} values for {len(curves['taus'])} thresholds"
            )


def _plot(curves: Mapping[str, Sequence[float]]) -> str:
    taus = np.array(curves["taus"], dtype=np.float64)
    groups = [
        Dots(label, tone, taus, np.array(curves[name], dtype=np.float64), size=6.0)
        for name, (label, tone) in CURVES.items()
        if name in curves and name != "bottom_rate"
    ]
    x = Axis("tau_infer", float(taus.min()) / 1.5, float(taus.max()) * 1.5, log=True)
    figure = scatter(groups, x, Axis("share", 0.0, 1.0), width=900, key=False)
    return document(figure, [(group.name, group.tone) for group in groups])


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.4%}"
