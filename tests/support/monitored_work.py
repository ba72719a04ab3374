"""A process to kill: it logs events and saves a monitor's state, and says what it has done."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from support.kill import acknowledge

from interlock.strict import JsonlLogger, StrictInferenceMonitor

PADDING = "x" * 20_000
"""Makes a line span several pages, where a write can be cut short."""


def main(directory: Path, life: str) -> None:
    """Until killed: one event, then one state of which every count is the number of updates."""
    state = directory / "state.json"
    log = JsonlLogger(directory / "events.jsonl")
    monitor = StrictInferenceMonitor.load(state) if state.exists() else StrictInferenceMonitor()
    bottom, gap = np.array([True, False]), np.array([False, True])
    for index in range(10_000):
        log({"event": "work", "key": f"{life}-{index}", "pad": PADDING})
        acknowledge(f"event {life}-{index}")
        monitor.update(bottom, gap)
        monitor.save(state)
        acknowledge(f"state {monitor.export_state()['n_updates']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
