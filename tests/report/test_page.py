"""A page is one file that needs nothing else, and shows text as text."""

import re
from pathlib import Path

import pytest

from interlock.errors import StorageError
from interlock.report import blocks
from interlock.report.page import Page, Section, render, write

PAGE = Page(
    title="A <title>",
    lead="lead & more",
    opening=[blocks.tiles([blocks.Tile("answered", "97%", "of 100", "accepted")])],
    sections=[Section("Section", "what to see", [blocks.paragraph("<script>alert(1)</script>")])],
    footer="made by a test",
)


def test_text_is_escaped() -> None:
    html = render(PAGE)
    assert "A &lt;title&gt;" in html
    assert "lead &amp; more" in html
    assert "<script" not in html


def test_nothing_is_fetched() -> None:
    """No script, no address, and a policy that forbids both should one slip in."""
    html = render(PAGE)
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=|url\(|@import|https?://", html)


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    path = write(PAGE, tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == render(PAGE)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match=r"file/report\.html"):
        write(PAGE, blocked / "report.html")
