"""kill -9 at random moments of a process that logs events and saves its monitor."""

from __future__ import annotations

import random
from pathlib import Path

from support import monitored_work
from support.counts import count
from support.kill import run_and_kill

from interlock.kernel.events import read_events
from interlock.strict import StrictInferenceMonitor

CHILD = Path(monitored_work.__file__)
KILLS = count(15, 100)


def test_no_acknowledged_event_is_lost_and_no_state_is_torn(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = random.Random(seed)
    acknowledged: list[str] = []
    for life in range(KILLS):
        ended = run_and_kill(
            CHILD,
            [str(tmp_path), str(life)],
            rng=rng,
            after_lines=(0, 40),
            extra_seconds=rng.choice((0.002, 0.3)),
        )
        assert ended.killed
        events = [line.split()[1] for line in ended.acknowledged if line.startswith("event")]
        states = [int(line.split()[1]) for line in ended.acknowledged if line.startswith("state")]
        acknowledged += events
        logged = (
            [event["key"] for event in read_events(tmp_path / "events.jsonl")]
            if (tmp_path / "events.jsonl").exists()
            else []
        )
        assert len(set(logged)) == len(logged)
        assert set(acknowledged) <= set(logged)
        if states:
            found = StrictInferenceMonitor.load(tmp_path / "state.json").export_state()
            assert found["n_updates"] in (states[-1], states[-1] + 1)
            assert found["n_updates"] == found["n_bottom"] == found["n_gap"]
    assert len(acknowledged) > KILLS
