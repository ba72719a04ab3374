"""Runs of real local models: any batch and any interruption gives the same answers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support.tiny_causal import save_tiny_model

from interlock.errors import InterruptedRunError
from interlock.experiment.check import check_experiment
from interlock.experiment.records import PromptResult, read_results
from interlock.experiment.run import RunOptions, run_experiment

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")

QUESTIONS = ["why", "does the question exist", "is a CVE-2021-44228 not yes", "who", "maybe not"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def config(tmp_path: Path, path: Path, **more: Any) -> dict[str, Any]:
    """Greedy and sampled answers of a local model, two of each prompt."""
    prompts = [{"id": f"p{n}", "prompt": QUESTIONS[n % 5] + " no" * (n // 5)} for n in range(10)]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    entry = {
        "name": "tiny",
        "type": "local",
        "temperature": [0.0, 1.0],
        "device": "cpu",
        "model_path": str(path),
    }
    return {
        "prompts_file": str(tmp_path / "prompts.json"),
        "output_dir": str(tmp_path / "out"),
        "samples": 2,
        "max_tokens": 12,
        "logprobs": 5,
        "models": [entry | more],
    }


def texts(results: list[PromptResult]) -> dict[tuple[str, str, int], str]:
    """The answers by variant, prompt and index."""
    return {(r.variant, r.prompt_id, r.sample_index): r.full_response for r in results}


def test_answers_do_not_depend_on_the_batch_or_on_an_interruption(
    tmp_path: Path, model: Path
) -> None:
    alone = config(tmp_path, model, batch_size=1) | {"output_dir": str(tmp_path / "alone")}
    run_experiment(alone, display=None)
    together = config(tmp_path, model, batch_size=8)
    stop, seen = threading.Event(), []

    def stop_after_ten(key: str, outcome: Any) -> None:
        seen.append(key)
        if len(seen) == 10:
            stop.set()

    with pytest.raises(InterruptedRunError):
        run_experiment(together, display=None, stop=stop, on_result=stop_after_ten)
    run_experiment(together, options=RunOptions(resume=True), display=None)
    first = list(read_results(tmp_path / "alone"))
    second = list(read_results(tmp_path / "out"))
    assert len(first) == 40
    # A draw may fall on the other side of a boundary that rounding moves; hardly any does.
    same = [texts(first)[name] == text for name, text in texts(second).items()]
    assert sum(same) >= 0.9 * len(same)
    greedy = [r for r in second if r.sampling_params["temperature"] == 0.0]
    assert all(
        texts(first)[r.variant, r.prompt_id, r.sample_index] == r.full_response for r in greedy
    )
    # Two samples of a prompt differ by their seeds alone.
    sampled = {r.full_response for r in second if r.prompt_id == "p0" and "temp1.0" in r.variant}
    assert len(sampled) == 2
    logprobs = second[0].token_logprobs
    assert logprobs is not None
    assert [len(each["top_tokens"]) for each in logprobs] == [5] * len(logprobs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no tokenizer", "tokenizer"),
        ("no directory", "not found"),
        ("cuda", "cuda"),
    ],
)
def test_check_finds_a_model_that_cannot_run_here(
    tmp_path: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if change == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = save_tiny_model(tmp_path / "tiny")
    more = {}
    if change == "no tokenizer":
        for file in path.glob("*token*"):
            file.unlink()
    elif change == "no directory":
        path = tmp_path / "nothing"
    else:
        more = {"device": "cuda"}
    checked = check_experiment(config(tmp_path, path, **more))
    (error,) = [finding for finding in checked.findings if finding.level == "error"]
    assert error.what == "model"
    assert message in error.message.lower()
