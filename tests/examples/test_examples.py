"""Every example runs, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.markdown import ROOT

# These take arguments and write results; tests/examples/test_pilot.py runs them.
PILOT = {"run_pilot.py", "test_runner.py", "validate_setup.py"}
EXAMPLES = [p for p in sorted((ROOT / "examples").glob("*.py")) if p.name not in PILOT]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_arm_route_file_answers_like_the_shipped_route() -> None:
    from interlock.kernel.route_file import load_route
    from interlock.strict.arm.requests import sample_requests
    from interlock.strict.arm.shipped import open_arm

    _, shipped = open_arm()
    route = load_route(ROOT / "examples" / "arm_route.toml")
    x = sample_requests(500, seed=11).x
    here, there = route.run_batch({"x": x}), shipped.run_batch({"x": x})
    assert (here.status == there.status).all()
    assert here.steps[0].evidence == there.steps[0].evidence
