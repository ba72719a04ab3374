"""`interlock doctor`: the checks before a deployment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interlock.cli.output import json_option, print_json
from interlock.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from interlock.serve.checklist import Finding

_MARKS = {"pass": "ok", "warn": "look", "fail": "FAIL", "skip": "skip"}


@contextmanager
def _progress(calls: int) -> Iterator[Callable[[str, int], None]]:
    """Shows on standard error how far the inferences are: a bar on a terminal, else a line each."""
    if not sys.stderr.isatty():

        def line(name: str, number: int) -> None:
            if number == 1:
                click.echo(f"{name}: {calls} inferences", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(name: str, number: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"{name}: inferences", total=calls)
            bars.update(tasks[name], completed=number)

        yield bar


@click.command()
@click.option(
    "--deployment",
    "place",
    type=click.Path(path_type=Path),
    required=True,
    help="A server's configuration, the directory that holds one, or a model.",
)
@click.option(
    "--environment",
    type=click.Choice(("production", "staging", "development")),
    help="The section of the configuration that counts.",
)
@click.option(
    "--calls",
    type=click.IntRange(1000, 10_000_000),
    default=1500,
    show_default=True,
    help="Inferences of each model, for latencies and leaks.",
)
@json_option
def command(place: Path, environment: str | None, calls: int, as_json: bool) -> int:
    """Go through the list before a deployment: integrity, permissions, targets, leaks, logs.

    Starts each model, and a server of its own on the loopback; one that runs already is left alone.
    Ends with 1 where an item fails. What only people can tell is listed at the end.
    """
    try:
        from interlock.serve import checklist, doctor
    except ImportError as error:
        if (error.name or "").split(".")[0] == "interlock":
            raise
        raise MissingExtraError("serve", "the doctor") from None
    effective = doctor.find_deployment(place, environ=os.environ, environment=environment)
    found: list[Finding] = []
    group = ""
    with _progress(calls) as tick:
        for finding in doctor.examine(effective, calls=calls, tick=tick):
            found.append(finding)
            if as_json:
                continue
            if finding.group != group:
                group = finding.group
                click.echo(f"\n{group}")
            click.echo(f"  {_MARKS[finding.result]:4s}  {finding.item}: {finding.detail}")
    if as_json:
        print_json(checklist.document(found))
    else:
        click.echo("\nfor people")
        for line in checklist.PEOPLE:
            click.echo(f"  [ ]   {line}")
        counts = checklist.document(found)["counts"]
        click.echo("\n" + ", ".join(f"{number} {word}" for word, number in counts.items()))
    return 1 if any(one.result == "fail" for one in found) else 0
