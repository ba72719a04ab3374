"""Worker processes killed at random while they start, wait and work: every item ends just once."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.run_to_kill import expected
from support.counts import count

from interlock.kernel.drive import drive
from interlock.kernel.executor import LocalExecutor
from interlock.kernel.journal import Item, Journal
from interlock.kernel.process_lane import ProcessLane

ITEMS = 200
PATIENCE = 1000


class Killer:
    """Kills the workers of an executor, each at most once before it has started again.

    A worker that dies in several starts running is rightly given up, and the run with it.
    """

    def __init__(self, executor: LocalExecutor, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.kills = 0
        self._rng = random.Random(seed)
        self._lanes = [lane for lane in executor._lanes if isinstance(lane, ProcessLane)]
        self._spared: set[ProcessLane] = set()
        for lane in self._lanes:
            self._notice_starts(lane, patch)

    def _notice_starts(self, lane: ProcessLane, patch: pytest.MonkeyPatch) -> None:
        start = lane.start

        def noticed() -> None:
            start()
            self._spared.discard(lane)

        patch.setattr(lane, "start", noticed)

    @contextmanager
    def at_work(self, kills: int) -> Iterator[None]:
        """Kill up to `kills` workers, at random times, while the block runs."""
        over = threading.Event()

        def kill() -> None:
            while self.kills < kills and not over.wait(self._rng.uniform(0.0, 0.05)):
                lane = self._rng.choice(self._lanes)
                if lane not in self._spared and lane._worker.alive:
                    self._spared.add(lane)
                    lane._worker.kill()
                    self.kills += 1

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def test_killed_workers_cost_no_item_and_repeat_none_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = count(6, 40)
    # Slow enough for the kills to find a run to disturb.
    options = {"done": str(tmp_path / "done.txt"), "most_milliseconds": 5 * kills}
    items = [Item(f"k{n}", {"n": n}) for n in range(ITEMS)]
    work = "faults.run_to_kill:make_work"
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        journal.create_run("chaos", config={}, items=items, run_id="r") as run,
        LocalExecutor(work, workers=2, kind="processes", options=options) as executor,
    ):
        killer = Killer(executor, monkeypatch, seed=5)
        with killer.at_work(kills):
            summary = drive(run, run.payload, executor, batch=3, max_crashes=PATIENCE)
        outcomes = dict(journal.outcomes("r"))
    assert outcomes == {item.key: expected(item.key) for item in items}
    assert 0 < summary.lost <= killer.kills
    # A worker that dies takes one task of at most three items with it.
    assert ITEMS < summary.sent <= ITEMS + 3 * summary.lost
