"""The experiment that `test_experiment_kill.py` kills: as `interlock experiment run --resume`.

Arguments: directory with `prompts.json`, base URL of the service, calls in flight. A line on
standard output per sample, written after it was recorded.
"""

import sys
from pathlib import Path
from typing import Any

from support.kill import acknowledge
from support.plain_openai import register

from interlock.experiment.run import RunOptions, run_experiment

MODELS = 2


def config(directory: Path, url: str, concurrency: int) -> dict[str, Any]:
    """Two models on two accounts, two samples of every prompt."""
    return {
        "prompts_file": str(directory / "prompts.json"),
        "output_dir": str(directory / "out"),
        "samples": 2,
        "concurrency": concurrency,
        "models": [
            {"name": f"m{n}", "type": "plain", "base_url": url, "account": f"a{n}"}
            for n in range(MODELS)
        ],
    }


def main(directory: Path, url: str, concurrency: int) -> None:
    """Start, or go on with, the run; a run that is done is exported again."""
    register()
    run_experiment(
        config(directory, url, concurrency),
        options=RunOptions(resume=True),
        display=None,
        on_result=lambda key, outcome: acknowledge(key),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
