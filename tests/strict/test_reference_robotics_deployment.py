"""The reference deployment: with the shipped weights, and truly trained, certified or not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.arm_judge import relative_error

from interlock.bundle import load
from interlock.errors import ConfigError, RunLockedError
from interlock.strict import load_onnx_runtime_bundle
from interlock.strict.arm.requests import sample_requests
from interlock.strict.reference_robotics_deployment import (
    ReferenceRoboticsDeploymentArtifacts,
    ReferenceRoboticsDeploymentConfig,
    Say,
    main,
    run_reference_robotics_deployment,
)

SMALL = {"n_calibration": 3_000, "n_requests": 600}
UNSAFE = 0.05


def deploy(
    place: Path, on_progress: Say | None = None, **changes: Any
) -> ReferenceRoboticsDeploymentArtifacts:
    config = ReferenceRoboticsDeploymentConfig(**{"output_dir": place, **SMALL, **changes})
    return run_reference_robotics_deployment(config, on_progress=on_progress)


def audit(found: ReferenceRoboticsDeploymentArtifacts) -> list[dict[str, Any]]:
    lines = found.strict_inference_audit_path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def check_outputs(found: ReferenceRoboticsDeploymentArtifacts) -> list[dict[str, Any]]:
    """Every output is there and agrees with the others; returns the audit."""
    digest = found.bundle.digest
    assert load(found.bundle_dir, expected_digest=digest).digest == digest
    assert found.bundle_model_path.read_bytes() == found.bundle.files["model.onnx"]
    assert found.bundle_metadata_path.exists()
    assert digest in found.validation_report_path.read_text(encoding="utf-8")
    summary = json.loads(found.inference_summary_path.read_bytes())
    assert summary == json.loads(json.dumps(found.inference_summary))
    assert summary["bundle"] == digest
    contract = json.loads(found.output_contract_path.read_bytes())
    for name, entry in contract["files"].items():
        data = (found.output_dir / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    files = {
        str(path.relative_to(found.output_dir))
        for path in found.output_dir.rglob("*")
        if path.is_file()
    }
    assert files == {*contract["files"], "output_contract.json"}
    assert contract["strict"]["output_order"] == ["decoded", "bottom_mask", "gap_mask"]

    lines = audit(found)
    assert len(lines) == summary["requests"]
    theta, v = (np.array([line[name] for line in lines]) for name in ("theta", "v"))
    rows = [index for index, line in enumerate(lines) if line["resolved"] is not None]
    resolved = np.array([lines[index]["resolved"] for index in rows])
    error = relative_error(theta[rows], v[rows], resolved)
    assert (error <= UNSAFE).all()
    assert len(rows) == summary["route"]["answered"]["count"] >= 0.9 * len(lines)
    by_model = sum(line["answered_by"] == "model" for line in lines)
    assert by_model == summary["route"]["answered_by"]["model"]
    for line in lines:
        if any(line["bottom_mask"]):
            assert line["answered_by"] != "model"
            assert line["steps"][0]["result"] == "refused"
        assert (line["resolved"] is None) == (line["status"] in ("refused", "failed"))
    return lines


def test_shipped_weights_are_certified_and_serve_most_requests(tmp_path: Path) -> None:
    found = deploy(tmp_path / "out", weights="shipped")
    lines = check_outputs(found)
    assert found.certified
    runtime = load_onnx_runtime_bundle(found.bundle_dir)
    assert runtime.certificate is not None
    assert runtime.certificate.tau == runtime.config.tau_infer
    assert sum(line["answered_by"] == "model" for line in lines) >= 0.6 * len(lines)
    recorded = json.loads(found.calibration_path.read_bytes())
    assert recorded["certificate"]["data"] == runtime.certificate.data
    assert recorded["abstention"] is None
    assert "**No certificate.**" not in found.validation_report_path.read_text(encoding="utf-8")
    assert 'class="line' in found.validation_report_html_path.read_text(encoding="utf-8")


def test_too_few_held_out_requests_close_the_bundle(tmp_path: Path) -> None:
    """No certificate, no answers of the model: not one finite value comes out of the bundle."""
    found = deploy(tmp_path / "out", weights="shipped", n_calibration=100)
    lines = check_outputs(found)
    assert not found.certified
    assert {line["answered_by"] for line in lines} == {"analytic", None}
    recorded = json.loads(found.calibration_path.read_bytes())
    assert recorded["certificate"] is None
    assert recorded["abstention"]["reason"]
    report = found.validation_report_path.read_text(encoding="utf-8")
    assert f"The calibration abstained: {recorded['abstention']['reason'][:20]}" in report

    runtime = load_onnx_runtime_bundle(found.bundle_dir)
    assert runtime.certificate is None
    decoded, bottom, gap = runtime.run(sample_requests(20_000, 77).x)
    assert np.isnan(decoded).all()
    assert bottom.all()
    assert not gap.any()


def test_running_again_replaces_its_own_outputs_and_nothing_else(tmp_path: Path) -> None:
    first = deploy(tmp_path, weights="shipped")
    (tmp_path / "mine.txt").write_text("kept")
    second = deploy(tmp_path, weights="shipped", seed=8)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    (tmp_path / "mine.txt").unlink()
    assert first.bundle.digest != second.bundle.digest
    check_outputs(second)


def test_something_else_in_the_bundles_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "precious").write_text("kept")
    with pytest.raises(ConfigError, match="is not a bundle"):
        deploy(tmp_path, weights="shipped")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "precious"]


def test_a_second_run_into_the_same_directory_says_so_and_stops(tmp_path: Path) -> None:
    """The second starts at each line of progress of the first, from its start to its reports."""
    refused = []

    def second(line: str) -> None:
        with pytest.raises(RunLockedError, match="another run is writing to"):
            deploy(tmp_path, weights="shipped", seed=8)
        refused.append(line)

    first = deploy(tmp_path, second, weights="shipped")
    assert len(refused) > 4
    check_outputs(first)
    check_outputs(deploy(tmp_path, weights="shipped", seed=8))


def test_the_second_of_two_processes_ends_with_exit_code_1_and_a_killed_one_holds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys\n"
        "from interlock.strict import reference_robotics_deployment as reference\n"
        "config = reference.ReferenceRoboticsDeploymentConfig(\n"
        "    weights='shipped', output_dir=sys.argv[1]\n"
        ")\n"
        "def stop(line):\n"
        "    print(line, flush=True)\n"
        "    sys.stdin.read()\n"
        "reference.run_reference_robotics_deployment(config, on_progress=stop)\n"
    )
    arguments = ["--weights", "shipped", "--n-calibration", "1000", "--n-requests", "200"]
    arguments += ["--output-dir", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("taking the shipped weights")
        assert main(arguments) == 1
        assert f"another run is writing to {tmp_path}" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        first.kill()
    assert main(arguments) == 0
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": "0.1"},
        {"epochs": 0},
        {"n_samples": -1},
        {"n_requests": 1.5},
        {"weights": "mine"},
        {"alpha": 1.0},
        {"delta": 0.0},
        {"alpha": 1e-12},
        {"near_singular": 2},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused_before_any_work(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        ReferenceRoboticsDeploymentConfig(**changes)


def test_the_command_needs_no_torch_for_the_shipped_weights(tmp_path: Path) -> None:
    block = "import sys; sys.modules['torch'] = None\n"
    code = (
        f"{block}from interlock.strict.reference_robotics_deployment import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--n-calibration", "1000", "--n-requests", "200", "--output-dir", str(tmp_path)]
    shipped = subprocess.run(
        [sys.executable, "-c", code, "--weights", "shipped", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert shipped.returncode == 0, shipped.stderr
    assert "200 requests" in shipped.stdout
    trained = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert trained.returncode == 2
    assert "interlock[torch]" in trained.stderr


def test_a_wrong_value_on_the_command_line_is_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--epochs", "0"]) == 2
    assert "epochs is 0" in capsys.readouterr().err


@pytest.mark.torch
def test_two_epochs_of_six_thousand_samples(tmp_path: Path) -> None:
    """As the documents run it, with fewer requests: it trains, and says honestly what came of it.

    Other releases of torch give other weights, so whether it is certified is not asserted.
    """
    found = deploy(tmp_path, n_calibration=20_000)
    lines = check_outputs(found)
    provenance = found.bundle.metadata.provenance
    assert (provenance["epochs"], provenance["n_samples"]) == (2, 6000)
    answered = sum(line["answered_by"] == "model" for line in lines)
    assert (answered > 0) == found.certified


@pytest.mark.torch
def test_more_epochs_are_certified(tmp_path: Path) -> None:
    found = deploy(tmp_path, epochs=12, n_calibration=20_000)
    lines = check_outputs(found)
    assert found.certified
    assert sum(line["answered_by"] == "model" for line in lines) > 0.2 * len(lines)


@pytest.mark.torch
def test_too_little_training_abstains_and_says_so(tmp_path: Path) -> None:
    found = deploy(tmp_path, epochs=1, n_samples=64)
    lines = check_outputs(found)
    assert not found.certified
    assert all(line["answered_by"] != "model" for line in lines)
    assert "abstained" in found.inference_summary["calibration"]
    assert "**No certificate.**" in found.validation_report_path.read_text(encoding="utf-8")


@pytest.mark.torch
def test_interrupting_the_training_leaves_the_earlier_outputs(tmp_path: Path) -> None:
    earlier = deploy(tmp_path, weights="shipped")
    command = [sys.executable, "-m", "interlock.strict.reference_robotics_deployment"]
    command += ["--epochs", "1000000", "--output-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith("training on")
        running.send_signal(signal.SIGINT)
        errors = running.stderr.read()
        # Interrupted inside the import of torch, Python itself ends by the signal.
        assert running.wait(timeout=60) in (130, -signal.SIGINT), errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    check_outputs(earlier)
