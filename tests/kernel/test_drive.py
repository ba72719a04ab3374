"""The driver on a real journal: what ends up recorded."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.driving import ITEMS, double, go, recorded, resume, start, whole

from interlock.kernel.drive import drive
from interlock.kernel.errors import JournalError, StorageError
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Item, Journal, JournalRun
from interlock.kernel.outcome import Outcome, Status


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as journal:
        yield journal


@pytest.mark.parametrize("batch", [1, 7])
def test_every_item_is_recorded(journal: Journal, batch: int) -> None:
    summary = go(start(journal), double, workers=3, batch=batch)
    assert recorded(journal) == whole()
    assert (summary.run_id, summary.recorded, summary.sent, summary.lost) == ("r", ITEMS, ITEMS, 0)
    assert summary.counts[Status.ACCEPTED] == ITEMS
    assert journal.info("r").state == "done"


def test_a_run_that_is_done_asks_for_nothing(journal: Journal) -> None:
    go(start(journal), double)
    assert go(resume(journal), double).sent == 0


def test_results_come_in_order_where_asked_for(journal: Journal) -> None:
    rng = random.Random(4)
    delays = {n: rng.choice((0.0, 0.01)) for n in range(ITEMS)}
    seen: list[str] = []

    def late(items: Sequence[int]) -> list[Outcome[int]]:
        time.sleep(sum(delays[item] for item in items))
        return double(items)

    go(
        start(journal),
        late,
        workers=4,
        batch=2,
        ordered=True,
        on_result=lambda key, outcome: seen.append(key),
    )
    assert seen == [f"k{n}" for n in range(ITEMS)]


def test_one_executor_serves_two_runs(journal: Journal) -> None:
    with LocalExecutor(double, workers=2) as executor, start(journal) as run:
        drive(run, run.payload, executor)
        other = journal.create_run("other", config={}, items=[Item("x", 21)], run_id="o")
        with other:
            drive(other, other.payload, executor)
    assert [outcome.value for _, outcome in journal.outcomes("o")] == [42]


def test_broken_items_fail_and_the_others_do_not(journal: Journal) -> None:
    def work(items: Sequence[Any]) -> list[Outcome[Any]]:
        if "raise" in items:
            raise ValueError("text that must not be kept")
        return [
            Outcome(Status.ACCEPTED, value=object() if item == "object" else item) for item in items
        ]

    summary = go(start(journal, [1, "raise", "object", 4]), work, workers=2)
    outcomes = dict(journal.outcomes("r"))
    assert [outcomes[f"k{n}"].value for n in (0, 3)] == [1, 4]
    assert outcomes["k1"].reasons == ("work: raised ValueError",)
    assert outcomes["k2"].reasons == ("record: input",)
    assert summary.counts[Status.FAILED] == 2


def test_a_label_taken_from_an_array_of_text_is_recorded(journal: Journal) -> None:
    labels = np.array(["no", "yes"])
    go(start(journal, [0, 1]), lambda items: [Outcome(Status.ACCEPTED, labels[n]) for n in items])
    assert recorded(journal) == {"k0": "no", "k1": "yes"}


def test_an_item_that_cannot_be_loaded_fails_alone(journal: Journal) -> None:
    def load(key: str) -> int:
        if key == "k3":
            raise FileNotFoundError("/a/path/that/must/not/be/kept")
        return int(key[1:])

    with start(journal) as run, LocalExecutor(double) as executor:
        drive(run, load, executor)
    outcomes = dict(journal.outcomes("r"))
    assert outcomes["k3"].reasons == ("load: raised FileNotFoundError",)
    assert sum(outcome.status.usable for outcome in outcomes.values()) == ITEMS - 1


def test_a_journal_that_cannot_be_read_ends_the_run(journal: Journal) -> None:
    def load(key: str) -> int:
        raise JournalError("the file is gone")

    with (
        start(journal) as run,
        LocalExecutor(double) as executor,
        pytest.raises(JournalError, match="gone"),
    ):
        drive(run, load, executor)
    assert recorded(journal) == {}


def test_a_killer_is_tried_alone_and_given_up(journal: Journal) -> None:
    summary = go(
        start(journal, [1, 2, "die", 4, 5, 6]),
        "support.work:obedient",
        kind="processes",
        workers=2,
        batch=3,
        max_crashes=3,
    )
    outcomes = dict(journal.outcomes("r"))
    assert outcomes["k2"].reasons == ("worker: engine_crash",)
    assert [outcomes[f"k{n}"].value for n in (0, 1, 3, 4, 5)] == [1, 2, 4, 5, 6]
    # Once in its group and twice alone; its two neighbours were sent a second time.
    assert (summary.lost, summary.sent) == (3, 6 + 2 + 2)


def test_a_hang_is_not_tried_again_alone(journal: Journal) -> None:
    summary = go(
        start(journal, [1, "hang"]),
        "support.work:obedient",
        kind="processes",
        time_limit=2.0,
        max_crashes=9,
    )
    assert dict(journal.outcomes("r"))["k1"].reasons == ("worker: deadline",)
    assert summary.lost == 1


def test_a_failed_write_ends_the_run_and_keeps_what_was_acknowledged(journal: Journal) -> None:
    acknowledged: list[str] = []

    class FullDisk:
        """The journal's run, with a disk that is full from the fourth write of outcomes on."""

        def __init__(self, run: JournalRun) -> None:
            self.run_id = run.run_id
            self.pending, self.begin, self.finish = run.pending, run.begin, run.finish
            self._run = run
            self._writes = 0

        def record(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
            self._writes += 1
            if self._writes >= 4:
                raise StorageError("the disk is full")
            self._run.record(results)

    with start(journal) as run, LocalExecutor(double) as executor, pytest.raises(StorageError):
        drive(
            FullDisk(run),
            run.payload,
            executor,
            on_result=lambda key, outcome: acknowledged.append(key),
        )
    assert acknowledged
    assert sorted(recorded(journal)) == sorted(acknowledged)
    go(resume(journal), double)
    assert recorded(journal) == whole()


def test_work_in_flight_stays_bounded(journal: Journal) -> None:
    """However many items are pending, only a few are loaded ahead of what is recorded."""
    loaded = finished = most = 0

    def count_loads(load: Callable[[str], Any]) -> Callable[[str], Any]:
        def counted(key: str) -> Any:
            nonlocal loaded, most
            loaded += 1
            most = max(most, loaded - finished)
            return load(key)

        return counted

    def count_results(key: str, outcome: Outcome[Any]) -> None:
        nonlocal finished
        finished += 1

    with start(journal, range(3000)) as run, LocalExecutor(double, workers=2) as executor:
        drive(run, count_loads(run.payload), executor, batch=5, on_result=count_results)
    assert finished == 3000
    assert most <= executor.capacity * 5
