"""What a page is made of beside pictures: tables, tiles, definition lists, verdicts.

Every function escapes the text it is given; only `Markup` passes unescaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

Tone = Literal["accepted", "flagged", "routed", "refused", "failed", "plain"]


@dataclass(frozen=True)
class Tile:
    """One figure to notice: a short label, the value, and a line below it."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "plain"


def paragraph(text: str) -> Markup:
    """One paragraph."""
    return Markup("<p>{}</p>").format(text)


def tiles(items: Iterable[Tile]) -> Markup:
    """Figures side by side."""
    cells = Markup("").join(
        Markup(
            '<div class="tile {}"><span>{}</span><strong>{}</strong><small>{}</small></div>'
        ).format(tile.tone, tile.label, tile.value, tile.note)
        for tile in items
    )
    return Markup('<div class="tiles">{}</div>').format(cells)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Markup:
    """A table; digits of cells that read as numbers are equally wide."""
    head = Markup("").join(Markup("<th>{}</th>").format(header) for header in headers)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell) for cell in row)) for row in rows
    )
    title = Markup("<caption>{}</caption>").format(caption) if caption else Markup("")
    return Markup(
        '<div class="scroll"><table>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(title, head, body)


def facts(items: Iterable[tuple[str, object]]) -> Markup:
    """Names and values, such as digests; values are set in a fixed-width face."""
    rows = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in items
    )
    return Markup("<dl>{}</dl>").format(rows)


def verdict(tone: Tone, title: str, text: str) -> Markup:
    """A boxed statement of what was found."""
    return Markup('<div class="verdict {}"><strong>{}</strong><p>{}</p></div>').format(
        tone, title, text
    )


def listing(items: Iterable[str]) -> Markup:
    """Sentences, one a point."""
    return Markup("<ul>{}</ul>").format(
        Markup("").join(Markup("<li>{}</li>").format(item) for item in items)
    )


def details(title: str, blocks: Iterable[Markup]) -> Markup:
    """Blocks that the reader opens."""
    return Markup("<details><summary>{}</summary>{}</details>").format(
        title, Markup("").join(blocks)
    )


def preformatted(text: str) -> Markup:
    """Text in a fixed-width face with its line ends."""
    return Markup("<pre>{}</pre>").format(text)


def quotation(tone: Tone, title: str, asked: str, said: str, note: str = "") -> Markup:
    """What was asked and what was answered, with a heading above and a note below."""
    return Markup(
        '<article class="quotation {}"><h3>{}</h3><p class="asked">{}</p>'
        "<blockquote>{}</blockquote>{}</article>"
    ).format(
        tone, title, asked, said, Markup("<small>{}</small>").format(note) if note else Markup("")
    )


@dataclass(frozen=True)
class Branch:
    """One entry of a tree: a title, a short note beside it, a text, and what is below it."""

    title: str
    text: str = ""
    note: str = ""
    tone: Tone = "plain"
    children: tuple[Branch, ...] = ()


def tree(branches: Iterable[Branch]) -> Markup:
    """Entries that open and close without a script; those at the top are open."""
    pieces: list[Markup] = []
    # No recursion: a tree of files may be deeper than the interpreter calls.
    ahead: list[tuple[Branch | None, int]] = [(each, 0) for each in reversed(list(branches))]
    while ahead:
        branch, depth = ahead.pop()
        if branch is None:
            pieces.append(Markup("</details>"))
            continue
        head = Markup("<code>{}</code> <span>{}</span> <small>{}</small>").format(
            branch.title, branch.text, branch.note
        )
        if not branch.children:
            pieces.append(Markup('<div class="leaf {}">{}</div>').format(branch.tone, head))
            continue
        shown = Markup(" open") if depth == 0 else ""
        opened = Markup('<details class="{}"{}><summary>{}</summary>')
        pieces.append(opened.format(branch.tone, shown, head))
        ahead.append((None, depth))
        ahead += [(child, depth + 1) for child in reversed(branch.children)]
    return Markup('<div class="tree">{}</div>').format(Markup("").join(pieces))


def _cell(cell: object) -> Markup:
    text = str(escape(cell))
    # A sentence may begin with a number; it must still wrap.
    numeric = bool(text) and text[0] in "+-−.0123456789" and len(text) <= 40
    kind = Markup(' class="number"') if numeric else Markup("")
    return Markup("<td{}>{}</td>").format(kind, cell)
