"""What the verbs of `interlock verified` share: options, warnings and the chain as a table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.output import print_table, printable_lines

if TYPE_CHECKING:
    from interlock.verified.result import InferenceResult
    from interlock.verified.slices import SlicedModel

MODEL = click.argument("model", type=click.Path(path_type=Path))
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


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
                    click.echo(f"warning: {printable_lines(str(entry.message))}", err=True)


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


def prover_options(function: Any) -> Any:
    """Add where keys and the structured reference string are to a verb."""
    options = (
        click.option(
            "--srs",
            type=click.Path(exists=True, resolve_path=True, path_type=Path),
            help="SRS file, or directory of kzg<logrows>.srs; without it a development SRS is "
            "made here, which is not sound against whoever made it.",
        ),
        click.option("--srs-digest", "srs_sha256", help="Digest that the SRS file must have."),
        click.option(
            "--cache",
            type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
            help="Directory of keys and circuits; the user's cache by default.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def sliced_model(model: Path) -> SlicedModel:
    """The model's slices: those on disk, or, without any, a cut before each layer."""
    from interlock.verified.directory import Cuts, ModelDirectory, cut, read_slices

    directory = ModelDirectory.find(model)
    data = directory.read_model()
    found = read_slices(directory, data)
    return cut(data, Cuts()) if found is None else found[0]


def print_result(found: InferenceResult) -> None:
    """The answer and the chain, for a person."""
    from interlock.verified.result import weaknesses

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
    for sentence in weaknesses(found):
        click.echo(sentence)
