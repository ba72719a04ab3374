"""Validation reports: what stands in them, what they refuse, and that loading ignores them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from support.bundles import (
    plain_metadata,
    plain_model,
    strict_bundle,
    strict_metadata,
    strict_model,
)

from interlock.bundle import REPORTS, load, pack
from interlock.engines.onnx import OnnxSession
from interlock.errors import (
    BundleContractError,
    BundleError,
    BundleFormatError,
    BundleIntegrityError,
    SignatureError,
)
from interlock.strict import calibrate_tau, risk_coverage
from interlock.strict.calibration_record import Abstention, curve_of, extensions_of
from interlock.strict.certified import attach_certificate
from interlock.strict.report import main, write_report
from interlock.strict.report_page import build
from interlock.strict.validation import run_again, validate

CURVE: dict[str, Any] = {
    "tau": [1.0, 0.5],
    "coverage": [0.1, 1.0],
    "risk": [0.0, 0.5],
    "low": [0.0, 0.4],
    "high": [0.2, 0.6],
    "area": 0.1,
    "n": 10,
    "confidence": 0.95,
    "alpha": 0.01,
}
ABSTENTION: dict[str, Any] = {
    "reason": "too few rows",
    "alpha": 0.01,
    "delta": 0.05,
    "n": 7,
    "pilot": 1,
    "split": "held_out",
}
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def held_out(n: int = 4_000) -> tuple[Any, Any]:
    """|Q| above the test bundle's tau, and losses that fall with it."""
    rng = np.random.default_rng(11)
    q_abs = rng.uniform(0.1, 1.0, n).astype(np.float32)
    return q_abs, rng.random(n) < 0.002 / q_abs


def certified_bundle(directory: Path) -> None:
    """The test bundle with a certificate for its own tau and the curve of the same rows."""
    q_abs, loss = held_out()
    curve = curve_of(risk_coverage(q_abs, loss), 0.02)
    model = strict_model()
    tau = np.float32(1e-3)
    metadata = strict_metadata(model)
    assert metadata.strict is not None
    strict = msgspec.structs.replace(metadata.strict, tau_infer=float(tau))
    pack(directory, model, msgspec.structs.replace(metadata, strict=strict), probe=False)
    found = calibrate_tau(q_abs, loss, 0.02, 0.05, start=float(tau), lowest=float(tau))
    assert found.certificate is not None, found.reason
    attach_certificate(directory, found.certificate, curve=curve)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_the_four_reports_stand_beside_the_bundle_which_loads_as_before(tmp_path: Path) -> None:
    digest = strict_bundle(tmp_path / "b").digest
    files = write_report(tmp_path / "b", now=NOW)
    assert names(tmp_path / "b") == {"manifest.json", "metadata.json", "model.onnx", *REPORTS}
    assert names(tmp_path) == {"b"}
    assert load(tmp_path / "b", expected_digest=digest).digest == digest

    summary = json.loads(files.summary_json.read_bytes())
    text = files.markdown.read_text(encoding="utf-8")
    html = files.html.read_text(encoding="utf-8")
    for report in (text, html):
        assert digest in report
        for file in summary["files"]:
            assert file["sha256"] in report
        for name in ("decoded", "bottom_mask", "gap_mask", "not signed", "What was not checked"):
            assert name in report
        assert "0.001" in report
        assert "2026-03-04T05:06:07+00:00" in report
    assert "**No certificate.**" in text
    assert summary["certificate"] is None
    assert summary["smoke"][0]["rows"] == 3
    assert summary["smoke"][0]["mask_mismatches"] == 0
    assert len(summary["not_checked"]) >= 5


def test_one_bundle_and_one_time_give_the_same_bytes(tmp_path: Path) -> None:
    certified_bundle(tmp_path / "b")
    found = []
    for _ in range(2):
        write_report(tmp_path / "b", now=NOW)
        found.append({name: (tmp_path / "b" / name).read_bytes() for name in REPORTS})
    assert found[0] == found[1]


