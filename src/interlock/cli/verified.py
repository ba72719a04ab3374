"""`interlock verified`: slice a model, plan and make its circuits, run, prove, verify, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.cli.verified_compare import compare, deploy
from interlock.cli.verified_options import (
    FILE,
    MODEL,
    print_result,
    prover_options,
    warnings_told,
)
from interlock.cli.verified_proofs import prove, verify
from interlock.cli.verified_setup import plan, setup
from interlock.errors import ConfigError

if TYPE_CHECKING:
    from interlock.verified.slices import SlicedModel


@click.group(help="Run models in slices, proved by circuits where they can be.")
def command() -> None:
    """Run models in slices, proved by circuits where they can be."""


for verb in (plan, setup, prove, verify, compare, deploy):
    command.add_command(verb)


@command.command("slice")
@MODEL
@click.option(
    "--at",
    "tensors",
    multiple=True,
    metavar="TENSOR[,TENSOR…]",
    help="End a slice where this tensor is made, or all of several; repeatable, in order. "
    "Without it, a slice begins before each layer with weights.",
)
@click.option(
    "--crossing",
    default="1",
    show_default=True,
    metavar="N|any",
    help="Most tensors that may cross a cut that is chosen.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=SIZE,…",
    help="Sizes of an input whose shape the model leaves open; repeatable.",
)
@click.option(
    "--level",
    type=click.Choice(["measured", "none", "all"]),
    default="measured",
    show_default=True,
    help="Optimization by ONNX Runtime: 'none' gives the whole model's bits by construction; "
    "'measured' takes 'all' where the bits agree on sample inputs, else 'none'.",
)
@json_option
def slice_(
    model: Path,
    tensors: tuple[str, ...],
    crossing: str,
    shapes: tuple[str, ...],
    level: str,
    as_json: bool,
) -> int:
    """Cut MODEL, a directory with a model.onnx, into slices, and write them to MODEL/slices.

    Chained on ONNX Runtime the slices give the bits of the whole model.
    """
    from interlock.verified.directory import Cuts, ModelDirectory, cut, write_slices
    from interlock.verified.equality import fastest_equal, same_bits
    from interlock.verified.examples import sample_inputs
    from interlock.verified.metadata import RunnerMetadata

    if crossing != "any" and not (crossing.isascii() and crossing.isdecimal() and int(crossing)):
        raise ConfigError(f"--crossing is {crossing!r}; it must be a number of 1 or more, or 'any'")
    cuts = Cuts(
        at=[entry.split(",") for entry in tensors] or None,
        crossing=None if crossing == "any" else int(crossing),
        shapes=dict(_shape(entry) for entry in shapes),
    )
    with warnings_told():
        directory = ModelDirectory.find(model)
        sliced = cut(directory.read_model(), cuts)
        samples = sample_inputs(directory, sliced)
        found: Any = ("none", 0)
        if level == "measured":
            found = fastest_equal(sliced, samples)
        elif level == "all":
            equal, total = same_bits(sliced, samples, "all")
            if equal < total:
                raise ConfigError(
                    f"--level all: {total - equal} of {total} inputs give other bits in slices",
                    hint="leave --level out",
                )
            found = ("all", total)
        write_slices(directory, sliced, cuts, *found)
        RunnerMetadata.generate_for_model(directory.path)
    if as_json:
        print_json(_slices_document(directory.path, sliced, found))
        return 0
    print_table(
        ["slice", "layers", "takes", "gives", "bytes", "sha256"],
        [
            [
                part.name,
                ", ".join(part.parameterised) or "none",
                ", ".join(f"{spec.name} {_dims(spec)}" for spec in part.inputs),
                ", ".join(f"{spec.name} {_dims(spec)}" for spec in part.outputs),
                f"{len(part.model):,}",
                part.sha256[:16],
            ]
            for part in sliced.slices
        ],
    )
    how = f"measured on {found[1]} inputs" if found[1] else "by construction"
    click.echo(f"\noptimization {found[0]}: the whole model's bits, {how}")
    return 0


def _slices_document(path: Path, sliced: SlicedModel, found: Any) -> dict[str, Any]:
    return {
        "model": str(path),
        "model_sha256": sliced.sha256,
        "optimization": found[0],
        "compared": found[1],
        "slices": [
            {
                "name": part.name,
                "sha256": part.sha256,
                "parameterised": part.parameterised,
                "inputs": {spec.name: spec.shape for spec in part.inputs},
                "outputs": {spec.name: spec.shape for spec in part.outputs},
            }
            for part in sliced.slices
        ],
    }


def _dims(spec: Any) -> str:
    return "×".join(map(str, spec.shape)) or "scalar"


def _shape(entry: str) -> tuple[str, list[int]]:
    name, equals, dims = entry.partition("=")
    try:
        sizes = [int(dim) for dim in dims.split(",")]
    except ValueError:
        sizes = []
    if not name or not equals or not sizes or min(sizes) < 0:
        raise ConfigError(f"--shape is {entry!r}; it must read like input=1,3,32,32")
    return name, sizes


@command.command("run")
@MODEL
@click.option(
    "--mode",
    type=click.Choice(["auto", "onnx_only", "ezkl_only"]),
    default="auto",
    show_default=True,
    help="Circuits where they can prove; the whole model on ONNX; or proved slices alone.",
)
@click.option("--input", "given", type=FILE, help="JSON file with input_data; MODEL/input.json.")
@click.option("--time-limit", type=float, help="Seconds that the circuit of one slice may take.")
@click.option("--size-limit", type=float, help="Bytes that a slice's circuits may have.")
@click.option(
    "--circuits",
    type=click.Choice(["prove", "witness", "none"]),
    default="prove",
    show_default=True,
    help="What is asked of circuits; a witness without a proof counts as unverified.",
)
@click.option("--replay", is_flag=True, help="Run ONNX slices again in another process.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a page here.")
@prover_options
@json_option
def run_(
    model: Path,
    mode: Any,
    given: Path | None,
    time_limit: float | None,
    size_limit: float | None,
    circuits: Any,
    replay: bool,
    report: Path | None,
    srs: Path | None,
    srs_sha256: str | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Answer one input, and say slice by slice what backs the answer.

    The limits win over those in MODEL's metadata.
    """
    from interlock.verified.default_prover import open_default_prover
    from interlock.verified.result import weaknesses
    from interlock.verified.runner import Runner

    with (
        warnings_told() as told,
        open_default_prover(srs=srs, srs_sha256=srs_sha256, cache=cache) as prover,
    ):
        runner = Runner(model, prover=prover)
        runner.time_limit, runner.size_limit = time_limit, size_limit
        found = runner.infer(mode, given, circuits=circuits, replay=replay)
    if report is not None:
        from interlock.report.page import write
        from interlock.verified.report_page import build

        write(build(found, runner.metadata), report)
    if as_json:
        print_json({**found.to_plain(), "warnings": [*told, *weaknesses(found)]})
    else:
        print_result(found)
    return 0
