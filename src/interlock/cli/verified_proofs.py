"""`interlock verified prove` and `verify`: make a proof bundle, and check one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.output import json_option, print_json, print_table, printable_lines
from interlock.cli.verified_options import prover_options
from interlock.errors import ConfigError

if TYPE_CHECKING:
    from interlock.verified.chain import ChainRun
    from interlock.verified.proof_verify import Verdict
    from interlock.verified.prover import CircuitPlan

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PATH = click.Path(path_type=Path)

_EXCLUDED = "excluded: verified_slices says false in the model's metadata"


@click.command()
@click.argument("model", type=_PATH)
@click.option("--output", "-o", type=_PATH, required=True, help="Directory of the proof bundle.")
@click.option("--input", "given", type=_FILE, help="JSON file with input_data; MODEL/input.json.")
@click.option("--slice", "names", multiple=True, help="Prove only this slice; repeatable.")
@click.option("--key-bytes", type=int, help="Largest proving key of any one circuit.")
@click.option("--memory-bytes", type=int, help="Most memory of any one prover.")
@click.option("--seconds", type=float, help="Longest time to prove one slice, as predicted.")
@click.option("--deadline", type=float, help="Seconds for everything; stops with an error.")
@click.option("--workers", type=click.IntRange(min=1), help="Provers at a time; one a core.")
@prover_options
@json_option
def prove(
    model: Path,
    output: Path,
    given: Path | None,
    names: tuple[str, ...],
    key_bytes: int | None,
    memory_bytes: int | None,
    seconds: float | None,
    deadline: float | None,
    workers: int | None,
    srs: Path | None,
    srs_sha256: str | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Answer one input with proofs, and write them as a bundle that anyone can verify.

    Keys that are missing are made first. Slices that the plan leaves to ONNX are in the bundle for
    the verifier to run again. Limits and exclusions in MODEL's metadata count; a slice that --slice
    names is proved all the same. Interrupted, the same command goes on where it was. Exit code 1
    where a slice is not proved.
    """
    from interlock.kernel.clock import Deadline
    from interlock.kernel.outcome import Status
    from interlock.kernel.progress import open_progress
    from interlock.verified.chain import SliceChain
    from interlock.verified.circuit_prover import CircuitProver
    from interlock.verified.directory import Cuts, ModelDirectory, cut, read_slices
    from interlock.verified.inputs import read_inputs
    from interlock.verified.metadata import read_of
    from interlock.verified.planner import combined
    from interlock.verified.proof_bundle import write_bundle
    from interlock.verified.proof_verify import verify_bundle
    from interlock.verified.prover import Limits
    from interlock.verified.steps import Policy

    if output.exists():
        raise ConfigError(f"{output} exists", hint="name a directory that does not exist yet")
    until = Deadline.after(deadline)
    directory = ModelDirectory.find(model)
    data = directory.read_model()
    found = read_slices(directory, data)
    sliced = cut(data, Cuts()) if found is None else found[0]
    optimization: Any = "none" if found is None else found[1].optimization
    unknown = set(names) - {part.name for part in sliced.slices}
    if unknown:
        raise ConfigError(f"--slice is {min(unknown)!r}; the model has no slice of that name")
    inputs = read_inputs(directory.example if given is None else given, sliced.inputs)
    told = read_of(directory, sliced.sha256)
    limits = combined(Limits(key_bytes, memory_bytes, seconds), told.limits)
    kept = output.with_name(f".{output.name}.pieces")
    excluded = {
        part.name: "excluded: not asked for" if names else _EXCLUDED
        for part in sliced.slices
        if (part.name not in names if names else part.name in told.excluded)
    }
    with (
        open_progress("prove") as progress,
        CircuitProver(
            cache,
            srs=srs,
            srs_sha256=srs_sha256,
            workers=workers,
            resume=kept,
            on_piece=lambda piece: progress.advance({Status.ACCEPTED: 1}),
        ) as prover,
    ):
        plans = []
        for part in sliced.slices:
            if part.name in excluded:
                continue
            planned = prover.plan(part, limits)
            progress.note(printable_lines(f"{part.name}: {planned.decision}: {planned.reason}"))
            if planned.decision == "fallback":
                excluded[part.name] = planned.reason
            else:
                planned = prover.setup(part, limits)
            plans.append(planned)
            until.check("setting up")
        policy = Policy(
            record=True,
            excluded=excluded,
            time_limit=told.limits.seconds,
            size_limit=told.limits.circuit_bytes,
        )
        chain = SliceChain(sliced, prover, optimization)
        run = chain.run(inputs, policy, deadline=until)
        digest = write_bundle(output, run, prover, optimization=optimization)
    shutil.rmtree(kept, ignore_errors=True)
    verdict = verify_bundle(output)
    if as_json:
        print_json({"bundle": str(output), "digest": digest, **_document(run, plans, verdict)})
    else:
        _print_run(run, plans)
        _print_verdict(verdict)
    return 0 if verdict.accepted and verdict.proved == verdict.slices else 1


