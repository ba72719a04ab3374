"""Validation reports of strict bundles, written beside the bundle's own files.

    python -m interlock.strict.report bundle DIR

Loading a bundle never reads them. Nothing is written about a bundle that fails its checks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from interlock.bundle.manifest import manifest_of
from interlock.bundle.publish import add_unlisted
from interlock.errors import InterlockError, UsageError
from interlock.report.page import render
from interlock.strict.report_markdown import SUMMARY_SVG, markdown
from interlock.strict.report_page import build, summary
from interlock.strict.validation import Validation, validate

REPORT_MD = "VALIDATION_REPORT.md"
REPORT_HTML = "VALIDATION_REPORT.html"
SUMMARY_JSON = "VALIDATION_REPORT.summary.json"

SUMMARY_SCHEMA = 1


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and what was found."""

    markdown: Path
    html: Path
    summary_json: Path
    summary_svg: Path
    found: Validation


def write_report(
    directory: str | os.PathLike[str],
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    now: datetime | None = None,
) -> ReportFiles:
    """Validate the strict bundle in `directory` and write its four reports into it.

    now  the time that the reports bear; by default the clock's

    The same bundle, environment and time give the same bytes. Each file is replaced in one step.
    Raises what `interlock.strict.validation.validate` raises, with nothing written, and BundleError
    where the directory cannot be written.
    """
    found = validate(
        directory, expected_digest=expected_digest, require_signature=require_signature
    )
    written = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    reports = {
        REPORT_MD: markdown(found, written),
        REPORT_HTML: render(build(found, written)),
        SUMMARY_SVG: summary(found),
        SUMMARY_JSON: _json(summary_document(found, written)),
    }
    place = Path(directory)
    add_unlisted(
        place,
        {name: text.encode() for name, text in reports.items()},
        manifest_of(found.bundle.files).encode(),
    )
    return ReportFiles(
        markdown=place / REPORT_MD,
        html=place / REPORT_HTML,
        summary_json=place / SUMMARY_JSON,
        summary_svg=place / SUMMARY_SVG,
        found=found,
    )


def summary_document(found: Validation, written: str) -> dict[str, Any]:
    """The content of `VALIDATION_REPORT.summary.json`."""
    metadata = found.bundle.metadata
    return {
        "schema_version": SUMMARY_SCHEMA,
        "name": metadata.name,
        "bundle": found.bundle.digest,
        "inputs": metadata.inputs,
        "outputs": metadata.outputs,
        "batch_axis": metadata.batch_axis,
        "strict": metadata.strict,
        "certificate": found.certificate,
        "abstention": found.abstention,
        "guarantee": found.guarantee,
        "smoke": found.smoke,
        "files": found.files,
        "signature": found.signature,
        "signed_by": found.bundle.signed_by,
        "expected_digest_given": found.expected_digest,
        "not_checked": found.not_checked,
        "environment": dict(found.environment),
        "written": written,
    }


def _json(document: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m interlock.strict.report`; returns the exit code, 1 for a bundle that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m interlock.strict.report", description="Write validation reports."
    )
    parser.add_argument("what", choices=["bundle"])
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--expected-digest", help="sha256:<hex> that you trust")
    parser.add_argument(
        "--require-signature", type=Path, metavar="KEY", help="PEM file of the EC public key"
    )
    given = parser.parse_args(arguments)
    try:
        files = write_report(
            given.directory,
            expected_digest=given.expected_digest,
            require_signature=given.require_signature,
        )
    except InterlockError as error:
        print(f"interlock: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(files.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
