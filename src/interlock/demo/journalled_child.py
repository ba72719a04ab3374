"""The process that the demo kills: the arm's requests as a journalled run.

    python -m interlock.demo.journalled_child JOURNAL RUN_ID N SEED

Starts the run, or resumes it where it exists. Prints a key once its outcome is acknowledged, and
ends when nobody reads that any more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interlock.errors import InterlockError, RunNotFoundError
from interlock.kernel.drive import drive
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.shipped import open_arm

BATCH = 50


def main(path: Path, run_id: str, n: int, seed: int) -> None:
    """Start or resume the run, to its end."""
    runtime, route = open_arm()
    x = sample_requests(n, seed).x
    config = {"route": route.name, "bundle": runtime.bundle.digest, "n": n, "seed": seed}

    def items() -> Iterator[Item]:
        return (Item(f"request-{index:05}", row.tolist()) for index, row in enumerate(x))

    def answer(requests: Sequence[Any]) -> list[Outcome[Any]]:
        batch = route.run_batch({"x": np.array(requests, dtype=np.float32)})
        return [batch.row(index) for index in range(len(batch))]

    with Journal.open(path) as journal, LocalExecutor(answer) as executor:
        try:
            run = journal.resume_run(run_id, config=config, items=items())
        except RunNotFoundError:
            run = journal.create_run("arm", config=config, items=items(), run_id=run_id)
        with run:
            drive(
                run,
                run.payload,
                executor,
                batch=BATCH,
                on_result=_acknowledge,
            )


def _acknowledge(key: str, outcome: Outcome[Any]) -> None:
    # One system call a key: no buffer can tear it, or be left to the exit.
    os.write(1, f"{key}\n".encode())


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    except BrokenPipeError:
        sys.exit(1)
    except InterlockError as error:
        sys.exit(f"interlock: {error.message}")
