"""`interlock verified`: slice a model, plan and make its circuits, run, prove, verify, compare."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.cli.verified_proofs import prove, verify
from interlock.errors import ConfigError

if TYPE_CHECKING:
    from interlock.verified.compare import Comparison
    from interlock.verified.prover import CircuitPlan
    from interlock.verified.result import InferenceResult
    from interlock.verified.slices import SlicedModel

MODEL = click.argument("model", type=click.Path(path_type=Path))
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(help="Run models in slices, proved by circuits where they can be.")
def command() -> None:
    """Run models in slices, proved by circuits where they can be."""


@contextmanager
def warnings_told() -> Iterator[list[str]]:
    """Collects the runner's warnings, and prints each on standard error, one line a warning."""
    from interlock.verified.directory import VerifiedWarning

    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield told
        finally:
            for entry in caught:
                if issubclass(entry.category, VerifiedWarning):
                    told.append(str(entry.message))
                    click.echo(f"warning: {entry.message}", err=True)


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


def limit_options(function: Any) -> Any:
    """Add the planner's limits to a verb."""
    options = (
        click.option("--key-bytes", type=int, help="Largest proving key of any one circuit."),
        click.option("--memory-bytes", type=int, help="Most memory of any one prover."),
        click.option("--seconds", type=float, help="Longest time to prove one slice."),
        click.option("--circuit-bytes", type=int, help="Most bytes of a slice's circuits."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command()
@MODEL
@limit_options
@json_option
def plan(
    model: Path,
    key_bytes: int | None,
    memory_bytes: int | None,
    seconds: float | None,
    circuit_bytes: int | None,
    as_json: bool,
) -> int:
    """Predict rows, key size, memory and time of each slice's circuits, before any setup.

    Says for each slice "prove", "tile" or "fallback", and why. Exit code 1 where any falls back.
    """
    from interlock.verified.default_prover import default_prover
    from interlock.verified.prover import Limits

    limits = Limits(key_bytes, memory_bytes, seconds, circuit_bytes)
    with warnings_told():
        prover = default_prover()
        plans = [prover.plan(part, limits) for part in _sliced(model).slices]
    _print_plans(plans, as_json)
    return 1 if any(entry.decision == "fallback" for entry in plans) else 0


@command.command()
@MODEL
@limit_options
@click.option("--slice", "names", multiple=True, help="Only this slice; repeatable.")
@json_option
def setup(
    model: Path,
    key_bytes: int | None,
    memory_bytes: int | None,
    seconds: float | None,
    circuit_bytes: int | None,
    names: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compile the circuits of MODEL's slices and make the keys that are missing.

    Slices that the plan leaves to ONNX are passed over. Exit code 1 where any is.
    """
    from interlock.verified.default_prover import default_prover
    from interlock.verified.metadata import RunnerMetadata
    from interlock.verified.prover import Limits

    limits = Limits(key_bytes, memory_bytes, seconds, circuit_bytes)
    with warnings_told():
        sliced = _sliced(model)
        unknown = set(names) - {part.name for part in sliced.slices}
        if unknown:
            raise ConfigError(f"--slice is {min(unknown)!r}; the model has no slice of that name")
        prover = default_prover()
        plans = []
        for part in sliced.slices:
            if names and part.name not in names:
                continue
            planned = prover.plan(part, limits)
            if planned.decision != "fallback":
                click.echo(f"{part.name}: {planned.reason}", err=True)
                planned = prover.setup(part, limits)
            plans.append(planned)
        RunnerMetadata.generate_for_model(model, prover=prover)
    _print_plans(plans, as_json)
    return 1 if any(entry.decision == "fallback" for entry in plans) else 0


def _sliced(model: Path) -> SlicedModel:
    """The model's slices: those on disk, or, without any, a cut before each layer."""
    from interlock.verified.directory import Cuts, ModelDirectory, cut, read_slices

    directory = ModelDirectory.find(model)
    data = directory.read_model()
    found = read_slices(directory, data)
    return cut(data, Cuts()) if found is None else found[0]


def _print_plans(plans: list[CircuitPlan], as_json: bool) -> None:
    if as_json:
        print_json({"slices": plans})
        return
    rows = [
        [
            entry.slice,
            entry.decision,
            entry.pieces,
            entry.circuits,
            entry.rows,
            entry.logrows,
            f"{entry.key_bytes / 1e6:.1f}",
            f"{entry.memory_bytes / 1e6:.0f}",
            f"{entry.seconds:.1f}",
            entry.reason,
        ]
        for entry in plans
    ]
    print_table(
        [
            "slice",
            "decision",
            "proofs",
            "circuits",
            "rows",
            "logrows",
            "key MB",
            "memory MB",
            "seconds",
            "reason",
        ],
        rows,
    )


@command.command("run")
@MODEL
@click.option(
    "--mode",
    type=click.Choice(["auto", "onnx_only", "ezkl_only"]),
    default="auto",
    show_default=True,
    help="Circuits where they can prove; the whole model on ONNX; or proved slices alone.",
)
@click.option("--input", "given", type=_FILE, help="JSON file with input_data; MODEL/input.json.")
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
    as_json: bool,
) -> int:
    """Answer one input, and say slice by slice what backs the answer.

    The limits win over those in MODEL's metadata.
    """
    from interlock.verified.runner import Runner

    with warnings_told() as told:
        runner = Runner(model)
        runner.time_limit, runner.size_limit = time_limit, size_limit
        found = runner.infer(mode, given, circuits=circuits, replay=replay)
    if report is not None:
        from interlock.report.page import write
        from interlock.verified.report_page import build

        write(build(found, runner.metadata), report)
    if as_json:
        print_json({**found.to_plain(), "warnings": told})
    else:
        print_result(found)
    return 0


def print_result(found: InferenceResult) -> None:
    """The answer and the chain, for a person."""
    print_table(
        ["slice", "method", "verified", "circuit bytes", "ms", "reason"],
        [
            [
                entry.slice,
                entry.method,
                "yes" if entry.verified else "no",
                "" if entry.circuit_size is None else f"{entry.circuit_size:,}",
                f"{1000 * entry.time:.3f}",
                entry.reason,
            ]
            for entry in found.execution_results
        ],
    )
    click.echo(
        f"\nclass {found.predicted_class}; overall security {found.overall_security:.4g}%: "
        f"{found.proved} proved, {found.replayed} replayed, {found.unverified} unverified "
        f"({found.execution_method}, {found.time:.3g} s)"
    )


@command.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--inputs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Held-out examples on which circuits and ONNX are compared, by witness.",
)
@click.option("--prove/--witness", default=True, help="Prove the example, or compute witnesses.")
@json_option
def compare(models: tuple[Path, ...], inputs: int, prove: bool, as_json: bool) -> int:
    """Compare whole model, slices and circuits: answer, security, time, size and error.

    MODELS are models/doom and models/net where none is named. Everything is measured now, from the
    circuits that are set up; where there are none, the tables say so.
    """
    from interlock.verified.compare import compare as compare_model
    from interlock.verified.examples import read_examples
    from interlock.verified.runner import Runner

    found = []
    with warnings_told():
        for model in models or (Path("models/doom"), Path("models/net")):
            runner = Runner(model)
            examples = read_examples(runner)[0][:inputs] if inputs else None
            found.append(compare_model(runner, examples, prove=prove))
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
                f"logit, same class on {entry.many.same_class}, {entry.many.refused} out of range"
            )


@command.command()
@MODEL
@click.option(
    "--inputs",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Held-out examples that go through slices and circuits.",
)
@json_option
def deploy(model: Path, inputs: int, as_json: bool) -> int:
    """Validate MODEL for production: files, slices, modes, limits, bad input, error, accuracy.

    Exit code 1 where a check failed.
    """
    from interlock.verified.deployment import deploy_production
    from interlock.verified.runner import Runner

    with warnings_told() as told:
        checks = deploy_production(Runner(model), inputs=inputs)
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


command.add_command(prove)
command.add_command(verify)
