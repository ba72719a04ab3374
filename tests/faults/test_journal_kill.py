"""kill -9 at random moments of a process that writes a journal, resumed and killed again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import journalled_work
from support.counts import count
from support.journal_promises import check_promises
from support.kill import run_and_kill, run_to_end

CHILD = Path(journalled_work.__file__)
KILLS = count(20, 100)
ITEMS = 240


@pytest.mark.parametrize(
    ("batch", "durability", "kills"), [(1, "normal", KILLS - KILLS // 2), (4, "full", KILLS // 2)]
)
def test_nothing_acknowledged_is_lost_and_nothing_is_recorded_twice(
    tmp_path: Path, batch: int, durability: str, kills: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = random.Random(seed)
    done = journals = 0
    while done < kills:
        path = tmp_path / f"journal-{journals}.sqlite"
        arguments = [str(path), str(ITEMS), str(batch), durability]
        journals += 1
        recorded: list[str] = []
        killed = True
        while killed and done < kills:
            # A long wait hits the start and the creation; a short one the records.
            ended = run_and_kill(
                CHILD,
                arguments,
                rng=rng,
                after_lines=(0, ITEMS // batch // 4),
                extra_seconds=rng.choice((0.005, 0.5)),
            )
            killed = ended.killed
            done += killed
            acknowledged = [key for line in ended.acknowledged for key in line.split()]
            # A key acknowledged in an earlier life would be here twice.
            found = check_promises(path, recorded + acknowledged, items=ITEMS, batch=batch)
            recorded = sorted(found)
        ended = run_to_end(CHILD, arguments)
        acknowledged = [key for line in ended.acknowledged for key in line.split()]
        assert sorted(recorded + acknowledged) == sorted(f"k{index}" for index in range(ITEMS))
        assert check_promises(path, recorded + acknowledged, items=ITEMS, batch=batch)
