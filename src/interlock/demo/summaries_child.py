"""The process that the demo kills: a source tree summarised.

    python -m interlock.demo.summaries_child SOURCE OUTPUT MODEL

Starts the run, or goes on with it. Prints a key once its summary is recorded.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from interlock.errors import InterlockError
from interlock.kernel.outcome import Outcome
from interlock.summarize import Options, contracts, summarize
from interlock.summarize.workers import open_model


def main(source: Path, output: Path, name: str) -> None:
    """Start or go on, to the end."""
    cores = contracts.cores()
    # Its threads must have ended when the interpreter does.
    with closing(open_model(name, instances=cores, cores=cores)) as model:
        summarize(source, output, Options(instances=cores), model=model, on_result=_acknowledge)


def _acknowledge(key: str, outcome: Outcome[Any]) -> None:
    # One system call a key: no buffer can tear it, or be left to the exit.
    os.write(1, f"{key}\n".encode())


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    except BrokenPipeError:
        sys.exit(1)
    except InterlockError as error:
        sys.exit(f"interlock: {error.message}")
