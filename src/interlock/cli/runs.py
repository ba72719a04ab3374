"""`interlock runs`: what the journal holds, and getting it out or rid of it."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import UsageError
from interlock.kernel.journal import Journal, RunInfo, default_path

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_OLDEST = timedelta(days=36_525)


def _journal_option(command: Command) -> Command:
    return click.option(
        "--journal",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The journal's file; without it, the one in your data directory.",
    )(command)


@click.group("runs")
def command() -> None:
    """List, show, export and delete journalled runs.

    A journal holds the prompts and answers of its runs in plain text. It is created readable by
    its owner only, and so are the files that `export` writes; deleting a run overwrites its
    content in the file.
    """


@command.command("list")
@_journal_option
@json_option
def list_runs(path: Path | None, as_json: bool) -> int:
    """List all runs, oldest first."""
    with _open(path) as journal:
        runs = journal.runs()
        if as_json:
            print_json({"journal": str(journal.path), "runs": runs})
        elif not runs:
            click.echo(f"no runs in {journal.path}")
        else:
            print_table(
                ("run", "name", "state", "created", "items", "pending", "outcomes"),
                [
                    (
                        run.run_id,
                        run.name,
                        run.state,
                        f"{run.created:%Y-%m-%d %H:%M}",
                        run.items,
                        run.pending,
                        _counts(run),
                    )
                    for run in runs
                ],
            )
    return 0


@command.command("show")
@click.argument("run_id")
@_journal_option
@json_option
def show(run_id: str, path: Path | None, as_json: bool) -> int:
    """Show one run: state, counts, digests, settings and accepted changes."""
    with _open(path) as journal:
        run = journal.info(run_id)
    if as_json:
        print_json(run)
        return 0
    rows: list[tuple[str, object]] = [
        ("run", run.run_id),
        ("name", run.name),
        ("state", run.state + (f", held by {run.holder}" if run.holder else "")),
        ("created", f"{run.created:%Y-%m-%d %H:%M:%S} UTC"),
        ("finished", f"{run.finished:%Y-%m-%d %H:%M:%S} UTC" if run.finished else "no"),
        ("items", run.items),
        ("pending", f"{run.pending}, {run.open_attempts} of them begun"),
        ("outcomes", _counts(run)),
        ("withdrawn", run.withdrawn),
        ("config sha256", run.config_digest),
        ("inputs sha256", run.inputs_digest),
        *((f"config {key}", value) for key, value in run.settings.items()),
        *(("version", f"{name} {version}") for name, version in run.versions.items()),
        *(("accepted", change) for change in run.changes),
    ]
    print_table(("field", "value"), rows)
    return 0


@command.command("export")
@click.argument("run_id")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this owner-only file instead of standard output.",
)
@_journal_option
@json_option
def export(run_id: str, output: Path | None, path: Path | None, as_json: bool) -> int:
    """Write a run as JSON lines: one an item, in input order, with its payload and outcome."""
    with _open(path) as journal:
        if output is not None:
            lines = journal.export_jsonl(run_id, output)
            if as_json:
                print_json({"run_id": run_id, "path": str(output), "items": lines})
            else:
                click.echo(f"{lines} items written to {output}")
        elif as_json:
            buffer = io.StringIO()
            journal.export_jsonl(run_id, buffer)
            # Not splitlines: JSON leaves U+2028 and its like as they are inside a text.
            items = [msgspec.Raw(line.encode()) for line in buffer.getvalue().split("\n")[:-1]]
            print_json({"run_id": run_id, "items": items})
        else:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the locale
            journal.export_jsonl(run_id, sys.stdout)
            sys.stdout.flush()
    return 0


@command.command("delete")
@click.argument("run_ids", metavar="RUN_ID…", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_journal_option
@json_option
def delete(run_ids: tuple[str, ...], yes: bool, path: Path | None, as_json: bool) -> int:
    """Delete runs with everything that the journal holds about them."""
    run_ids = tuple(dict.fromkeys(run_ids))
    with _open(path) as journal:
        runs = [journal.info(run_id) for run_id in run_ids]
        if not _confirmed(runs, yes=yes, as_json=as_json):
            return 1
        for run_id in run_ids:
            journal.delete_run(run_id)
    _print_deleted(list(run_ids), as_json=as_json)
    return 0


@command.command("prune")
@click.option("--older-than", metavar="AGE", help="Runs that ended longer ago, such as 30d or 12h.")
@click.option("--keep", type=click.IntRange(min=0), help="Spare this many of the latest runs.")
@click.option("--unfinished", is_flag=True, help="Also interrupted runs, which could be resumed.")
@click.option("--dry-run", is_flag=True, help="Only say which runs would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_journal_option
@json_option
def prune(
    older_than: str | None,
    keep: int | None,
    unfinished: bool,
    dry_run: bool,
    yes: bool,
    path: Path | None,
    as_json: bool,
) -> int:
    """Delete old runs: those that --older-than names and --keep does not spare."""
    age = None if older_than is None else _age(older_than)
    if age is None and keep is None:
        raise UsageError("give --older-than, --keep or both")
    with _open(path) as journal:
        chosen = journal.prune(age, keep, unfinished=unfinished, dry_run=True)
        if dry_run:
            if as_json:
                print_json({"would_delete": chosen})
            else:
                click.echo("\n".join(chosen) if chosen else "nothing to delete")
            return 0
        runs = [journal.info(run_id) for run_id in chosen]
        if runs and not _confirmed(runs, yes=yes, as_json=as_json):
            return 1
        deleted = journal.prune(age, keep, unfinished=unfinished) if chosen else []
    _print_deleted(deleted, as_json=as_json)
    return 0


def _open(path: Path | None) -> Journal:
    return Journal.open(default_path() if path is None else path, create=False)


def _counts(run: RunInfo) -> str:
    return ", ".join(f"{count} {status}" for status, count in run.counts.items() if count) or "none"


def _confirmed(runs: list[RunInfo], *, yes: bool, as_json: bool) -> bool:
    if yes:
        return True
    if as_json:
        raise UsageError("--json never asks for confirmation", hint="add --yes")
    for run in runs:
        click.echo(f"{run.run_id}  {run.name}  {run.state}  {run.items} items: {_counts(run)}")
    try:
        confirmed = click.confirm(f"Delete {len(runs)} run(s) for ever?")
    except (click.Abort, RuntimeError) as error:
        # Python says by a RuntimeError that there is no standard input.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo("")
        raise UsageError("nobody answers here", hint="--yes deletes without asking") from None
    if confirmed:
        return True
    click.echo("nothing was deleted")
    return False


def _print_deleted(run_ids: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"deleted": run_ids})
    else:
        click.echo("\n".join(f"deleted {run_id}" for run_id in run_ids) or "nothing to delete")


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    age = None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})
    if age is None or age > _OLDEST:
        raise UsageError(
            f"--older-than is {text!r}; it must be a number and m, h, d or w, up to 100 years"
        )
    return age
