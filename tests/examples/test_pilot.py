"""The pilot's scripts as a user runs them: against a service on loopback, and a local model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.fake_llm import FakeLLM, Plan
from support.markdown import ROOT

from interlock.engines.model_packages import weights_directory

EXAMPLES = ROOT / "examples"


def script(
    name: str, *arguments: object, code: int = 0, environment: Mapping[str, str] | None = None
) -> str:
    """What an example prints; its exit code is checked. No key of the user's is passed on."""
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**clean, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The small test's configuration, for another type of model."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {
                "prompts_file": str(EXAMPLES / "prompts_small.json"),
                "output_dir": str(tmp_path / "out"),
                "models": [
                    {
                        "name": "gpt-4o-mini",
                        "type": "openai",
                        "temperature": 0.0,
                        "api_key": "${PILOT_KEY}",
                        "base_url": "${PILOT_URL}",
                    }
                ],
            }
        )
    )
    return path


def test_the_pilots_scripts_check_and_run(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    assert "PILOT_KEY is not set" in script("validate_setup.py", "--config", config, code=1)
    with FakeLLM(Plan()) as server:
        environment = {"PILOT_KEY": "sk-of-the-pilot", "PILOT_URL": server.openai}
        assert "ready to run" in script(
            "validate_setup.py", "--config", config, environment=environment
        )
        assert server.counts().requests == 0
        script("run_pilot.py", "--config", config, "--num-prompts", 5, environment=environment)
        assert server.counts().requests == 5
    (combined,) = (tmp_path / "out").glob("pilot_results_*.json")
    (only,) = (tmp_path / "out").glob("pilot_gpt-4o-mini_*.json")
    results = json.loads(combined.read_text())["runs"][0]["results"]
    assert results == json.loads(only.read_text())["runs"][0]["results"]
    assert {result["is_synthetic_probe"] for result in results} == {False, True}
    assert "sk-of-the-pilot" not in combined.read_text()


def test_the_test_runner_says_where_no_model_can_be_asked(tmp_path: Path) -> None:
    out = script("test_runner.py", environment={"XDG_CACHE_HOME": str(tmp_path)})
    assert "no model can be asked" in out


@pytest.mark.torch
@pytest.mark.skipif(not (weights_directory() / "smollm2").exists(), reason="see `make model-torch`")
def test_the_quick_test_runs_on_this_machine(tmp_path: Path) -> None:
    config = EXAMPLES / "config_small_test.json"
    script(
        *("run_pilot.py", "--config", config, "--num-prompts", 2, "--output", tmp_path / "out"),
        environment={"HF_HUB_OFFLINE": "1"},
    )
    (combined,) = (tmp_path / "out").glob("pilot_results_*.json")
    results = json.loads(combined.read_text())["runs"][0]["results"]
    assert all(len(result["token_logprobs"][0]["top_tokens"]) == 5 for result in results)
