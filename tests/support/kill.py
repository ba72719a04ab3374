"""Kill a real process at a random moment and collect what it had acknowledged until then.

The child is a Python script that calls `acknowledge(key)` for each thing that must survive, after
it has been promised; here, after `JournalRun.record` returned.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HANG_SECONDS = 120.0


def acknowledge(key: str) -> None:
    """In the child: write one line in one system call, so that no buffer can lose or tear it."""
    os.write(sys.stdout.fileno(), f"{key}\n".encode())


@dataclass(frozen=True)
class Ended:
    """How a child ended: what it acknowledged, and whether it was killed or had finished."""

    acknowledged: list[str]
    killed: bool
    errors: str


def run_and_kill(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    rng: random.Random,
    after_lines: tuple[int, int] = (0, 50),
    extra_seconds: float = 0.01,
) -> Ended:
    """Run `script` and kill -9 its whole process group at a random moment.

    The moment is a random time of up to `extra_seconds` after a random number of acknowledged
    lines within `after_lines`, both ends included; with 0 lines it may hit the start-up.
    Raises AssertionError where the child fails by itself or hangs.
    """
    wanted = rng.randint(*after_lines)
    extra = rng.uniform(0.0, extra_seconds)
    return _run(script, arguments, lambda lines: lines >= wanted, extra)


def run_to_end(script: Path, arguments: Sequence[str] = ()) -> Ended:
    """Run `script` undisturbed; raises AssertionError where it fails or hangs."""
    return _run(script, arguments, lambda lines: False, 0.0)


def _run(
    script: Path, arguments: Sequence[str], enough: Callable[[int], bool], extra_seconds: float
) -> Ended:
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent / "src"), os.environ.get("PYTHONPATH", "")]
    hung = threading.Event()
    # A file takes any amount of errors without blocking the child; a pipe does not.
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,
        )

        def end_hang() -> None:
            hung.set()
            _kill_group(child)

        watchdog = threading.Timer(HANG_SECONDS, end_hang)
        watchdog.start()
        lines: list[str] = []
        ended_by_us = False
        try:
            assert child.stdout is not None
            with child.stdout:
                while True:
                    if not ended_by_us and enough(len(lines)):
                        time.sleep(extra_seconds)
                        _kill_group(child)
                        ended_by_us = True
                    # What it wrote before it was killed is still in the pipe.
                    line = child.stdout.readline()
                    if not line:
                        break
                    lines.append(line.decode().removesuffix("\n"))
            child.wait()
        finally:
            _kill_group(child)
            child.wait()
            watchdog.cancel()
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    assert not hung.is_set(), f"the child hung after {len(lines)} lines: {text}"
    killed = ended_by_us and child.returncode == -signal.SIGKILL
    assert killed or child.returncode == 0, f"the child ended with {child.returncode}: {text}"
    return Ended(acknowledged=lines, killed=killed, errors=text)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader where workers do, and its number is not reused before then.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
