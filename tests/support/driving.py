"""Runs of a journal that are driven to their end, or to where they are stopped."""

from collections.abc import Sequence
from typing import Any

from interlock.kernel.drive import RunSummary, drive
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Item, Journal, JournalRun
from interlock.kernel.outcome import Outcome, Status
from interlock.kernel.task import Work

ITEMS = 40
END = 60.0


def start(journal: Journal, items: Sequence[Any] = range(ITEMS)) -> JournalRun:
    return journal.create_run(
        "test", config={}, items=[Item(f"k{n}", item) for n, item in enumerate(items)], run_id="r"
    )


def resume(journal: Journal) -> JournalRun:
    return journal.resume_run("r", config={}, items=None)


def go(run: JournalRun, work: Work | str, **options: Any) -> RunSummary:
    """Drive `run` with a fresh executor."""
    names = ("workers", "kind", "queued", "time_limit")
    given = {name: options.pop(name) for name in names if name in options}
    with run, LocalExecutor(work, **given) as executor:
        return drive(run, run.payload, executor, **options)


def double(items: Sequence[int]) -> list[Outcome[int]]:
    return [Outcome(Status.ACCEPTED, value=2 * item) for item in items]


def recorded(journal: Journal) -> dict[str, Any]:
    return {key: outcome.value for key, outcome in journal.outcomes("r")}


def whole() -> dict[str, Any]:
    return {f"k{n}": 2 * n for n in range(ITEMS)}
