"""`interlock experiment lint` and `report`: what a benchmark and its answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import ConfigError

if TYPE_CHECKING:
    from interlock.experiment.scoring import Scorer

Command = TypeVar("Command", bound=Callable[..., Any])
_LISTED = 12


def scorer_options(command: Command) -> Command:
    """Add `--scorer` and `--option` to a verb."""
    command = click.option(
        "--option",
        "options",
        multiple=True,
        metavar="SCORER.NAME=VALUE",
        help="An option of a scorer, such as regex.pattern=CVSS. Repeatable.",
    )(command)
    return click.option(
        "--scorer",
        "scorers",
        multiple=True,
        metavar="NAME",
        help="A scorer instead of the usual ones: existence, hallucination, refusal, hedging, "
        "exact, regex, or one of an installed package. Repeatable.",
    )(command)


def read_scorers(names: Sequence[str], options: Sequence[str]) -> list[Scorer] | None:
    """The scorers that were named with their options; None where none was."""
    from interlock.experiment.scoring import make_scorers

    given: dict[str, dict[str, Any]] = {}
    for option in options:
        target, equals, value = option.partition("=")
        scorer, dot, name = target.rpartition(".")
        if not equals or not dot or not scorer:
            raise ConfigError(f"--option is {option!r}; it must read SCORER.NAME=VALUE")
        if scorer not in names:
            raise ConfigError(f"--option {option!r}: --scorer {scorer} is not given")
        given.setdefault(scorer, {})[name] = {"true": True, "false": False}.get(value, value)
    return make_scorers(names, given, base=Path.cwd()) if names else None


@click.command("lint")
@click.argument("prompts", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too, not for errors alone.")
@click.option("--ids", is_flag=True, help="Print every id, not the first few.")
@scorer_options
@json_option
def lint(
    prompts: Path,
    strict: bool,
    ids: bool,
    scorers: tuple[str, ...],
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Name the defects of the benchmark PROMPTS, with counts and ids.

    Malformed entries, missing and contradictory labels, references of other prompts, duplicates,
    leaks of the label, imbalance, and which scorers can use how many prompts. The exit code is 1
    where there are errors.
    """
    import msgspec

    from interlock.experiment.lint import lint as lint_file
    from interlock.experiment.report import DEFAULT_SCORERS
    from interlock.experiment.scoring import make_scorers

    chosen = read_scorers(scorers, options)
    if chosen is None:
        chosen = make_scorers((*DEFAULT_SCORERS, "exact", "regex"), base=Path.cwd())
    found = lint_file(prompts, chosen)
    wrong = found.count("error") + (found.count("warning") if strict else 0)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return 1 if wrong else 0
    click.echo(
        f"{found.path}: {found.prompts} prompts, {found.synthetic} of them synthetic probes\n"
        f"sha256 {found.sha256}\n"
    )
    for finding in found.findings:
        click.echo(f"{finding.severity}: {finding.code}: {finding.message}")
        if finding.hint:
            click.echo(f"  hint: {finding.hint}")
        if finding.ids:
            shown = finding.ids if ids else finding.ids[:_LISTED]
            more = len(finding.ids) - len(shown)
            click.echo(f"  ids: {', '.join(shown)}" + (f" and {more} more" if more else ""))
    click.echo("" if found.findings else "no finding\n")
    print_table(
        ["scorer", "prompts it can use", "why not the others"],
        [
            [
                use.scorer,
                f"{use.prompts} of {found.prompts}",
                "; ".join(f"{why} ({len(which)})" for why, which in use.not_usable),
            ]
            for use in found.usable
        ],
    )
    return 1 if wrong else 0


@click.command("report")
@click.argument("source", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="RUN_DIR/report.html without it.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="The benchmark, where RUN_DIR does not hold the prompts or their labels were corrected.",
)
@click.option("--run", "run_id", help="A run of RUN_DIR other than the latest.")
@scorer_options
@click.option(
    "--judge",
    "judges",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A judge's run directory. Repeatable.",
)
@click.option("--rates", type=click.Path(path_type=Path), help="Also write rates: .csv or .jsonl.")
@click.option(
    "--verdicts",
    type=click.Path(path_type=Path),
    help="Also write one row an answer and scorer: .csv or .jsonl.",
)
@click.option("--seed", default=0, show_default=True, help="Of the resampling.")
@click.option("--confidence", default=0.95, show_default=True, help="Of the intervals.")
@click.option("--resamples", default=2000, show_default=True, help="Draws of the bootstrap.")
@json_option
def report(
    source: Path,
    output: Path | None,
    prompts: Path | None,
    run_id: str | None,
    scorers: tuple[str, ...],
    options: tuple[str, ...],
    judges: tuple[Path, ...],
    rates: Path | None,
    verdicts: Path | None,
    seed: int,
    confidence: float,
    resamples: int,
    as_json: bool,
) -> int:
    """Score the answers in RUN_DIR and write one HTML page with every rate and its interval.

    RUN_DIR is a run's directory, or a result file. Nothing is asked of any model, and the page
    needs no network. Requests without an answer are counted in it.
    """
    from interlock.experiment.report import make_report, write_report
    from interlock.experiment.report_tables import check_path, rate_rows, score_rows, write_rows

    if not 0.5 <= confidence < 1:
        raise ConfigError(f"--confidence is {confidence}; it must lie in 0.5 … 1")
    if not 100 <= resamples <= 100_000:
        raise ConfigError(f"--resamples is {resamples}; it must lie in 100 … 100000")
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; it must not be negative")
    for path in (rates, verdicts):
        if path is not None:
            check_path(path)
    made = make_report(
        source,
        prompts=prompts,
        run_id=run_id,
        scorers=read_scorers(scorers, options),
        judges=judges,
        seed=seed,
        confidence=confidence,
        resamples=resamples,
    )
    page = output or (source if source.is_dir() else source.parent) / "report.html"
    files = [write_report(made, page, datetime.now().strftime("%Y-%m-%d %H:%M"))]
    if rates is not None:
        files.append(write_rows(rate_rows(made.analysis), rates))
    if verdicts is not None:
        files.append(write_rows(score_rows(made.scored), verdicts))
    found = made.analysis
    if as_json:
        print_json({**made.to_dict(), "files": [str(file) for file in files]})
        return 0
    names = {summary.variant: summary.label for summary in found.variants}
    print_table(
        ["scorer", "model", "yes", "interval", "decided", "missing", "with them between"],
        [
            [
                row.scorer,
                names[row.variant],
                "none" if row.rate.share is None else f"{row.rate.share:.1%}",
                f"{row.rate.low:.1%} to {row.rate.high:.1%}",
                row.rate.n,
                row.rate.missing,
                ""
                if row.rate.lowest is None or row.rate.highest is None
                else f"{row.rate.lowest:.1%} and {row.rate.highest:.1%}",
            ]
            for row in found.rates
            if row.group == "all"
        ],
    )
    click.echo("")
    for file in files:
        click.echo(file)
    return 0
