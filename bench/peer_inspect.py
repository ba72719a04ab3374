"""The same samples through `inspect-ai`, in its own virtual environment; started by the benchmark.

Arguments: a JSON object with prompts, base_url, concurrency and log_dir. It prints one line of
JSON. Imports and the making of the data set are not timed.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(given: dict[str, Any]) -> None:
    """Evaluate a task of one `generate` a sample, as its documentation shows."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.solver import generate

    prompts = json.loads(Path(given["prompts"]).read_text(encoding="utf-8"))["prompts"]
    dataset = MemoryDataset([Sample(input=each["prompt"], id=each["id"]) for each in prompts])
    model = get_model(
        "openai-api/bench/m",
        base_url=given["base_url"],
        api_key="none",
        config=GenerateConfig(
            max_connections=given["concurrency"], temperature=0.0, max_tokens=2048, seed=42
        ),
    )
    start, cpu = time.perf_counter(), time.process_time()
    (log,) = eval(
        Task(dataset=dataset, solver=generate()),
        model=model,
        max_samples=given["concurrency"],
        log_dir=given["log_dir"],
        display="none",
        score=False,
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert log.status == "success", log.status
    print(json.dumps({"seconds": seconds, "cpu": cpu, "samples": len(log.samples or ())}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
