"""Axes place values, and plots hold every point."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.report.svg import Axis, Dots, Guide, scatter, stacked_bar


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


def test_the_name_of_a_guide_stands_on_the_side_that_was_asked_for() -> None:
    guides = [Guide("x", 0.5, "one", left=True), Guide("x", 0.5, "other")]
    html = scatter([], Axis("x", 0, 1), Axis("y", 0, 1), guides=guides)
    place = r'<text x="([0-9.]+)" y="[0-9.]+" text-anchor="{}">{}<'
    left = re.search(place.format("end", "one"), html)
    right = re.search(place.format("start", "other"), html)
    assert left is not None
    assert right is not None
    assert float(left[1]) < float(right[1])


def test_stacked_bar_parts_add_up_to_its_width() -> None:
    html = stacked_bar([("a", "accepted", 3), ("b", "refused", 1)], width=400)
    assert 'width="300.00"' in html
    assert 'width="100.00"' in html
    assert "a 75.0% (3)" in html


def test_an_empty_bar_is_drawn() -> None:
    assert "a" in stacked_bar([("a", "accepted", 0)])
