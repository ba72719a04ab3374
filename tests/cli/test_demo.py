"""The demonstration, as `make demo` runs it, with fewer requests."""

import json
from pathlib import Path

import pytest

from interlock.cli.app import run


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
    html = Path(found["report"]).read_text(encoding="utf-8")
    assert found["bundle"] in html


def test_too_few_requests_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new"
    assert run(["demo", "--requests", "5", "--output", str(output)]) == 2
    assert "--requests is 5" in capsys.readouterr().err
    assert not output.exists()