def test_a_certificate_and_its_curve_are_shown(tmp_path: Path) -> None:
    certified_bundle(tmp_path / "b")
    files = write_report(tmp_path / "b")
    certificate = files.found.certificate
    assert certificate is not None
    text = files.markdown.read_text(encoding="utf-8")
    html = files.html.read_text(encoding="utf-8")
    for report in (text, html):
        assert "at most 2% of the accepted answers are unsafe" in report
        assert certificate.data in report
        assert "No certificate" not in report
    assert 'class="line' in html
    assert 'class="line' in files.summary_svg.read_text(encoding="utf-8")
    assert json.loads(files.summary_json.read_bytes())["certificate"]["n"] == certificate.n


def test_an_abstention_is_told_with_its_reason(tmp_path: Path) -> None:
    abstention = Abstention(
        reason="too few <rows>", alpha=0.01, delta=0.05, n=7, pilot=1, split="held_out"
    )
    strict_bundle(tmp_path / "b", extensions=extensions_of(None, abstention))
    files = write_report(tmp_path / "b")
    assert "The calibration abstained: too few &lt;rows>." in files.markdown.read_text()
    assert "The calibration abstained: too few &lt;rows&gt;." in files.html.read_text()


def test_the_page_needs_nothing_else_and_the_pictures_are_well_formed(tmp_path: Path) -> None:
    certified_bundle(tmp_path / "b")
    files = write_report(tmp_path / "b")
    html = files.html.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|url\(|@import|<script", html)
    root = ElementTree.parse(files.summary_svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_names_and_provenance_cannot_inject_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | [x](y) `z`"
    strict_bundle(tmp_path / "b", name=hostile, provenance={"from": hostile + "\n# heading"})
    files = write_report(tmp_path / "b")
    for path in (files.html, files.summary_svg):
        assert "<script" not in path.read_text(encoding="utf-8")
    ElementTree.parse(files.summary_svg)
    text = files.markdown.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\n# heading" not in text
    assert next(line for line in text.splitlines() if line.startswith("| from")).count(" | ") == 1


def test_a_bundle_that_fails_gets_no_report(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    model = tmp_path / "b" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    before = names(tmp_path / "b")
    with pytest.raises(BundleIntegrityError):
        write_report(tmp_path / "b")
    assert names(tmp_path / "b") == before


def test_an_earlier_report_survives_a_refusal_and_is_replaced_by_a_later_one(
    tmp_path: Path,
) -> None:
    strict_bundle(tmp_path / "b")
    write_report(tmp_path / "b", now=NOW)
    first = (tmp_path / "b" / "VALIDATION_REPORT.md").read_bytes()
    with pytest.raises(BundleIntegrityError):
        write_report(tmp_path / "b", expected_digest="sha256:" + "0" * 64)
    assert (tmp_path / "b" / "VALIDATION_REPORT.md").read_bytes() == first
    write_report(tmp_path / "b")
    assert (tmp_path / "b" / "VALIDATION_REPORT.md").read_bytes() != first


def test_a_smoke_vector_that_does_not_come_out_is_refused(tmp_path: Path) -> None:
    model = strict_model()
    metadata = strict_metadata(model)
    vector = metadata.smoke[0]
    outputs = {**vector.outputs, "decoded": vector.outputs["decoded"] * np.float32(1.5)}
    wrong = msgspec.structs.replace(vector, outputs=outputs)
    pack(tmp_path / "b", model, msgspec.structs.replace(metadata, smoke=(wrong,)), probe=False)
    with pytest.raises(BundleContractError):
        write_report(tmp_path / "b")


def test_what_differs_from_a_smoke_vector_is_counted(tmp_path: Path) -> None:
    bundle = strict_bundle(tmp_path / "b")
    session = OnnxSession(bundle.model)
    vector = bundle.metadata.smoke[0]
    same = run_again(session, vector)
    assert (same.mask_mismatches, same.accepted + same.bottom) == (
        0,
        vector.outputs["gap_mask"].size,
    )
    assert same.tolerance_used <= 1

    masks = {**vector.outputs, "bottom_mask": ~vector.outputs["bottom_mask"]}
    flipped = run_again(session, msgspec.structs.replace(vector, outputs=masks))
    assert flipped.mask_mismatches == masks["bottom_mask"].size

    decoded = vector.outputs["decoded"].copy()
    off = np.float32(0.25)
    changed = {**vector.outputs, "decoded": decoded + off}
    moved = run_again(session, msgspec.structs.replace(vector, outputs=changed))
    assert moved.largest_difference == pytest.approx(0.25, rel=1e-3)
    assert moved.tolerance_used > 1

    for value in (np.nan, np.inf):
        decoded = vector.outputs["decoded"].copy()
        decoded[0, 0] = value
        lost = msgspec.structs.replace(vector, outputs={**vector.outputs, "decoded": decoded})
        assert run_again(session, lost).tolerance_used == np.inf


def test_a_model_without_strict_decode_is_refused(tmp_path: Path) -> None:
    model = plain_model()
    pack(tmp_path / "b", model, plain_metadata(model), probe=False)
    with pytest.raises(BundleContractError, match="without strict decode"):
        write_report(tmp_path / "b")


@pytest.mark.parametrize(
    "extension",
    [
        {"risk_coverage": {"tau": [1.0]}},
        {"risk_coverage": "curve"},
        {"risk_coverage": {**CURVE, "risk": [0.0, 2.0]}},
        {"risk_coverage": {**CURVE, "low": [0.0]}},
        {"risk_coverage": {**CURVE, "confidence": -5.0}},
        {"risk_coverage": {**CURVE, "n": 0}},
        {"calibration_abstained": {"reason": 3}},
        {"calibration_abstained": {**ABSTENTION, "alpha": -1.0}},
        {"calibration_abstained": {**ABSTENTION, "reason": "x" * 10_000}},
        {"calibration_abstained": {**ABSTENTION, "reason": "few rows\x1b[2J"}},
        {"calibration_abstained": {**ABSTENTION, "split": "held\nout"}},
        {"calibration": {"tau": 1}},
    ],
)
def test_records_of_a_calibration_that_are_malformed_are_refused(
    extension: dict[str, Any], tmp_path: Path
) -> None:
    strict_bundle(tmp_path / "b", extensions=extension)
    with pytest.raises(BundleFormatError):
        write_report(tmp_path / "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"risk": [0.0, 0.0], "low": [0.0, 0.0]},
        {"risk": [0.0, 5e-324], "alpha": 5e-324},
        {"tau": [1e308, 0.0], "coverage": [0.0, 0.0], "risk": [1.0, 1.0]},
    ],
)
def test_curves_at_the_ends_of_their_ranges_are_drawn(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    strict_bundle(tmp_path / "b", extensions={"risk_coverage": {**CURVE, **changes}})
    files = write_report(tmp_path / "b")
    picture = files.summary_svg.read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    assert not re.search(r"\b(nan|inf)\b", picture)


def test_signatures(tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="needs the extra `sign`")
    from support.keys import write_key_pair

    from interlock.bundle.sign import sign

    (tmp_path / "keys").mkdir()
    private, public = write_key_pair(tmp_path / "keys")
    digest = strict_bundle(tmp_path / "b").digest
    with pytest.raises(SignatureError):
        write_report(tmp_path / "b", require_signature=public)
    sign(tmp_path / "b", private)
    unverified = write_report(tmp_path / "b")
    assert unverified.found.signature == "unverified"
    assert "not verified" in unverified.markdown.read_text()
    verified = write_report(tmp_path / "b", require_signature=public, expected_digest=digest)
    assert verified.found.signature == "verified"
    assert verified.found.bundle.signed_by is not None
    assert verified.found.bundle.signed_by in verified.markdown.read_text()
    assert not any("signature" in line for line in verified.found.not_checked)


def test_a_place_that_cannot_be_written_is_an_error_with_nothing_half_written(
    tmp_path: Path,
) -> None:
    strict_bundle(tmp_path / "b")
    (tmp_path / "b" / "VALIDATION_REPORT.md").mkdir()
    with pytest.raises(BundleError, match="cannot be written"):
        write_report(tmp_path / "b")
    assert names(tmp_path) == {"b"}


def test_the_page_of_a_bundle_without_smoke_vectors(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b", smoke=())
    page = build(validate(tmp_path / "b"), "today")
    assert any("holds no smoke vectors" in block for part in page.sections for block in part.blocks)


def test_the_module_is_a_command(tmp_path: Path) -> None:
    strict_bundle(tmp_path / "b")
    command = [sys.executable, "-m", "interlock.strict.report", "bundle", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("VALIDATION_REPORT.md")
    shutil.rmtree(tmp_path / "b")
    assert main(["bundle", str(tmp_path / "b")]) == 1
