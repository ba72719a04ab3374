"""`interlock strict`: calibrate the threshold of strict bundles, and report on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli.output import json_option, print_json, print_table
from interlock.cli.strict_report import report
from interlock.kernel.replace_file import replace_file

if TYPE_CHECKING:
    from interlock.strict.calibrate import Calibration

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(help="Calibrate strict bundles, and report on them.")
def command() -> None:
    """Calibrate strict bundles, and report on them."""


command.add_command(report)


@command.command()
@click.argument("data", type=_FILE)
@click.option("--alpha", type=float, required=True, help="Largest allowed unsafe-accept rate.")
@click.option(
    "--delta", type=float, default=0.05, show_default=True, help="1 minus the confidence."
)
@click.option(
    "--q-abs", "q_name", default="q_abs", show_default=True, help="Array or column of |Q|."
)
@click.option(
    "--loss",
    "loss_name",
    default="loss",
    show_default=True,
    help="Array or column of the loss: 1 (true) where unsafe, or an error with --tolerance.",
)
@click.option("--tolerance", type=float, help="Largest loss that is safe.")
@click.option(
    "--rate",
    type=click.Choice(["accepted", "all"]),
    default="accepted",
    show_default=True,
    help="Unsafe accepts as a share of the accepted rows, or of all rows.",
)
@click.option("--start", type=float, help="Where testing begins; known before DATA was seen.")
@click.option("--lowest", type=float, help="Thresholds below are not considered.")
@click.option("--dtype", help="dtype of the deployed Q, such as float32; that of DATA by default.")
@click.option("--split", default="held_out", show_default=True, help="What the rows are called.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the certificate here.")
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Certify the threshold of this bundle and put the certificate into it.",
)
@json_option
def calibrate(
    data: Path,
    alpha: float,
    delta: float,
    q_name: str,
    loss_name: str,
    tolerance: float | None,
    rate: Any,
    start: float | None,
    lowest: float | None,
    dtype: str | None,
    split: str,
    output: Path | None,
    bundle: Path | None,
    as_json: bool,
) -> int:
    """Choose tau_infer from held-out rows so that accepting is unsafe rarely enough, or abstain.

    DATA is a .npz file with two arrays, or a .csv file with two columns (read as float64): |Q| and
    the loss, one value a row. The rows must be independent draws from what the model will be used
    on, and must not have been trained on. With probability 1 - DELTA the threshold that is printed
    keeps the unsafe-accept rate at or below ALPHA. Exit code 1 where none can be certified.

    With --bundle there is one candidate, the bundle's own tau_infer, in the bundle's dtype; it must
    not have been chosen on the rows of DATA. The certificate changes the bundle's digest and drops
    its signature: sign it afterwards.
    """
    from interlock.cli.columns import read_columns
    from interlock.strict.calibrate import calibrate_tau

    if output is not None:
        _check_output(output, data)
    q_abs, loss = read_columns(data, (q_name, loss_name))
    if bundle is not None:
        dtype, lowest = _bundle_threshold(bundle, {"--lowest": lowest, "--dtype": dtype})
        start = lowest if rate == "accepted" and start is None else start
    found = calibrate_tau(
        q_abs,
        loss,
        alpha,
        delta,
        tolerance=tolerance,
        rate=rate,
        start=start,
        lowest=lowest,
        dtype=dtype,
        split=split,
    )
    digest = None
    if found.certificate is not None and bundle is not None:
        found, digest = _attached(found, bundle, q_abs, loss, tolerance, dtype)
    return _deliver(found, digest, output, as_json)


def _check_output(output: Path, data: Path) -> None:
    """Raise ConfigError for a place where the certificate would destroy something."""
    from interlock.bundle.manifest import MANIFEST
    from interlock.errors import ConfigError

    if output.exists() and output.samefile(data):
        raise ConfigError(f"--output is {output}, which holds the data")
    if (output.parent / MANIFEST).is_file():
        raise ConfigError(
            f"--output is in the bundle {output.parent}, which would load no more",
            hint="--bundle puts the certificate into the bundle's metadata",
        )


def _bundle_threshold(bundle: Path, others: dict[str, object]) -> tuple[str, float]:
    from interlock.errors import ConfigError
    from interlock.strict.runtime import validate_bundle

    for option, value in others.items():
        if value is not None:
            raise ConfigError(f"{option} and --bundle are both given")
    strict = validate_bundle(bundle, probe=False).metadata.strict
    assert strict is not None
    return strict.dtype, strict.tau_infer


def _attached(
    found: Calibration,
    bundle: Path,
    q_abs: Any,
    loss: Any,
    tolerance: float | None,
    dtype: str | None,
) -> tuple[Calibration, str]:
    """The certificate as the bundle keeps it from now on, beside the curve of the same rows."""
    from dataclasses import replace

    from interlock.strict.calibration_record import curve_of
    from interlock.strict.certified import attach_certificate, certificate_of
    from interlock.strict.risk import risk_coverage

    assert found.certificate is not None
    curve = risk_coverage(q_abs, loss, tolerance=tolerance, dtype=dtype)
    attached = attach_certificate(
        bundle, found.certificate, curve=curve_of(curve, found.certificate.alpha)
    )
    return replace(found, certificate=certificate_of(attached)), attached.digest


def _deliver(found: Calibration, digest: str | None, output: Path | None, as_json: bool) -> int:
    certificate, reason = found.certificate, found.reason
    if certificate is not None and output is not None:
        replace_file(output, certificate.to_json())
    document = {
        "abstained": certificate is None,
        "reason": reason,
        "tau": found.tau,
        "certificate": certificate,
        "n": found.n,
        "pilot": found.pilot,
        "bundle": digest,
    }
    if as_json:
        print_json(document)
    elif certificate is None:
        click.echo(f"abstained: {reason}", err=True)
    else:
        rate = f"{certificate.unsafe} of {certificate.tested}"
        print_table(
            ("tau_infer", "coverage", "unsafe", "bound", "alpha"),
            [
                (
                    repr(certificate.tau),
                    f"{certificate.coverage:.2%}",
                    rate,
                    f"{certificate.bound:.4g}",
                    f"{certificate.alpha:g}",
                )
            ],
        )
        if digest is not None:
            click.echo(digest)
    return 1 if certificate is None else 0
