"""Rule features of windows."""

import pytest

from interlock.detect.features import FEATURE_NAMES, rule_features
from interlock.detect.rules import Hit, Severity


def value(table: object, row: int, name: str) -> float:
    return float(table[row, FEATURE_NAMES.index(name)])  # type: ignore[index]


HIT = Hit("leak.x", "prompt_leak", Severity.MEDIUM, 10, 20, ())


def test_a_hit_counts_for_the_windows_that_it_overlaps() -> None:
    table = rule_features([(0, 10), (10, 30), (19, 40), (20, 40)], [HIT])
    got = [value(table, row, "rule:prompt_leak") for row in range(4)]
    assert got == pytest.approx([0, 2 / 3, 2 / 3, 0])
    assert value(table, 1, "severity:medium") == 1
    assert value(table, 1, "severity:high") == 0


def test_the_gravest_hit_and_the_number_of_rules_count() -> None:
    high = Hit("leak.y", "prompt_leak", Severity.HIGH, 12, 14, ())
    table = rule_features([(0, 40)], [HIT, HIT, high])
    assert value(table, 0, "rule:prompt_leak") == 1
    assert value(table, 0, "rules") == pytest.approx(0.75)


def test_disguises_come_from_the_reading_and_from_the_hits() -> None:
    hit = Hit("a.b", "encoding", Severity.LOW, 0, 5, ("base64", "rot13"))
    table = rule_features([(0, 5), (5, 9)], [hit], [(), ("leetspeak",)])
    assert value(table, 0, "disguise:base64") == 1
    assert value(table, 0, "disguise:nested") == 1
    assert value(table, 1, "disguise:leetspeak") == 1
    assert value(table, 1, "disguise:nested") == 0


def test_names_decide_the_columns_and_unknown_ones_stay_zero() -> None:
    table = rule_features([(0, 40)], [HIT], names=["rule:nothing", "severity:medium"])
    assert table.tolist() == [[0, 1]]
