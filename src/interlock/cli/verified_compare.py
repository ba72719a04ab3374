"""`interlock verified compare` and `deploy`: models, slices and circuits measured."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.cli.verified_options import MODEL, prover_options, warnings_told

if TYPE_CHECKING:
    from interlock.verified.compare import Comparison


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--inputs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Held-out examples on which circuits and ONNX are compared, by witness.",
)
@click.option("--prove/--witness", default=True, help="Prove the example, or leave proofs out.")
@prover_options
@json_option
def compare(
    models: tuple[Path, ...],
    inputs: int,
    prove: bool,
    srs: Path | None,
    srs_sha256: str | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Compare whole model, slices and circuits: answer, security, time, size and error.

    MODELS are models/doom and models/net where none is named. Everything is measured now. Circuits
    that are missing are compiled for their witness; only those with keys are proved.
    """
    from interlock.kernel.progress import SILENT, open_progress
    from interlock.verified.compare import compare as compare_model
    from interlock.verified.default_prover import open_default_prover
    from interlock.verified.examples import read_examples
    from interlock.verified.runner import Runner

    found = []
    with (
        warnings_told(),
        open_default_prover(srs=srs, srs_sha256=srs_sha256, cache=cache) as prover,
    ):
        for model in models or (Path("models/doom"), Path("models/net")):
            runner = Runner(model, prover=prover)
            examples = read_examples(runner)[0][:inputs] if inputs else None
            label = f"compare {runner.name}"
            shown = open_progress(label, total=inputs) if inputs else nullcontext(SILENT)
            with shown as progress:
                found.append(compare_model(runner, examples, prove=prove, progress=progress))
    if as_json:
        print_json({"models": found})
        return 0
    _print_comparison(found)
    return 0


def _print_comparison(found: list[Comparison]) -> None:
    rows = []
    for entry in found:
        for row in entry.rows:
            sizes = ["-" if size is None else str(size) for size in row.circuit_sizes]
            rows.append(
                [
                    entry.model,
                    row.method,
                    row.predicted_class,
                    f"{row.security:.1f}%",
                    f"{row.seconds:.6f}",
                    "-" if row.same_class is None else "match" if row.same_class else "DIFFERS",
                    "-" if row.overhead is None else f"{row.overhead:+.1f}%",
                    "-" if row.security_gain is None else f"{row.security_gain:+.1f}%",
                    f"[{', '.join(sizes)}]" if sizes else "-",
                ]
            )
    print_table(
        [
            "Model",
            "Method",
            "Predicted Class",
            "Security %",
            "Time (s)",
            "Classification",
            "Time Overhead %",
            "Security Gain %",
            "Circuit Sizes (bytes)",
        ],
        rows,
    )
    for sentence in dict.fromkeys(said for entry in found for said in entry.weaknesses):
        click.echo(sentence)
    for entry in found:
        click.echo(f"\n{entry.model.upper()} Model Results")
        d = entry.differences
        if d is None:
            click.echo("no circuit answered: nothing to compare with ONNX")
            continue
        match = "MATCH" if d.onnx_class == d.circuit_class else "DIFFERS"
        click.echo(f"Max Absolute Error: {d.maximum:.12f}")
        click.echo(f"Mean Absolute Error: {d.mean:.12f}")
        click.echo(f"Sum Absolute Error: {d.total:.12f}")
        click.echo(f"Relative Error: {d.relative:.12f}")
        click.echo(f"Execution: {d.circuits} circuits, {d.onnx} ONNX slices")
        click.echo(f"Classification: ONNX={d.onnx_class}, Circuit={d.circuit_class} {match}")
        click.echo("Top 3 Largest Differences:")
        for number, one in enumerate(d.largest, 1):
            click.echo(
                f"{number}. Index {one.index}: ONNX={one.onnx:.12f}, "
                f"Circuit={one.circuit:.12f}, Diff={one.difference:.12f}"
            )
        if entry.many is not None:
            click.echo(
                f"Over {entry.many.inputs} inputs: at most {entry.many.worst:.3g} of the largest "
                f"logit, same class on {entry.many.same_class}, {entry.many.refused} refused"
            )


@click.command()
@MODEL
@click.option(
    "--inputs",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Held-out examples that go through slices and circuits.",
)
@prover_options
@json_option
def deploy(
    model: Path,
    inputs: int,
    srs: Path | None,
    srs_sha256: str | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Validate MODEL for production: files, slices, modes, limits, bad input, error, accuracy.

    Exit code 1 where a check failed.
    """
    from interlock.verified.default_prover import open_default_prover
    from interlock.verified.deployment import deploy_production
    from interlock.verified.runner import Runner

    with (
        warnings_told() as told,
        open_default_prover(srs=srs, srs_sha256=srs_sha256, cache=cache) as prover,
    ):
        checks = deploy_production(Runner(model, prover=prover), inputs=inputs)
    failed = sum(check.result == "failed" for check in checks)
    if as_json:
        print_json({"checks": checks, "failed": failed, "warnings": told})
    else:
        print_table(
            ["check", "result", "detail"],
            [[check.name, check.result, check.detail] for check in checks],
        )
        click.echo(f"\n{'ready' if not failed else f'{failed} checks failed: not ready'}")
    return 1 if failed else 0
