"""`interlock detect train`: a bundle fitted further to the user's own texts."""

from __future__ import annotations

from pathlib import Path

import click

from interlock.cli.output import json_option, print_json
from interlock.errors import InputError


@click.command()
@click.option(
    "--data",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="Labelled texts: parquet, CSV or JSON lines; may be given several times.",
)
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The bundle to begin with, instead of the shipped one.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory of the new bundle.",
)
@click.option(
    "--rate",
    type=float,
    default=0.01,
    show_default=True,
    help="Share of harmless texts that may reach the new threshold.",
)
@click.option(
    "--held-out",
    type=float,
    default=0.3,
    show_default=True,
    help="Share of the texts that the threshold is chosen on.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the held-out texts.")
@json_option
def train(
    files: tuple[Path, ...],
    bundle: Path | None,
    output: Path,
    rate: float,
    held_out: float,
    seed: int,
    as_json: bool,
) -> int:
    """Fit a detector's bundle further to your own labelled texts.

    The n-gram weights and the encoder's last layer move towards the texts; the encoder itself
    stays. The threshold is chosen on texts that the fit did not see.
    """
    from interlock.detect.labelled import read_labelled
    from interlock.detect.model import SHIPPED
    from interlock.detect.rules import load_pack
    from interlock.detect.training.adapt import adapt
    from interlock.kernel.outcome import Status
    from interlock.kernel.progress import open_progress

    if bundle is None and not SHIPPED.is_dir():
        raise InputError("this package ships no detector bundle", hint="name one with --bundle")
    rows = [row for path in files for row in read_labelled(path)]
    with open_progress("texts", total=len(rows)) as progress:
        found = adapt(
            rows,
            bundle or SHIPPED,
            output,
            load_pack(),
            rate=rate,
            held_out=held_out,
            seed=seed,
            told=lambda stage, done, of: progress.advance({Status.ACCEPTED: 1}),
        )
    if as_json:
        print_json(
            {
                "bundle": found.bundle.digest,
                "threshold": found.threshold,
                "rate": rate,
                "held_out": {"attacks": found.attacks, "harmless": found.harmless},
                "before": found.before,
                "after": found.after,
            }
        )
        return 0
    click.echo(f"{output}: {found.bundle.digest}")
    click.echo(
        f"on {found.attacks} attacks and {found.harmless} harmless texts that were held out: "
        f"recall at a false-positive rate of {rate:g} {found.before['recall']:.3f} before, "
        f"{found.after['recall']:.3f} after; area under the ROC curve {found.before['auc']:.3f}, "
        f"{found.after['auc']:.3f}; threshold {found.threshold:.4f}"
    )
    return 0
