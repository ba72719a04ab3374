"""A small journalled run that is started, or resumed and carried on, until it is done.

As a script it is a child to kill or to starve: `journalled_work.py JOURNAL ITEMS BATCH
DURABILITY` acknowledges each batch in a line of its keys, and says on standard error where the
journal could not be written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, cast

from interlock.errors import RunNotFoundError, StorageError
from interlock.kernel.journal import Durability, Item, Journal
from interlock.kernel.outcome import Outcome, Status

RUN_ID = "one"


def expected(key: str) -> Outcome[Any]:
    """The outcome that the work records for a key."""
    return Outcome(Status.ACCEPTED, value=f"answer to {key} " * 20)


def work(
    path: Path,
    acknowledge: Callable[[list[str]], object],
    *,
    items: int,
    batch: int,
    durability: Durability = "normal",
) -> None:
    """Record each pending item, `batch` in a transaction; `acknowledge` what `record` took."""
    asked = [Item(f"k{index}", "x" * (index % 700)) for index in range(items)]
    with Journal.open(path, durability=durability) as journal:
        try:
            run = journal.resume_run(RUN_ID, config={}, items=asked)
        except RunNotFoundError:
            run = journal.create_run("test", config={}, items=asked, run_id=RUN_ID)
        pending = run.pending()
        while keys := list(islice(pending, batch)):
            run.begin(keys)
            run.record([(key, expected(key)) for key in keys])
            acknowledge(keys)
        run.finish("done")


if __name__ == "__main__":
    from support.kill import acknowledge

    try:
        work(
            Path(sys.argv[1]),
            lambda keys: acknowledge(" ".join(keys)),
            items=int(sys.argv[2]),
            batch=int(sys.argv[3]),
            durability=cast(Durability, sys.argv[4]),
        )
    except StorageError as error:
        print(f"storage: {error}", file=sys.stderr)
