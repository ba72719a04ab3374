"""Estimates with their intervals as pictures: one a row, or over a numeric axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from interlock.report.blocks import Tone
from interlock.report.svg import Axis, figure

_ROW = 26
_TOP, _BOTTOM = 8, 44


@dataclass(frozen=True)
class Interval:
    """One estimate; without a value only its name and `words` are drawn.

    words   what stands right of it, such as the figures
    strong  whether the row stands out, such as an overall rate
    """

    name: str
    tone: Tone
    value: float | None
    low: float
    high: float
    words: str = ""
    strong: bool = False


def forest(
    rows: Sequence[Interval | str],
    axis: Axis,
    *,
    guides: Iterable[tuple[float, str]] = (),
    key: Sequence[tuple[str, Tone]] = (),
    width: int = 900,
    caption: str = "",
) -> Markup:
    """Intervals below one another on a common axis; a text among the rows is a heading.

    guides  values with a dashed line and a label at its foot
    """
    names = [row if isinstance(row, str) else row.name for row in rows]
    words = [row.words for row in rows if isinstance(row, Interval)]
    left = min(300, 24 + 7 * max(map(len, names), default=0))
    right = width - 16 - min(260, 7 * max(map(len, words), default=0))
    height = _TOP + _ROW * len(rows) + _BOTTOM
    bottom = height - _BOTTOM

    def across(value: float) -> float:
        return left + float(axis.place(value)) * (right - left)

    parts = [
        Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(across(tick), _TOP, bottom)
        + Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            across(tick), bottom + 16, _percent(tick)
        )
        for tick in axis.ticks()
    ]
    parts.append(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            (left + right) / 2, height - 8, axis.label
        )
    )
    for value, label in guides:
        parts.append(
            Markup(
                '<path class="guide" d="M{0:.1f} {1}V{2}"/><text x="{3:.1f}" y="{4}">{5}</text>'
            ).format(across(value), _TOP, bottom, across(value) + 4, bottom - 3, label)
        )
    for place, row in enumerate(rows):
        middle = _TOP + _ROW * place + _ROW / 2
        if isinstance(row, str):
            parts.append(
                Markup('<text x="0" y="{:.1f}" style="font-weight:600">{}</text>').format(
                    middle + 5, row
                )
            )
            continue
        parts.append(_row(row, across, middle, right))
    keyed: list[tuple[str, Tone, int | None]] = [(name, tone, None) for name, tone in key]
    return figure(parts, width, height, keyed, caption)


def bars_of_error(
    groups: Sequence[tuple[str, Tone, Sequence[tuple[float, float, float, float]]]],
    x: Axis,
    y: Axis,
    *,
    diagonal: str = "",
    joined: bool = False,
    width: int = 460,
    height: int = 420,
    caption: str = "",
) -> Markup:
    """Points (x, y, low, high) with vertical intervals over a numeric axis.

    diagonal  name of a dashed line from corner to corner, none where it is empty
    joined    whether each group's points are joined by a line
    """
    left, right, top, bottom = 58.0, width - 16.0, 10.0, height - 44.0

    def across(value: float) -> float:
        return left + float(x.place(value)) * (right - left)

    def up(value: float) -> float:
        return bottom - float(y.place(value)) * (bottom - top)

    parts = [
        Markup('<path class="axis" d="M{:.1f} {:.1f}V{:.1f}H{:.1f}"/>').format(
            left, top, bottom, right
        )
    ]
    for tick in x.ticks():
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{:.6g}</text>').format(
                across(tick), bottom + 17, tick
            )
        )
    for tick in y.ticks():
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
                left - 7, up(tick) + 4, _percent(tick)
            )
        )
    parts.append(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            (left + right) / 2, height - 8, x.label
        )
    )
    parts.append(
        Markup(
            '<text transform="translate(13 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format((top + bottom) / 2, y.label)
    )
    if diagonal:
        parts.append(
            Markup(
                '<path class="guide" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'
                '<text x="{:.1f}" y="{:.1f}">{}</text>'
            ).format(left, bottom, right, top, left + 6, top + 12, diagonal)
        )
    for _, tone, points in groups:
        kept = [point for point in points if all(map(math.isfinite, point))]
        if joined and len(kept) > 1:
            path = "L".join(f"{across(px):.1f} {up(py):.1f}" for px, py, _, _ in kept)
            parts.append(Markup('<path class="line {}" d="M{}"/>').format(tone, path))
        for px, py, low, high in kept:
            parts.append(
                Markup(
                    '<path class="whisker {0}" d="M{1:.1f} {2:.1f}V{3:.1f}"/>'
                    '<circle class="point {0}" cx="{1:.1f}" cy="{4:.1f}" r="4.5"/>'
                ).format(tone, across(px), up(low), up(high), up(py))
            )
    keyed: list[tuple[str, Tone, int | None]] = [(name, tone, None) for name, tone, _ in groups]
    return figure(parts, width, height, keyed, caption)


def _row(row: Interval, across: Callable[[float], float], middle: float, right: float) -> Markup:
    weight = "600" if row.strong else "400"
    name = Markup('<text class="row" x="14" y="{:.1f}" style="font-weight:{}">{}</text>').format(
        middle + 5, weight, row.name
    )
    words = Markup('<text class="value" x="{:.1f}" y="{:.1f}">{}</text>').format(
        right + 12, middle + 5, row.words
    )
    if row.value is None:
        return name + words
    return (
        name
        + words
        + Markup(
            '<path class="whisker {0}" d="M{1:.1f} {2:.1f}H{3:.1f}"/>'
            '<circle class="point {0}" cx="{4:.1f}" cy="{2:.1f}" r="{5}"/>'
        ).format(
            row.tone,
            across(row.low),
            middle,
            across(row.high),
            across(row.value),
            6 if row.strong else 4.5,
        )
    )


def _percent(value: float) -> str:
    return f"{100 * value:.4g}%".replace("-", "−")
