"""Every documented block of strict inference as it is written, one after the other, in one session.

`tests/fixtures/strict_calls.md` holds them; `test_documented_calls.py` looks at what each gives.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.markdown import ROOT, blocks
from support.projective import pairs

BLOCKS = blocks(ROOT / "tests" / "fixtures" / "strict_calls.md")
PYTHON = [block.text for block in BLOCKS if block.language == "python"]
SHELL = [block.text for block in BLOCKS if block.language == "sh"]

NEED_TORCH = ("SCMInferenceWrapper", "export_bundle", "reference_robotics_deployment")
"""Blocks with one of these take a torch model."""


def run(texts: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """The names after all of `texts` ran in the working directory."""
    for text in texts:
        exec(compile(text, text.splitlines()[0], "exec"), given)
    return given


def test_none_is_left_out() -> None:
    assert len(PYTHON) == 11
    assert len(SHELL) == 2
    assert sum(any(name in text for name in NEED_TORCH) for text in PYTHON) == 3


def test_on_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = pairs(64, 5)
    given: dict[str, Any] = {"P": x[:, :1], "Q": x[:, 2:], "x": x}
    given["solver"] = lambda rows: rows[:, :1] + 1
    given |= {"q_abs_held_out": np.abs(x[:, 2]), "is_in_range": x[:, 0] < 1}
    given["direction_logits"] = x[:, :2]
    texts = [text for text in PYTHON if not any(name in text for name in NEED_TORCH)]
    found = run(texts, dict(given))
    assert found["accept_mask"].dtype == np.bool_
    assert type(found["resolved"]) is type(found["class_id"]) is np.ndarray
    assert (tmp_path / "results" / "tau_calibration").is_dir()
    assert all(np.array_equal(found[name], given[name]) for name in ("P", "Q", "x"))


@pytest.mark.torch
def test_on_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch")
    Module: Any = torch.nn.Module

    class Columns(Module):  # type: ignore[misc]
        def forward(self, x: Any) -> tuple[Any, Any]:
            return x[:, :2] * 2.0, x[:, 2:] * 1.0

    monkeypatch.chdir(tmp_path)
    x_numpy = pairs(64, 5)
    x = torch.from_numpy(x_numpy)
    given = {"model": Columns(), "x": x, "x_example": x, "x_smoke": x, "x_numpy": x_numpy}
    given |= {"P": x[:, :1], "Q": x[:, 2:], "solver": lambda rows: rows[:, :2] + 1}
    given |= {"q_abs_held_out": x[:, 2].abs(), "is_in_range": x[:, 0] < 1}
    given["direction_logits"] = x[:, :2]
    found = run(PYTHON, given)
    # What the bundle's runtime gave, arrays, went on to the fallbacks and the monitor.
    assert type(found["resolved"]) is np.ndarray
    assert found["state"]["n"] == found["rates"]["n"] == 128
    assert torch.is_tensor(found["class_id"])
    assert found["artifacts"].bundle_model_path.exists()

    for line in SHELL:
        program, *arguments = shlex.split(line)
        assert program == "python"
        if arguments[0] != "-m":
            arguments[0] = str(ROOT / arguments[0])
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    place = tmp_path / "results" / "reference_deploy_robotics"
    assert {path.name for path in place.iterdir()} == {
        "bundle",
        "calibration",
        "inference_summary.json",
        "output_contract.json",
        "strict_inference_audit.jsonl",
    }
