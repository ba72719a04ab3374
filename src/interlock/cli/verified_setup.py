"""`interlock verified plan` and `setup`: what circuits would take, and making them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.cli.verified_options import (
    MODEL,
    limit_options,
    prover_options,
    sliced_model,
    warnings_told,
)
from interlock.errors import ConfigError

if TYPE_CHECKING:
    from interlock.verified.prover import CircuitPlan


@click.command()
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
    from interlock.verified.default_prover import require_prover
    from interlock.verified.prover import Limits

    limits = Limits(key_bytes, memory_bytes, seconds, circuit_bytes)
    with warnings_told(), require_prover("planning circuits") as prover:
        plans = [prover.plan(part, limits) for part in sliced_model(model).slices]
    _print_plans(plans, as_json)
    return 1 if any(entry.decision == "fallback" for entry in plans) else 0


@click.command()
@MODEL
@limit_options
@click.option("--slice", "names", multiple=True, help="Only this slice; repeatable.")
@prover_options
@json_option
def setup(
    model: Path,
    key_bytes: int | None,
    memory_bytes: int | None,
    seconds: float | None,
    circuit_bytes: int | None,
    names: tuple[str, ...],
    srs: Path | None,
    srs_sha256: str | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Compile the circuits of MODEL's slices and make the keys that are missing.

    Slices that the plan leaves to ONNX are passed over. Exit code 1 where any is.
    """
    from interlock.verified.default_prover import require_prover
    from interlock.verified.metadata import RunnerMetadata
    from interlock.verified.prover import Limits

    limits = Limits(key_bytes, memory_bytes, seconds, circuit_bytes)
    with warnings_told():
        sliced = sliced_model(model)
        unknown = set(names) - {part.name for part in sliced.slices}
        if unknown:
            raise ConfigError(f"--slice is {min(unknown)!r}; the model has no slice of that name")
        with require_prover("making keys", srs=srs, srs_sha256=srs_sha256, cache=cache) as prover:
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
