"""`interlock verified prove` and `verify`: bundles of one inference that strangers can check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from interlock.cli.output import json_option, print_json
from interlock.cli.verified_options import (
    FILE,
    MODEL,
    print_result,
    prover_options,
    sliced_model,
    warnings_told,
)


@click.command()
@MODEL
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--input", "given", type=FILE, help="JSON file with input_data; MODEL/input.json.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "ezkl_only"]),
    default="auto",
    show_default=True,
    help="Let ONNX answer for slices that cannot be proved, or refuse.",
)
@click.option("--time-limit", type=float, help="Seconds that the circuit of one slice may take.")
@click.option("--size-limit", type=float, help="Bytes that a slice's circuits may have.")
@click.option(
    "--resume",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Keep proofs of pieces here, so that an interrupted proof goes on.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a page here.")
@prover_options
@json_option
def prove(
    model: Path,
    bundle: Path,
    given: Path | None,
    mode: Any,
    time_limit: float | None,
    size_limit: float | None,
    resume: Path | None,
    report: Path | None,
    srs: Path | None,
    srs_sha256: str | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Answer one input, prove what can be proved, and write the proofs to the directory BUNDLE.

    Exit code 1 where a slice was not proved; the bundle then holds what a verifier needs to run
    that slice again.
    """
    from interlock.errors import ConfigError
    from interlock.verified.default_prover import require_prover
    from interlock.verified.proof_bundle import write_bundle
    from interlock.verified.runner import NOT_SLICED, Runner

    if bundle.exists():
        raise ConfigError(f"{bundle} exists", hint="name a directory that does not exist yet")
    prover = require_prover("proving", srs=srs, srs_sha256=srs_sha256, cache=cache, resume=resume)
    with warnings_told() as told, prover:
        runner = Runner(model, prover=prover)
        runner.time_limit, runner.size_limit = time_limit, size_limit
        found = runner.infer(mode, given, record=True)
        if found.run is None:
            raise ConfigError(f"{model} is {NOT_SLICED}", hint=f"interlock verified slice {model}")
        digest = write_bundle(bundle, found.run, prover, optimization=runner.optimization)
    if report is not None:
        from interlock.report.page import write
        from interlock.verified.report_page import build

        write(build(found, runner.metadata), report)
    if as_json:
        plain = found.to_plain()
        print_json({"bundle": str(bundle), "digest": digest, **plain, "warnings": told})
    else:
        print_result(found)
        click.echo(f"{bundle}\n{digest}")
    return 0 if found.proved == len(found.execution_results) else 1


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Make the keys of this model again, and refuse proofs under any others.",
)
@click.option("--digest", help="SHA-256 that the bundle must have, got another way.")
@click.option(
    "--srs",
    type=click.Path(exists=True, resolve_path=True, path_type=Path),
    help="SRS file, or directory of kzg<logrows>.srs, that the proofs must be from.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Where --model finds a development SRS; the user's cache by default.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Largest difference of a replayed output, as a share of its largest value.",
)
@json_option
def verify(
    bundle: Path,
    model: Path | None,
    digest: str | None,
    srs: Path | None,
    cache: Path | None,
    tolerance: float,
    as_json: bool,
) -> int:
    """Check a bundle of proofs that anybody made, and say what the verdict rests on.

    Needs neither the model nor a network. Proofs are verified and linked, slices without a proof
    are run again. Exit code 1 where anything does not hold.
    """
    from interlock.verified.proof_verify import Against, to_plain, verify_bundle

    against = Against(
        digest=digest,
        model=None if model is None else sliced_model(model),
        srs=srs,
        cache=cache,
        tolerance=tolerance,
    )
    verdict = verify_bundle(bundle, against)
    if as_json:
        print_json(to_plain(verdict))
        return 0 if verdict.accepted else 1
    click.echo(f"{'accepted' if verdict.accepted else 'REFUSED'}: {bundle} {verdict.digest}")
    for reason in verdict.reasons:
        click.echo(f"  {reason}")
    click.echo(
        f"{verdict.proved} of {verdict.slices} slices proved "
        f"({verdict.overall_security:.4g}%), {verdict.replayed} run again, in "
        f"{verdict.seconds:.3g} s"
    )
    click.echo("trusted:")
    for sentence in verdict.trusted:
        click.echo(f"  {sentence}")
    return 0 if verdict.accepted else 1
