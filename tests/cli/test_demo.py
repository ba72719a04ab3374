"""The demonstration, as `make demo` runs it, with fewer requests."""

import json
from pathlib import Path

import pytest

from interlock.cli.app import run
from interlock.kernel.route import BatchVerdict
from interlock.strict.arm.route import JacobianGuard


def test_the_demo_keeps_its_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice in one directory: the second finds the first one's journal there."""
    for _ in range(2):
        assert run(["demo", "--requests", "1000", "--output", str(tmp_path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["requests"] == sum(found["counts"].values()) == 1000
        assert found["unsafe"] == 0
        assert found["answered"] >= 0.95
        assert found["masks"]["accepted"] >= 600
        assert found["tampered"]["code"] == "bundle_integrity"
        assert found["journal"]["lost"] == found["journal"]["repeated"] == 0
        assert found["journal"]["acknowledged"] >= 500
        assert found["broken"] == []
    html = Path(found["report"]).read_text(encoding="utf-8")
    assert found["bundle"] in html


def test_a_fault_ends_it_with_1_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JacobianGuard, "check_batch", lambda self, inputs, answer: BatchVerdict())
    assert run(["demo", "--requests", "1000", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "broken promise: " in said
    assert "answers are unsafe by the independent judge" in said


def test_too_few_requests_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new"
    assert run(["demo", "--requests", "999", "--output", str(output)]) == 2
    assert "--requests is 999" in capsys.readouterr().err
    assert not output.exists()
