"""Pictures as inline SVG: scatter plots with linear or logarithmic axes, and stacked bars.

Colours come from the page's style sheet through the tones of `interlock.report.blocks`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from interlock.report.blocks import Tone

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 10.0, 44.0
_KEY_HEIGHT = 26


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; values outside are drawn at the edge."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Positions along the axis, 0 at `low` and 1 at `high`."""
        clipped = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.log:
            span = math.log(self.high / self.low)
            return np.asarray(np.log(clipped / self.low) / span, dtype=np.float64)
        return np.asarray((clipped - self.low) / (self.high - self.low), dtype=np.float64)

    def ticks(self) -> list[float]:
        """Powers of ten on a logarithmic axis, else about five round values."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, (last - first + 5) // 6)
            return [10.0**power for power in range(first, last + 1, every)]
        raw = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Dots:
    """One named group of points; NaN points are left out."""

    name: str
    tone: Tone
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    size: float = 3.0


@dataclass(frozen=True)
class Curve:
    """One named line through its points in their order; NaN points are left out.

    With `below`, the area between y and that is shaded instead: the band of an interval.
    """

    name: str
    tone: Tone
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    below: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Guide:
    """A dashed line across the plot at a value of one axis (`x` or `y`), with its name.

    The name of an `x` guide stands to its right, or to its left with `left`; that of a `y` guide at
    the right end, or at the left one.
    """

    axis: str
    value: float
    label: str
    left: bool = False


def scatter(
    groups: Sequence[Dots],
    x: Axis,
    y: Axis,
    *,
    guides: Iterable[Guide] = (),
    circles: Iterable[float] = (),
    width: int = 620,
    height: int = 460,
    caption: str = "",
    key: bool = True,
) -> Markup:
    """Points in groups, with a key above unless `key` is false.

    `circles` are radii about the origin, in units of x.
    """
    inner_w, inner_h = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def across(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return _LEFT + x.place(values) * inner_w

    def up(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return _TOP + (1 - y.place(values)) * inner_h

    parts = [_frame(x, y, across, up, width, height)]
    for radius in circles:
        size = float(across(radius) - across(0.0))
        parts.append(
            Markup('<circle class="outline" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
                float(across(0.0)), float(up(0.0)), size
            )
        )
    parts += [_dots(group, across, up) for group in groups]
    parts += [_guide(guide, across, up, width, height) for guide in guides]
    names = [(group.name, group.tone, len(group.x)) for group in groups] if key else []
    return figure(parts, width, height, names, caption)


def curves(
    lines: Sequence[Curve],
    x: Axis,
    y: Axis,
    *,
    points: Sequence[Dots] = (),
    guides: Iterable[Guide] = (),
    width: int = 900,
    height: int = 380,
    caption: str = "",
) -> Markup:
    """Lines, and points on top of them, with a key above."""
    inner_w, inner_h = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def across(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return _LEFT + x.place(values) * inner_w

    def up(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return _TOP + (1 - y.place(values)) * inner_h

    parts = [_frame(x, y, across, up, width, height)]
    parts += [_band(line, across, up) for line in lines if line.below is not None]
    parts += [_line(line, across, up) for line in lines if line.below is None]
    parts += [_dots(group, across, up) for group in points]
    parts += [_guide(guide, across, up, width, height) for guide in guides]
    names: list[tuple[str, Tone, int | None]] = [(line.name, line.tone, None) for line in lines]
    names += [(group.name, group.tone, None) for group in points]
    return figure(parts, width, height, names, caption)


def figure(
    parts: Iterable[Markup],
    width: int,
    height: int,
    key: Sequence[tuple[str, Tone, int | None]] = (),
    caption: str = "",
) -> Markup:
    """SVG elements as one picture, with a key of names, tones and counts above."""
    picture = Markup(
        '<div class="scroll"><svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        "</svg></div>"
    ).format(width, height, caption, Markup("").join(parts))
    return _figure(_key(key) if key else Markup(""), picture, caption)


def stacked_bar(
    shares: Sequence[tuple[str, Tone, int]], *, width: int = 960, caption: str = ""
) -> Markup:
    """One bar whose parts add up to the whole, each named with its count and share."""
    total = sum(count for _, _, count in shares)
    parts: list[Markup] = []
    left = 0.0
    for name, tone, count in shares:
        size = width * count / total if total else 0.0
        parts.append(
            Markup(
                '<rect class="bar {}" x="{:.2f}" y="0" width="{:.2f}" height="26">'
                "<title>{}: {:,}</title></rect>"
            ).format(tone, left, size, name, count)
        )
        left += size
    named = [
        (f"{name} {count / total:.1%}" if total else name, tone, count)
        for name, tone, count in shares
    ]
    picture = Markup(
        '<svg class="shares" viewBox="0 0 {} 26" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(width, caption, Markup("").join(parts))
    return _figure(_key(named), picture, caption)


def image(pixels: npt.NDArray[Any], *, scale: int = 4, caption: str = "") -> Markup:
    """Grey values (height, width) as a picture, the smallest black and the largest white."""
    low, high = float(pixels.min()), float(pixels.max())
    grey = np.rint(255 * (pixels - low) / (high - low or 1.0)).astype(int)
    parts = []
    for y, row in enumerate(grey.tolist()):
        x = 0
        for value, run in itertools.groupby(row):
            length = len(list(run))
            parts.append(
                Markup(
                    '<rect x="{}" y="{}" width="{}" height="{}" style="fill:rgb({},{},{})"/>'
                ).format(x * scale, y * scale, length * scale, scale, value, value, value)
            )
            x += length
    height, width = grey.shape
    picture = Markup(
        '<svg style="width:{0}px" viewBox="0 0 {0} {1}" role="img" aria-label="{2}" '
        'shape-rendering="crispEdges">{3}</svg>'
    ).format(width * scale, height * scale, caption, Markup("").join(parts))
    return _figure(Markup(""), picture, caption)


def side_by_side(figures: Iterable[Markup]) -> Markup:
    """Figures next to each other where the page is wide enough."""
    return Markup('<div class="pair">{}</div>').format(Markup("").join(figures))


def document(figure: Markup, key: Sequence[tuple[str, Tone]] = ()) -> str:
    """A figure's picture as an SVG file of its own, in the page's colours.

    Key and caption of a figure are text of the page; `key` is drawn into the file, above.
    """
    html = str(figure)  # a Markup would escape what is put into it below
    picture = html[html.index("<svg ") : html.rindex("</svg>")]
    opening, drawing = picture.split(">", 1)
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', opening)
    assert found is not None
    width, height = (int(size) for size in found.groups())
    top = _KEY_HEIGHT if key else 0
    box = f'viewBox="0 {-top} {width} {height + top}" xmlns="http://www.w3.org/2000/svg"'
    sheet = files("interlock.report").joinpath("templates", "page.css").read_text("utf-8")
    return (
        f"{opening.replace(found.group(), box)}><style>{sheet}</style>"
        f'<rect y="{-top}" width="100%" height="100%" style="fill: var(--card)"/>'
        f"{legend(key, _LEFT, -6)}{drawing}</svg>\n"
    )


def legend(key: Iterable[tuple[str, Tone]], x: float, y: float) -> Markup:
    """Names beside their colours in one line of a picture, its text on the baseline y."""
    names = []
    for name, tone in key:
        names.append(
            Markup(
                '<circle class="bar {}" cx="{:.1f}" cy="{:.1f}" r="5"/>'
                '<text x="{:.1f}" y="{:.1f}">{}</text>'
            ).format(tone, x + 5, y - 4, x + 15, y, name)
        )
        x += 34 + 6.5 * len(name)
    return Markup("").join(names)


def nested(figure: Markup, x: int, y: int, width: int, height: int) -> Markup:
    """The picture of a figure, without key and caption, placed in another picture."""
    html = str(figure)
    start, end = html.index("<svg ") + len("<svg "), html.index("</svg>") + len("</svg>")
    place = f'<svg x="{x}" y="{y}" width="{width}" height="{height}" '
    return Markup(place + html[start:end])


def text(x: int, y: int, words: str, size: int = 14, weight: int = 400) -> Markup:
    """One line of text in a picture, which starts at x on the baseline y."""
    return Markup('<text x="{}" y="{}" style="font-size:{}px;font-weight:{}">{}</text>').format(
        x, y, size, weight, words
    )


def _frame(x: Axis, y: Axis, across: Any, up: Any, width: int, height: int) -> Markup:
    bottom, right = height - _BOTTOM, width - _RIGHT
    parts = [
        Markup('<path class="axis" d="M{:.1f} {:.1f}V{:.1f}H{:.1f}"/>').format(
            _LEFT, _TOP, bottom, right
        )
    ]
    for tick in x.ticks():
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
                float(across(tick)), bottom + 17, _number(tick)
            )
        )
    for tick in y.ticks():
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
                _LEFT - 7, float(up(tick)) + 4, _number(tick)
            )
        )
    parts.append(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            (_LEFT + right) / 2, height - 8, x.label
        )
    )
    parts.append(
        Markup(
            '<text transform="translate(13 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format((_TOP + bottom) / 2, y.label)
    )
    return Markup("").join(parts)


def _dots(group: Dots, across: Any, up: Any) -> Markup:
    kept = ~(np.isnan(group.x) | np.isnan(group.y))
    points = zip(across(group.x[kept]).tolist(), up(group.y[kept]).tolist(), strict=True)
    # A line of no length with a round cap is a dot, at a tenth of a circle element's bytes.
    path = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in points)
    return Markup('<path class="dots {}" stroke-width="{:g}" d="{}"/>').format(
        group.tone, group.size, path
    )


def _line(curve: Curve, across: Any, up: Any) -> Markup:
    kept = ~(np.isnan(curve.x) | np.isnan(curve.y))
    return Markup('<path class="line {}" d="{}"/>').format(
        curve.tone, _through(across(curve.x[kept]), up(curve.y[kept]))
    )


def _band(curve: Curve, across: Any, up: Any) -> Markup:
    assert curve.below is not None
    kept = ~(np.isnan(curve.x) | np.isnan(curve.y) | np.isnan(curve.below))
    x = across(curve.x[kept])
    outline = _through(
        np.concatenate([x, x[::-1]]),
        np.concatenate([up(curve.y[kept]), up(curve.below[kept])[::-1]]),
    )
    return Markup('<path class="band {}" d="{}"/>').format(curve.tone, outline)


def _through(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    path = "L".join(f"{px:.1f} {py:.1f}" for px, py in pairs)
    return f"M{path}" if path else ""


def _guide(guide: Guide, across: Any, up: Any, width: int, height: int) -> Markup:
    if guide.axis == "x":
        at = float(across(guide.value))
        beside, anchor = (at - 5, "end") if guide.left else (at + 5, "start")
        return Markup(
            '<path class="guide" d="M{:.1f} {:.1f}V{:.1f}"/>'
            '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
        ).format(at, _TOP, height - _BOTTOM, beside, _TOP + 12, anchor, guide.label)
    at = float(up(guide.value))
    beside, anchor = (_LEFT + 5, "start") if guide.left else (width - _RIGHT, "end")
    return Markup(
        '<path class="guide" d="M{:.1f} {:.1f}H{:.1f}"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    ).format(_LEFT, at, width - _RIGHT, beside, at - 5, anchor, guide.label)


def _key(entries: Iterable[tuple[str, Tone, int | None]]) -> Markup:
    """Names beside their colours, as text, since what is in a picture is scaled with it."""
    names = Markup("").join(
        Markup('<span class="{}">{}</span>').format(
            tone, name if count is None else f"{name} ({count:,})"
        )
        for name, tone, count in entries
    )
    return Markup('<p class="key">{}</p>').format(names)


def _figure(key: Markup, picture: Markup, caption: str) -> Markup:
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    return Markup("<figure>{}{}{}</figure>").format(key, picture, below)


def _number(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"
