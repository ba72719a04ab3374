"""An experiment, killed -9 again and again: what is recorded is never paid for twice."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from faults import experiment_to_kill
from support.counts import count
from support.fake_llm import FakeLLM, Plan
from support.kill import run_and_kill, run_to_end

from interlock.experiment.records import read_results
from interlock.kernel.errors import RunNotFoundError

PROMPTS = 40
SAMPLES = PROMPTS * 2 * experiment_to_kill.MODELS
CONCURRENCY = 4
IN_FLIGHT = CONCURRENCY * experiment_to_kill.MODELS
SCRIPT = Path(experiment_to_kill.__file__)


def prompts(directory: Path) -> None:
    """A benchmark in `directory`."""
    directory.mkdir()
    found = [{"id": f"p{n}", "prompt": f"Question {n}?"} for n in range(PROMPTS)]
    (directory / "prompts.json").write_text(json.dumps(found))


def recorded(directory: Path) -> set[str]:
    """The samples in the journal, as the server knows them."""
    try:
        found = list(read_results(directory / "out"))
    except (RunNotFoundError, ValueError):
        return set()
    names = [f"{r.model} {r.prompt_id} {r.seed}" for r in found]
    assert len(set(names)) == len(names), "a sample has two results"
    return set(names)


def asked(server: FakeLLM) -> Counter[str]:
    """How often the server was asked each sample, as `model id seed`."""
    found: Counter[str] = Counter()
    for request in server.log():
        body = json.loads(request["body"])
        number = body["messages"][-1]["content"].removeprefix("Question ").removesuffix("?")
        found[f"{body['model']} p{number} {body['seed']}"] += 1
    return found


def masked(directory: Path) -> Any:
    """The combined result file without times, and without what the run is called."""
    (combined,) = (directory / "out").glob("pilot_results_*.json")
    document = json.loads(combined.read_text())
    metadata = document["metadata"]
    assert metadata["complete"]
    for run in document["runs"]:
        run["completed_at"] = None
        for result in run["results"]:
            result |= dict.fromkeys(("timestamp", "elapsed_seconds", "run_id"))
    return [metadata["total_prompts"], document["runs"]]


def test_a_killed_experiment_pays_once_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    kills = count(4, 20)
    rng = random.Random("experiment")
    plan = Plan(latency=0.02, jitter=0.5, keep=100_000)
    with FakeLLM(plan) as server:
        whole = tmp_path / "whole"
        prompts(whole)
        run_to_end(SCRIPT, (str(whole), server.openai, str(CONCURRENCY)))
        expected = masked(whole)
        server.plan(plan)

        directory = tmp_path / "killed"
        prompts(directory)
        arguments = (str(directory), server.openai, str(CONCURRENCY))
        acknowledged: list[str] = []
        killed = 0
        kept: dict[str, int] = {}
        while killed < kills:
            left = SAMPLES - len(acknowledged)
            lines, extra = (1, max(1, left // (kills - killed + 1))), 0.02
            if rng.random() < 0.2:
                # While it starts: imports, creating or resuming the run, the first samples.
                lines, extra = (0, 0), 1.0
            ended = run_and_kill(SCRIPT, arguments, rng=rng, after_lines=lines, extra_seconds=extra)
            acknowledged += ended.acknowledged
            there = recorded(directory)
            counted = asked(server)
            assert len(there) >= len(acknowledged)
            for name, times in kept.items():
                assert counted[name] == times, f"{name} was recorded, and asked again"
            kept = {name: counted[name] for name in there}
            killed += ended.killed
            if not ended.killed:
                break
        run_to_end(SCRIPT, arguments)

        again = sum(times - 1 for times in asked(server).values())
        assert again <= killed * IN_FLIGHT, f"{again} samples sent again after {killed} kills"
        for name, times in kept.items():
            assert asked(server)[name] == times
    assert len(recorded(directory)) == SAMPLES
    assert max(Counter(acknowledged).values()) == 1
    assert masked(directory) == expected
