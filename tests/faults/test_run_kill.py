"""A real run, killed -9 again and again: nothing acknowledged is lost, nothing is done twice."""

import random
from collections import Counter
from pathlib import Path

import pytest
from faults import run_to_kill
from support.counts import count
from support.kill import run_and_kill, run_to_end

from interlock.kernel.executor import Kind
from interlock.kernel.journal import Journal

ITEMS = 120
KILLS_A_RUN = 25
SCRIPT = Path(run_to_kill.__file__)


@pytest.mark.parametrize(("kind", "batch"), [("threads", 1), ("threads", 3), ("processes", 2)])
def test_a_killed_run_loses_nothing_and_repeats_nothing(
    kind: Kind, batch: int, tmp_path: Path
) -> None:
    # The kills of all parameters together make up the count; processes take longer to start.
    kills = count(9, 200) if kind == "threads" else count(7, 100)
    rng = random.Random(f"{kind} {batch}")
    done = runs = 0
    while done < kills:
        # Numbered by runs: one that reaches its end before its first kill adds none.
        directory = tmp_path / str(runs)
        directory.mkdir()
        runs += 1
        done += _kill_one_run(directory, kind, batch, min(KILLS_A_RUN, kills - done), rng)


def _kill_one_run(directory: Path, kind: Kind, batch: int, kills: int, rng: random.Random) -> int:
    """Kill a run `kills` times, resume it to its end, and compare all records of what happened."""
    arguments = (str(directory), kind, str(ITEMS), str(batch), "4")
    acknowledged: list[str] = []
    killed = 0
    while killed < kills:
        # A kill takes its share of what is left, so that the run outlives its kills.
        left = ITEMS - len(acknowledged)
        lines, extra = (1, max(1, left // (kills - killed + 1))), 0.01
        if rng.random() < 0.15:
            # Somewhere while it starts: imports, creating or resuming the run, the first items.
            lines, extra = (0, 0), 0.6
        ended = run_and_kill(SCRIPT, arguments, rng=rng, after_lines=lines, extra_seconds=extra)
        acknowledged += ended.acknowledged
        recorded = _recorded(directory)
        lost = set(acknowledged) - set(recorded)
        assert not lost, f"acknowledged and lost after {killed} kills: {lost}"
        killed += ended.killed
        if not ended.killed:
            break
    last = run_to_end(SCRIPT, arguments)
    acknowledged += last.acknowledged

    recorded = _recorded(directory)
    assert sorted(recorded) == sorted(item.key for item in run_to_kill.items(ITEMS))
    for key, outcome in recorded.items():
        assert outcome == run_to_kill.expected(key)
    # The driver acknowledges what `record` returned from, so twice would mean recorded twice.
    assert max(Counter(acknowledged).values()) == 1
    done = Counter((directory / "done.txt").read_text().split())
    assert set(done) == set(recorded)
    again = sum(done.values()) - len(done)
    assert again <= killed * run_to_kill.CAPACITY * batch, f"{again} items done again"
    return killed


def _recorded(directory: Path) -> dict[str, object]:
    if not (directory / "journal.db").exists():
        return {}
    with Journal.open(directory / "journal.db") as journal:
        if all(run.run_id != run_to_kill.RUN for run in journal.runs()):
            return {}
        found = list(journal.outcomes(run_to_kill.RUN))
    assert len({key for key, _ in found}) == len(found), "an item has two outcomes"
    return dict(found)