def _document(run: ChainRun, plans: list[CircuitPlan], verdict: Verdict) -> dict[str, Any]:
    return {
        "slices": [
            {
                "slice": entry.part.name,
                "method": entry.method,
                "reason": entry.fallback,
                "proofs": 0 if entry.proof is None else len(entry.proof.pieces),
                "seconds": None if entry.proof is None else entry.proof.seconds,
                "largest_key_bytes": (
                    None
                    if entry.proof is None
                    else max(piece.key_bytes for piece in entry.proof.pieces)
                ),
            }
            for entry in run.slices
        ],
        "plans": plans,
        "verdict": verdict,
    }


def _print_run(run: ChainRun, plans: list[CircuitPlan]) -> None:
    by_name = {plan.slice: plan for plan in plans}
    rows = []
    for entry in run.slices:
        plan, proof = by_name.get(entry.part.name), entry.proof
        rows.append(
            [
                entry.part.name,
                entry.method,
                0 if proof is None else len(proof.pieces),
                "" if plan is None else plan.logrows,
                "" if proof is None else f"{max(p.key_bytes for p in proof.pieces) / 1e6:.1f}",
                "" if plan is None else f"{plan.memory_bytes / 1e6:.0f}",
                "" if proof is None else f"{proof.seconds:.1f}",
                entry.fallback or "",
            ]
        )
    print_table(
        ["slice", "method", "proofs", "logrows", "key MB", "memory MB", "seconds", "reason"], rows
    )


@click.command()
@click.argument("bundle", type=_PATH)
@click.option("--model", type=_PATH, help="Model that the keys must belong to: makes them again.")
@click.option("--srs", type=_PATH, help="SRS file or directory that the proofs must be under.")
@click.option("--cache", type=_PATH, help="Cache with the development SRS, for --model.")
@click.option("--digest", help="SHA-256 of the bundle's manifest.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Difference that a replayed slice may show, as a share of its largest value.",
)
@click.option("--deadline", type=float, help="Seconds for everything.")
@json_option
def verify(
    bundle: Path,
    model: Path | None,
    srs: Path | None,
    cache: Path | None,
    digest: str | None,
    tolerance: float,
    deadline: float | None,
    as_json: bool,
) -> int:
    """Check a proof bundle; needs neither weights of proved slices nor network.

    Prints the verdict with its reasons and what it trusts. Exit code 1 where it is refused.
    """
    from interlock.kernel.clock import Deadline
    from interlock.verified.directory import Cuts, ModelDirectory, cut, read_slices
    from interlock.verified.proof_verify import Against, verify_bundle

    sliced = None
    if model is not None:
        directory = ModelDirectory.find(model)
        data = directory.read_model()
        found = read_slices(directory, data)
        sliced = cut(data, Cuts()) if found is None else found[0]
    against = Against(digest, sliced, srs, cache, tolerance)
    verdict = verify_bundle(bundle, against, deadline=Deadline.after(deadline))
    if as_json:
        print_json(verdict)
    else:
        _print_verdict(verdict)
    return 0 if verdict.accepted else 1


def _print_verdict(verdict: Verdict) -> None:
    click.echo(
        f"\n{'accepted' if verdict.accepted else 'REFUSED'}: {verdict.proved} of {verdict.slices} "
        f"slices proved ({verdict.overall_security:.4g}%), {verdict.replayed} replayed, "
        f"in {verdict.seconds:.3g} s"
    )
    if verdict.digest:
        click.echo(f"bundle sha256:{verdict.digest}")
    for reason in verdict.reasons:
        click.echo(f"  {reason}")
    if verdict.trusted:
        click.echo("trusted:")
    for sentence in verdict.trusted:
        click.echo(f"  - {sentence}")
