"""`interlock detect train`: a bundle fitted further to one's own labelled texts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from interlock.cli.detect_data import DATA, LABEL, PLACE, SOURCE, TEXT, once, read
from interlock.cli.detect_options import PACK, check_writable
from interlock.cli.output import json_option, print_json, print_table


@click.command()
@DATA
@TEXT
@LABEL
@SOURCE
@PLACE
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the new bundle goes.",
)
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another bundle than the shipped one to begin with.",
)
@click.option("--rules", type=PACK, help="Another rule pack than the shipped one.")
@click.option(
    "--fpr", type=float, default=0.01, show_default=True, help="False-positive rate to keep to."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is held out."
)
@json_option
def train(
    data: tuple[Path, ...],
    text: str,
    label: str,
    source: str,
    place: str,
    output: Path,
    bundle: Path | None,
    rules: Path | None,
    fpr: float,
    seed: int,
    as_json: bool,
) -> int:
    """Fit a bundle further to labelled texts of your own traffic; needs 40 of each class.

    The encoder stays as it is; n-gram weights and the last layer move. The threshold is chosen on
    texts that are held out, and both bundles are compared on them. A text that comes again counts
    once. Needs no torch.
    """
    from interlock.detect.model import SHIPPED
    from interlock.detect.rules import load_pack
    from interlock.detect.training.adapt import adapt
    from interlock.errors import InputError
    from interlock.kernel.outcome import Status
    from interlock.kernel.progress import open_progress

    if not 0 < fpr < 1:
        raise InputError(f"fpr is {fpr}; it must lie between 0 and 1")
    check_writable(output)
    rows = once(read(data, text, label, source, place))
    with ExitStack() as stack:
        progress = stack.enter_context(open_progress("texts", total=len(rows)))
        found = adapt(
            rows,
            bundle or SHIPPED,
            output,
            load_pack(rules),
            rate=fpr,
            seed=seed,
            told=lambda stage, done, of: progress.advance({Status.ACCEPTED: 1}),
        )
    document: dict[str, Any] = {
        "bundle": found.bundle.digest,
        "output": str(output),
        "threshold": found.threshold,
        "before": found.before,
        "after": found.after,
        "held_out": {"attacks": found.attacks, "harmless": found.harmless},
    }
    if found.coarse:
        click.echo(
            f"{found.coarse}\n  hint: find one with `interlock detect calibrate --bundle {output}`",
            err=True,
        )
    if as_json:
        print_json(document)
        return 0
    print_table(
        ("on the texts held out", "before", "after"),
        [
            (
                f"recall at {fpr:.1%} FPR",
                f"{found.before['recall']:.3f}",
                f"{found.after['recall']:.3f}",
            ),
            ("AUC", f"{found.before['auc']:.3f}", f"{found.after['auc']:.3f}"),
        ],
    )
    click.echo(f"\n{found.attacks:,} attacks and {found.harmless:,} harmless texts were held out")
    click.echo(f"threshold {found.threshold:.4f}\n\n{output}")
    return 0
