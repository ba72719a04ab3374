"""`interlock strict report`: what it prints and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundles import strict_bundle

from interlock.bundle import REPORTS
from interlock.cli.app import run


def test_it_prints_what_was_found_and_writes_the_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = strict_bundle(tmp_path / "b").digest
    assert run(["strict", "report", str(tmp_path / "b"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["digest"] == digest
    assert {Path(path).name for path in document["files"]} == REPORTS
    assert all(Path(path).exists() for path in document["files"])
    assert document["smoke"][0]["mask_mismatches"] == 0
    assert run(["strict", "report", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert digest in out
    assert "how often an accepted answer is wrong" in out


def test_a_bundle_that_fails_its_checks_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict_bundle(tmp_path / "b")
    (tmp_path / "b" / "metadata.json").write_bytes(b"{}")
    assert run(["strict", "report", str(tmp_path / "b"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bundle_integrity"
    assert not REPORTS & {path.name for path in (tmp_path / "b").iterdir()}


def test_another_digest_than_the_expected_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict_bundle(tmp_path / "b")
    wrong = "sha256:" + "0" * 64
    assert run(["strict", "report", str(tmp_path / "b"), "--expected-digest", wrong]) == 1
    assert "expected sha256:000" in capsys.readouterr().err
