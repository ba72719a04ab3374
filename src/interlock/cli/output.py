"""What every verb prints: one JSON document with `--json`, a table or lines for a person without.

A verb returns its exit code: 0 done, 1 finished with refusals or failures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
import msgspec

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add `--json` to a verb; the function gets it as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
    )(command)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the arguments, before they are parsed."""
    return "--json" in arguments


def print_json(document: Any) -> None:
    """Print one JSON document, indented, on standard output, in UTF-8 whatever the locale."""
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_as_unicode(document))
    click.echo(msgspec.json.format(encoded, indent=2))


def _as_unicode(document: Any) -> Any:
    """The document with what is no text escaped: the name of a file may be any bytes."""
    match document:
        case str():
            return document.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_as_unicode(key): _as_unicode(value) for key, value in document.items()}
        case list() | tuple():
            return [_as_unicode(item) for item in document]
    return document


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table, one line a row, columns aligned, without codes for a terminal.

    No cell is folded: a narrow terminal wraps whole lines, and a pipe gets every row on its own.
    """
    from rich.cells import cell_len

    lines = [[_printable(str(cell)) for cell in row] for row in (headers, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def printable_lines(text: str) -> str:
    """`text` with its lines, and all else that steers a terminal escaped: it may quote a file."""
    return "\n".join(map(_printable, text.split("\n")))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
