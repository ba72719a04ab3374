"""Tables that a person reads in any terminal, and that a pipe takes line by line."""

import pytest

from interlock.cli.output import print_table


def test_columns_are_aligned_and_no_cell_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line a row, however narrow the terminal: a broken word cannot be searched for."""
    monkeypatch.setenv("COLUMNS", "20")
    print_table(("run", "outcomes"), [("a-rather-long-id", "90 accepted, 10 refused"), ("b", 1)])
    assert capsys.readouterr().out.splitlines() == [
        "run               outcomes",
        "a-rather-long-id  90 accepted, 10 refused",
        "b                 1",
    ]


def test_wide_characters_count_as_the_two_columns_that_they_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("name", "n"), [("日本", 1), ("abcd", 2)])
    assert capsys.readouterr().out.splitlines() == ["name  n", "日本  1", "abcd  2"]


def test_a_cell_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Names come from bundles that others wrote: no line breaks, no codes for the terminal."""
    print_table(("name", "n"), [("a\nb\x1b[31m", 1)])
    assert capsys.readouterr().out.splitlines() == ["name          n", "a\\nb\\x1b[31m  1"]
