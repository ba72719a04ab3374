"""Looking at processes from outside."""

import time
from pathlib import Path


def running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def children(pid: int) -> list[int]:
    """Ids of the processes that it started and that it has not waited for."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(child) for file in found for child in file.read_text().split()})


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether the process ends; the time only ends a hang of the test."""
    until = time.monotonic() + within
    while running(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
