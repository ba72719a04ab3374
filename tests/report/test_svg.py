"""Axes place values, and plots hold every point."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.report.svg import (
    Axis,
    Curve,
    Dots,
    Guide,
    curves,
    document,
    figure,
    image,
    legend,
    nested,
    scatter,
    stacked_bar,
    text,
)


def test_linear_axis_places_its_ends_and_clips_beyond() -> None:
    axis = Axis("x", -1.0, 3.0)
    assert axis.place([-1.0, 1.0, 3.0, 99.0]).tolist() == [0.0, 0.5, 1.0, 1.0]


def test_logarithmic_axis_is_even_in_decades() -> None:
    axis = Axis("x", 1e-6, 1e2, log=True)
    assert axis.place([1e-6, 1e-2, 1e2]) == pytest.approx([0.0, 0.5, 1.0])
    assert 1e-2 in axis.ticks()


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_lie_on_the_axis(low: float, span: float) -> None:
    axis = Axis("x", low, low + span)
    ticks = axis.ticks()
    slack = 1e-6 * span
    assert 1 <= len(ticks) <= 8
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


def test_scatter_draws_each_finite_point_once() -> None:
    x = np.array([0.1, 0.2, np.nan])
    html = scatter(
        [Dots("kept", "accepted", x, x, 2.0)],
        Axis("x", 0, 1),
        Axis("y", 0, 1),
        guides=[Guide("x", 0.5, "limit")],
        circles=[0.3],
        caption="three <points>",
    )
    assert html.count("h0") == 2
    assert "kept (3)" in html
    assert 'class="outline"' in html
    assert ">limit<" in html
    assert "three &lt;points&gt;" in html


def test_a_guides_name_stands_on_the_side_that_it_asks_for() -> None:
    """Two guides close together would otherwise write over each other."""
    dots = [Dots("kept", "accepted", np.array([0.1]), np.array([0.1]))]
    guides = [Guide("x", 0.5, "low", left=True), Guide("x", 0.52, "high")]
    html = scatter(dots, Axis("x", 0, 1), Axis("y", 0, 1), guides=guides)
    at = {
        label: (float(x), anchor)
        for x, anchor, label in re.findall(
            r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">(low|high)<', html
        )
    }
    assert (at["low"][1], at["high"][1]) == ("end", "start")
    assert at["low"][0] < at["high"][0]


def test_the_key_is_text_outside_the_picture() -> None:
    """A picture is scaled to the page's width; its key must stay readable and wrap on a phone."""
    html = stacked_bar([("a", "accepted", 3), ("b <", "refused", 1)])
    key, picture = html.split("<svg", 1)
    assert "a 75.0% (3)" in key
    assert "b &lt; 25.0% (1)" in key
    assert "75.0%" not in picture


def test_stacked_bar_parts_add_up_to_its_width() -> None:
    html = stacked_bar([("a", "accepted", 3), ("b", "refused", 1)], width=400)
    assert 'width="300.00"' in html
    assert 'width="100.00"' in html
    assert "a 75.0% (3)" in html


def test_an_empty_bar_is_drawn() -> None:
    assert "a" in stacked_bar([("a", "accepted", 0)])


def test_a_figure_becomes_a_file_of_its_own() -> None:
    figure = scatter(
        [Dots("a < b", "refused", np.array([1.0]), np.array([1.0]))],
        Axis("x & y", 0, 2),
        Axis("y", 0, 2),
        caption="said elsewhere",
        key=False,
    )
    root = ElementTree.fromstring(document(figure, [("a < b", "refused"), ("c", "accepted")]))
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "c", "x & y"} <= set(names)
    assert root.get("viewBox") == "0 -26 620 486"
    assert ElementTree.fromstring(document(figure)).get("viewBox") == "0 0 620 460"


def test_curves_go_through_their_points_and_bands_around_their_interval() -> None:
    x = np.array([0.0, 0.5, 1.0, np.nan])
    html = curves(
        [
            Curve("risk", "routed", x, x),
            Curve("interval", "failed", x, np.minimum(x + 0.1, 1), np.maximum(x - 0.1, 0)),
        ],
        Axis("x", 0, 1),
        Axis("y", 0, 1),
        points=[Dots("chosen", "accepted", x[1:2], x[1:2])],
        guides=[Guide("y", 0.5, "limit", left=True)],
    )
    line = re.search(r'class="line routed" d="([^"]*)"', html)
    band = re.search(r'class="band failed" d="([^"]*)"', html)
    assert line is not None
    assert band is not None
    assert line.group(1).count("L") == 2
    assert band.group(1).count("L") == 5
    assert "nan" not in html
    for name in ("risk", "interval", "chosen", "limit"):
        assert name in html


def test_a_curve_of_no_points_is_drawn_as_none() -> None:
    nothing = np.array([np.nan])
    html = curves([Curve("none", "plain", nothing, nothing)], Axis("x", 0, 1), Axis("y", 0, 1))
    assert 'class="line plain" d=""' in html


def test_a_picture_in_a_picture_is_one_document() -> None:
    x = np.array([0.5])
    plot = scatter([Dots("one", "accepted", x, x)], Axis("x", 0, 1), Axis("y", 0, 1))
    parts = [text(5, 10, "a < b"), nested(plot, 0, 20, 60, 40), legend([("one", "accepted")], 0, 9)]
    root = ElementTree.fromstring(document(figure(parts, 100, 80, caption="both")))
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 1
    assert "a < b" in [element.text for element in root.iter() if element.text]


def test_an_image_is_runs_of_equal_pixels() -> None:
    pixels = np.array([[0.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    text = str(image(pixels, scale=2, caption="two <rows>"))
    assert text.count("<rect") == 3
    assert '<rect x="0" y="0" width="4" height="2" style="fill:rgb(0,0,0)"/>' in text
    assert '<rect x="4" y="0" width="2" height="2" style="fill:rgb(255,255,255)"/>' in text
    assert '<rect x="0" y="2" width="6" height="2" style="fill:rgb(128,128,128)"/>' in text
    assert "two &lt;rows&gt;" in text


def test_an_image_of_one_value_is_black() -> None:
    assert "rgb(0,0,0)" in str(image(np.full((1, 2), 7.0)))
