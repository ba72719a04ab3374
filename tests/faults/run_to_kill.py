"""The run that `test_run_kill.py` kills: journal, driver and workers as a user would set them up.

Arguments: directory, kind of workers, items, batch, most milliseconds an item. It creates the run,
or resumes it; a line on standard output per outcome, written after it was recorded.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.kill import acknowledge

from interlock.kernel.drive import drive
from interlock.kernel.errors import RunNotFoundError
from interlock.kernel.executor import Kind, LocalExecutor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.outcome import Outcome, Status, Step, StepResult

WORKERS = 2
CAPACITY = 2 * WORKERS
RUN = "killed"


def make_work(done: str, most_milliseconds: int) -> Callable[[Sequence[Any]], list[Outcome[Any]]]:
    """Work with a visible effect: one line in the file `done`, in one system call, an item."""
    lines = os.open(done, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def work(items: Sequence[Any]) -> list[Outcome[Any]]:
        outcomes = []
        for item in items:
            time.sleep(random.uniform(0.0, most_milliseconds) / 1000)
            os.write(lines, f"k{item['n']}\n".encode())
            outcomes.append(_outcome(item["n"]))
        return outcomes

    return work


def _outcome(n: int) -> Outcome[Any]:
    if n % 10 == 9:
        return Outcome(Status.REFUSED, steps=(Step("work", StepResult.REFUSED, "every tenth"),))
    return Outcome(Status.ACCEPTED, value=n * n)


def expected(key: str) -> Outcome[Any]:
    """What must be recorded for a key."""
    return _outcome(int(key[1:]))


def items(count: int) -> list[Item]:
    """The run's items."""
    return [Item(f"k{n}", {"n": n}) for n in range(count)]


def main(directory: Path, kind: Kind, count: int, batch: int, most_milliseconds: int) -> None:
    """Start or resume the run and drive it to its end."""
    options = {"done": str(directory / "done.txt"), "most_milliseconds": most_milliseconds}
    config = {"batch": batch}
    with Journal.open(directory / "journal.db") as journal:
        try:
            run = journal.resume_run(RUN, config=config, items=None)
        except RunNotFoundError:
            run = journal.create_run("kill test", config=config, items=items(count), run_id=RUN)
        work = "faults.run_to_kill:make_work"
        with run, LocalExecutor(work, workers=WORKERS, kind=kind, options=options) as executor:
            drive(
                run,
                run.payload,
                executor,
                batch=batch,
                on_result=lambda key, outcome: acknowledge(key),
            )


if __name__ == "__main__":
    where, workers, *numbers = sys.argv[1:]
    main(Path(where), "threads" if workers == "threads" else "processes", *map(int, numbers))
