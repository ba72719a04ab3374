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
import time
from collections.abc import Sequence
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
    child = _start(script, arguments)
    lines: list[bytes] = []
    try:
        assert child.stdout is not None
        while len(lines) < wanted:
            line = child.stdout.readline()
            if not line:
                break  # it ended, or it is about to
            lines.append(line)
        time.sleep(rng.uniform(0.0, extra_seconds))
    finally:
        _kill_group(child)
        rest, errors = child.communicate(timeout=HANG_SECONDS)
    return _ended(child, b"".join(lines) + rest, errors)


def run_to_end(script: Path, arguments: Sequence[str] = ()) -> Ended:
    """Run `script` undisturbed; raises AssertionError where it fails or hangs."""
    child = _start(script, arguments)
    try:
        output, errors = child.communicate(timeout=HANG_SECONDS)
    finally:
        _kill_group(child)
    return _ended(child, output, errors)


def _start(script: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,
    )


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader where workers do, and its number is not reused before then.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _ended(child: subprocess.Popen[bytes], output: bytes, errors: bytes) -> Ended:
    text = errors.decode(errors="replace")
    killed = child.returncode == -signal.SIGKILL
    assert killed or child.returncode == 0, f"the child ended with {child.returncode}: {text}"
    lines = output.decode().splitlines()
    return Ended(acknowledged=lines, killed=killed, errors=text)
