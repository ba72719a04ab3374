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
    """Print one JSON document, indented, on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table, columns aligned; wide enough terminals are the reader's affair.

    What is not printable, such as a terminal's escape sequences in names from a file, is shown as
    `?`.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*("".join(c if c.isprintable() else "?" for c in str(cell)) for cell in row))
    Console(highlight=False, markup=False).print(table)
