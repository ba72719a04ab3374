"""One self-contained HTML page: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from interlock.kernel.replace_file import replace_file


@dataclass(frozen=True)
class Section:
    """A heading, a line that says what to see in it, and blocks below."""

    title: str
    lead: str
    blocks: Sequence[Markup]


@dataclass(frozen=True)
class Page:
    """A report: title, a sentence below it, opening blocks, sections, and a last line.

    `generator`, where given, names what wrote it, for programs.
    """

    title: str
    lead: str
    opening: Sequence[Markup]
    sections: Sequence[Section]
    footer: str
    generator: str = ""


def render(page: Page) -> str:
    """The page as HTML text."""
    return _template().render(page=page)


def write(page: Page, path: Path) -> Path:
    """Write the page to `path`, whole or not at all; raises StorageError where that fails."""
    return write_whole(path, render(page))


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file, whole or not at all, and its directory first where there is none.

    Raises StorageError where that fails.
    """
    replace_file(path, content.encode() if isinstance(content, str) else content, parents=True)
    return path


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("interlock.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
