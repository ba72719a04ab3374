"""Intervals are drawn where they lie, with their names and words."""

import re

import pytest

from interlock.report.svg import Axis
from interlock.report.whiskers import Interval, bars_of_error, forest


def test_a_forest_draws_each_row_on_the_common_axis() -> None:
    html = str(
        forest(
            [
                "a heading",
                Interval("half <of it>", "accepted", 0.5, 0.25, 0.75, "50%"),
                Interval("nothing", "refused", None, 0.0, 1.0, "no verdict"),
            ],
            Axis("share", 0.0, 1.0),
            guides=[(0.5, "chance")],
            caption="two rows",
        )
    )
    assert html.count('class="whisker') == 1
    found = re.search(r'class="whisker accepted" d="M([\d.]+) [\d.]+H([\d.]+)"', html)
    dot = re.search(r'class="point accepted" cx="([\d.]+)"', html)
    assert found is not None
    assert dot is not None
    low, high = map(float, found.groups())
    assert float(dot.group(1)) == pytest.approx((low + high) / 2, abs=0.1)
    for words in ("a heading", "half &lt;of it&gt;", "no verdict", "chance", "two rows"):
        assert words in html


def test_points_over_an_axis_are_joined_where_asked() -> None:
    points = [(0.0, 0.2, 0.1, 0.3), (1.0, 0.4, 0.3, 0.5), (0.5, float("nan"), 0.0, 1.0)]
    axes = (Axis("temperature", 0.0, 1.0), Axis("share", 0.0, 1.0))
    html = str(bars_of_error([("m", "routed", points)], *axes, joined=True, diagonal="equal"))
    assert html.count("<circle") == 2
    assert 'class="line routed"' in html
    assert "equal" in html
    assert 'class="line' not in str(bars_of_error([("m", "routed", points)], *axes))
