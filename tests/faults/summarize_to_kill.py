"""The summaries that `test_summarize_kill.py` kills: a tree, a model, and workers.

Arguments: tree, output, kind of workers, log of questions. It starts the run, or goes on with it; a
line on standard output per summary, written after it was recorded.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.kill import acknowledge
from support.summary_models import NamingModel

from interlock.kernel.executor import LocalExecutor
from interlock.kernel.outcome import Outcome
from interlock.summarize import Options, summarize
from interlock.summarize.route import Summarizer

INSTANCES = 3
OPTIONS = Options(chunk_lines=6, view="full", instances=INSTANCES)


def make_work(log: str) -> Callable[[Sequence[Any]], list[Outcome[Any]]]:
    """Work with a visible effect: a line in the file `log` a question.

    Slow enough that a fast machine is not done before the kills are.
    """
    return Summarizer(NamingModel(log=Path(log), seconds=0.1))


def main(tree: Path, output: Path, kind: str, log: str) -> None:
    """Start or go on, to the end."""
    work = "faults.summarize_to_kill:make_work"
    with LocalExecutor(
        work,
        workers=INSTANCES,
        kind="threads" if kind == "threads" else "processes",
        queued=0,
        options={"log": log},
    ) as executor:
        summarize(
            tree,
            output,
            OPTIONS,
            model=NamingModel(),
            executor=executor,
            on_result=lambda key, outcome: acknowledge(key),
        )


if __name__ == "__main__":
    where, to, workers, questions = sys.argv[1:]
    main(Path(where), Path(to), workers, questions)
