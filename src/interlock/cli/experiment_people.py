"""`interlock experiment judge`, `annotate` and `agreement`: second opinions on a run's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from interlock.cli.experiment_answers import read_scorers, scorer_options
from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import ConfigError, InputError

_SOURCE = click.argument("source", metavar="RUN_DIR", type=click.Path(path_type=Path))
_PROMPTS = click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="The benchmark, where RUN_DIR does not hold the prompts.",
)


@click.command("judge")
@_SOURCE
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The prompts file for the judge, .json.",
)
@click.option("--question", help="A yes-or-no question about each answer.")
@click.option(
    "--yes-is",
    type=click.Choice(["good", "bad", "neither"]),
    default="bad",
    show_default=True,
    help="How a yes to the question reads in the report.",
)
@click.option("--synthetic", is_flag=True, help="Judge answers to synthetic probes alone.")
@click.option("--show-label", is_flag=True, help="Tell the judge the label's description.")
@_PROMPTS
@json_option
def judge(
    source: Path,
    output: Path,
    question: str | None,
    yes_is: str,
    synthetic: bool,
    show_label: bool,
    prompts: Path | None,
    as_json: bool,
) -> int:
    """Write a prompts file that asks a judge about every answer in RUN_DIR.

    Run it as an experiment of its own, so that it is paced, journalled and paid once:
    `interlock experiment run --config JUDGE --prompts OUTPUT --output DIR`, then
    `interlock experiment report RUN_DIR --judge DIR`.
    """
    import msgspec

    from interlock.experiment.judge import DEFAULT_QUESTION, judge_prompts
    from interlock.experiment.report_input import load_answers
    from interlock.report.page import write_whole

    if output.suffix.lower() == ".jsonl":
        raise ConfigError(f"--output is {output}; what is written is one document: name it .json")
    if output.exists():
        raise InputError(f"{output} exists already", hint="choose another name, or remove it")
    made = list(
        judge_prompts(
            load_answers(source, prompts=prompts),
            question=question or DEFAULT_QUESTION,
            good={"good": True, "bad": False, "neither": None}[yes_is],
            show_label=show_label,
            only_synthetic=synthetic,
        )
    )
    if not made:
        raise InputError(f"{source} holds no answer to judge")
    document = msgspec.json.encode({"metadata": {"total_prompts": len(made)}, "prompts": made})
    write_whole(output, msgspec.json.format(document, indent=2))
    if as_json:
        print_json({"prompts": len(made), "file": str(output)})
    else:
        click.echo(f"{len(made)} answers to judge\n{output}")
    return 0


@click.command("annotate")
@_SOURCE
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory for the annotators' files, the key and the codebook.",
)
@click.option(
    "--annotator",
    "annotators",
    multiple=True,
    metavar="NAME",
    help="One file each, in an order of its own. Repeatable; one called 1 without it.",
)
@click.option("--num-answers", type=int, help="A part of the answers, in proportion. All without.")
@click.option("--seed", default=0, show_default=True, help="Of the order and the choice.")
@_PROMPTS
@json_option
def annotate(
    source: Path,
    output: Path,
    annotators: tuple[str, ...],
    num_answers: int | None,
    seed: int,
    prompts: Path | None,
    as_json: bool,
) -> int:
    """Write the answers in RUN_DIR for people to label: blinded, shuffled, with a codebook.

    Keep annotation_key.csv from the annotators: it says which model gave which answer.
    """
    from interlock.experiment.annotate import export_annotation
    from interlock.experiment.report_input import load_answers

    made = export_annotation(
        load_answers(source, prompts=prompts),
        output,
        annotators=annotators or ("1",),
        number=num_answers,
        seed=seed,
    )
    files = [*made.annotators, made.key, made.codebook]
    if as_json:
        print_json(
            {
                "rows": made.rows,
                "left_out": made.left_out,
                "files": [str(file) for file in files],
            }
        )
        return 0
    click.echo(f"{made.rows} answers to label; {made.left_out} failed requests left out")
    for file in files:
        click.echo(file)
    return 0


@click.command("agreement")
@click.argument("key", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--answers",
    "source",
    type=click.Path(path_type=Path),
    metavar="RUN_DIR",
    help="The run that was labelled: its scorers are compared with the people.",
)
@_PROMPTS
@scorer_options
@json_option
def agreement(
    key: Path,
    files: tuple[Path, ...],
    source: Path | None,
    prompts: Path | None,
    scorers: tuple[str, ...],
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read labelled FILES back with their KEY: how far people agree, and the scorers with them."""
    import msgspec

    from interlock.experiment.annotations import read_annotation
    from interlock.experiment.report import make_report

    scored = (
        make_report(source, prompts=prompts, scorers=read_scorers(scorers, options)).scored
        if source is not None
        else ()
    )
    found = read_annotation(key, files, scored)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return 0
    click.echo(f"{found.rows} rows, annotators: {', '.join(found.annotators)}\n")
    print_table(
        ["column", "labelled rows", "with a majority", "labels of the majority"],
        [
            [column, len(found.labels[column]), len(rows), _counts(rows.values())]
            for column, rows in found.majority.items()
        ],
    )
    measured = [(f"{column}: {first}, {second}", one) for column, first, second, one in found.pairs]
    measured += [(f"{column}: all", one) for column, one in found.alpha.items()]
    measured += [
        (f"{pair.column}: people, scorer {pair.scorer}", pair.kappa) for pair in found.scorers
    ]
    if measured:
        click.echo("")
        print_table(
            ["between", "statistic", "n", "same label", "value", "interval"],
            [
                [
                    between,
                    one.statistic,
                    one.n,
                    "" if one.share is None else f"{one.share:.1%}",
                    "undefined" if one.value is None else f"{one.value:.3f}",
                    ""
                    if one.low is None or one.high is None
                    else f"{one.low:.3f} to {one.high:.3f}",
                ]
                for between, one in measured
            ],
        )
    for pair in found.scorers:
        click.echo(f"\n{pair.scorer} / people's {pair.column}")
        print_table(["scorer / people", "answers"], list(pair.table.items()))
    return 0


def _counts(labels: Iterable[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in Counter(labels).most_common())
