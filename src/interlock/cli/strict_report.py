"""`interlock strict report`: validate a strict bundle and write the reports beside it."""

from __future__ import annotations

from pathlib import Path

import click

from interlock.cli.output import json_option, print_json


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--expected-digest", help="sha256:<hex> that you trust; any other is refused.")
@click.option(
    "--require-signature",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="KEY",
    help="PEM file of the EC public key that must have signed the bundle.",
)
@json_option
def report(
    directory: Path,
    expected_digest: str | None,
    require_signature: Path | None,
    as_json: bool,
) -> int:
    """Check the strict bundle in DIRECTORY, run its smoke vectors again, and write what was found.

    Writes VALIDATION_REPORT.md, .html, .summary.json and .summary.svg into DIRECTORY, where loading
    ignores them. A bundle that fails its checks gets no report, and the exit code is 1.
    """
    from interlock.strict.report import write_report

    files = write_report(
        directory, expected_digest=expected_digest, require_signature=require_signature
    )
    found = files.found
    if as_json:
        print_json(
            {
                "path": str(directory),
                "digest": found.bundle.digest,
                "signature": found.signature,
                "signed_by": found.bundle.signed_by,
                "certificate": found.certificate,
                "abstention": found.abstention,
                "smoke": found.smoke,
                "not_checked": found.not_checked,
                "files": [
                    str(path)
                    for path in (
                        files.markdown,
                        files.html,
                        files.summary_json,
                        files.summary_svg,
                    )
                ],
            }
        )
    else:
        click.echo(f"sound: {found.bundle.digest}\n{found.guarantee}\n\n{files.html}")
    return 0
