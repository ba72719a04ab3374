"""`interlock experiment run`, `check`, `export` and `prices`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import RunNotFoundError, UsageError

if TYPE_CHECKING:
    from interlock.experiment.run import RunReport

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)


def _config_options(command: Command) -> Command:
    """What names the experiment, the same for `run` and `check`."""
    for option in (
        click.option(
            "--allow-unknown-prices",
            is_flag=True,
            help="With a budget, leave models whose price is not known uncounted.",
        ),
        click.option(
            "--prices", type=_FILE, help="A price table that goes before the shipped one."
        ),
        click.option(
            "--budget", type=click.FloatRange(min=0), metavar="USD", help="Instead of budget_usd."
        ),
        click.option("--output", type=_DIRECTORY, help="Run directory, instead of output_dir."),
        click.option("--prompts", type=_FILE, help="Prompts, instead of prompts_file."),
        click.option(
            "--num-prompts",
            type=click.IntRange(min=1),
            help="A subset of so many, in the proportions of categories and synthetic probes.",
        ),
        click.option(
            "--config", "config_file", type=_FILE, required=True, help="The configuration."
        ),
    ):
        command = option(command)
    return command


def _raw(
    config_file: Path,
    num_prompts: int | None,
    prompts: Path | None,
    output: Path | None,
    budget: float | None,
) -> dict[str, Any]:
    """The configuration with what the command line replaces."""
    from interlock.experiment.config import load_config

    given = {
        "num_prompts": num_prompts,
        "prompts_file": None if prompts is None else str(prompts),
        "output_dir": None if output is None else str(output),
        "budget_usd": budget,
    }
    raw = load_config(config_file) | {k: v for k, v in given.items() if v is not None}
    for name in ("prompts_file", "prices_file"):
        if isinstance(path := raw.get(name), str) and not Path(path).exists():
            # A configuration may name what lies beside it, wherever it is called from.
            beside = config_file.parent / path
            raw[name] = str(beside) if beside.exists() else path
    return raw


@click.command("run")
@_config_options
@click.option("--resume", is_flag=True, help="Go on with the directory's unfinished run.")
@click.option(
    "--accept-changes",
    is_flag=True,
    help="With --resume: go on though configuration or prompts differ. What changed is asked anew.",
)
@click.option("--retry-failed", is_flag=True, help="With --resume: ask failed samples again.")
@json_option
def run(
    config_file: Path,
    num_prompts: int | None,
    prompts: Path | None,
    output: Path | None,
    budget: float | None,
    prices: Path | None,
    allow_unknown_prices: bool,
    resume: bool,
    accept_changes: bool,
    retry_failed: bool,
    as_json: bool,
) -> int:
    """Ask every model every prompt, and record each answer once.

    Every attempt and answer is in the run directory's journal before the next one is sent. A run
    that was interrupted, killed or out of budget goes on with --resume; nothing that was recorded
    is asked, or paid for, again. Exits with 1 where a sample ended without a usable answer.
    """
    from interlock.experiment.run import RunOptions, run_experiment

    for flag, given in (("--accept-changes", accept_changes), ("--retry-failed", retry_failed)):
        if given and not resume:
            raise UsageError(f"{flag} is for --resume")
    report = run_experiment(
        _raw(config_file, num_prompts, prompts, output, budget),
        options=RunOptions(
            resume=resume,
            accept_changes=accept_changes,
            retry_failed=retry_failed,
            prices=prices,
            allow_unknown_prices=allow_unknown_prices,
        ),
    )
    if as_json:
        print_json(_document(report))
    else:
        _tell(report)
    return 0 if report.complete else 1


def _document(report: RunReport) -> dict[str, Any]:
    return {
        "run_id": report.run_id,
        "directory": str(report.directory),
        "samples": report.samples,
        "counts": dict(report.counts),
        "recorded": report.recorded,
        "sent": report.sent,
        "seconds": round(report.seconds, 3),
        "spent_usd": report.spent,
        "uncertain_usd": report.uncertain,
        "possibly_billed_twice": list(report.possibly_billed_twice),
        "estimates": [
            {
                "variant": each.label,
                "samples": each.samples,
                "expected_usd": each.expected,
                "worst_usd": each.worst,
            }
            for each in report.estimates
        ],
        "notes": list(report.notes),
        "files": [str(path) for path in report.files],
    }


def _tell(report: RunReport) -> None:
    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n)
    click.echo(f"run {report.run_id}: {report.samples} samples: {counts or 'none'}")
    if report.spent or report.uncertain:
        maybe = f", up to ${report.uncertain:.4f} uncertain" if report.uncertain else ""
        click.echo(f"spent ${report.spent:.4f}{maybe}")
    if report.possibly_billed_twice:
        click.echo(f"possibly billed twice: {len(report.possibly_billed_twice)} samples:")
        for key in report.possibly_billed_twice:
            click.echo(f"  {key}")
    for path in report.files:
        click.echo(f"wrote {path}")


@click.command("check")
@_config_options
@click.option(
    "--no-contact",
    is_flag=True,
    help="Neither ask services whether they know the models nor load models.",
)
@json_option
def check(
    config_file: Path,
    num_prompts: int | None,
    prompts: Path | None,
    output: Path | None,
    budget: float | None,
    prices: Path | None,
    allow_unknown_prices: bool,
    no_contact: bool,
    as_json: bool,
) -> int:
    """Find what would stop the run, before a cent is spent, and estimate its cost.

    Looks at the configuration, every prompt, every model and its key, the output directory and its
    disk, and the prices. Services are asked whether they know their models, which is free. Exits
    with 1 where something stands in the way.
    """
    from interlock.experiment.check import check_experiment

    checked = check_experiment(
        _raw(config_file, num_prompts, prompts, output, budget),
        prices=prices,
        allow_unknown_prices=allow_unknown_prices,
        contact=not no_contact,
    )
    if as_json:
        print_json(
            {
                "ok": checked.ok,
                "findings": [
                    {"level": f.level, "what": f.what, "message": f.message, "hint": f.hint}
                    for f in checked.findings
                ],
                "estimates": [
                    {
                        "variant": each.label,
                        "samples": each.samples,
                        "expected_usd": each.expected,
                        "worst_usd": each.worst,
                    }
                    for each in checked.estimates
                ],
            }
        )
    else:
        for finding in checked.findings:
            click.echo(f"{finding.level:<8} {finding.what}: {finding.message}")
            if finding.hint:
                click.echo(f"         hint: {finding.hint}")
        click.echo("ready to run" if checked.ok else "not ready to run")
    return 0 if checked.ok else 1


@click.command("export")
@click.argument("directory", type=_DIRECTORY)
@click.option("--run", "run_id", help="Id of a run; without it, the latest one.")
@click.option("--output", type=_DIRECTORY, help="Where to write, instead of the run directory.")
@json_option
def export(directory: Path, run_id: str | None, output: Path | None, as_json: bool) -> int:
    """Write the result files of a run directory again, of an unfinished run too.

    DIRECTORY holds the journal. The files hold what is recorded at this moment, in the schema of
    the pilot; `metadata.complete` says whether that is all.
    """
    from interlock.experiment.export import export_run
    from interlock.experiment.plan import read_plan
    from interlock.experiment.recorded import latest_run
    from interlock.experiment.records import JOURNAL_NAME
    from interlock.kernel.journal import Journal

    if not (directory / JOURNAL_NAME).exists():
        raise RunNotFoundError(
            f"there is no journal in {directory}", hint="name the output_dir of a run"
        )
    with Journal.open(directory / JOURNAL_NAME, create=False) as journal:
        chosen = latest_run(journal) if run_id is None else run_id
        info = journal.info(chosen)
        files = export_run(journal, read_plan(directory, chosen), directory, target=output)
    if as_json:
        print_json(
            {
                "run_id": chosen,
                "state": info.state,
                "samples": info.items,
                "pending": info.pending,
                "files": [str(path) for path in files],
            }
        )
    else:
        click.echo(f"run {chosen}: {info.items - info.pending} of {info.items} samples recorded")
        for path in files:
            click.echo(f"wrote {path}")
    return 0


@click.command("prices")
@click.option("--copy", "target", type=_FILE, help="Write the shipped table to this file.")
@click.option("--prices", type=_FILE, help="A table that goes before the shipped one.")
@json_option
def prices(target: Path | None, prices: Path | None, as_json: bool) -> int:
    """Show the price table in use, or copy the shipped one to edit it.

    A copy at the place that is shown is found by itself; any other is given with --prices.
    """
    from interlock.experiment.prices import PriceTable, shipped_text, user_path
    from interlock.kernel.replace_file import replace_file

    if target is not None:
        if target.exists():
            raise UsageError(f"{target} exists", hint="give another name")
        replace_file(target, shipped_text().encode())
    table = PriceTable(prices)
    if as_json:
        print_json(
            {
                "as_of": table.as_of,
                "user_file": str(user_path()),
                "copied_to": None if target is None else str(target),
                "prices": [
                    {
                        "type": kind,
                        "model": model,
                        "input": price.input,
                        "output": price.output,
                        "cached": price.cached,
                    }
                    for kind, model, price in table.entries()
                ],
            }
        )
        return 0
    if target is not None:
        click.echo(f"copied to {target}")
        return 0
    print_table(
        ("type", "model", "input", "output", "cached"),
        [(k, m, f"{p.input:g}", f"{p.output:g}", f"{p.cached:g}") for k, m, p in table.entries()],
    )
    for what, date in table.as_of.items():
        click.echo(f"{what} is of {date}; US dollars a million tokens")
    click.echo(f"your own table: {user_path()}")
    return 0
