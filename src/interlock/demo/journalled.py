"""Step 3: the same requests as a journalled run, killed half-way by this very code, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from interlock.errors import EngineCrashError, RunLockedError, RunNotFoundError
from interlock.kernel.journal import Journal
from interlock.kernel.journal_lock import FileHold
from interlock.kernel.outcome import Status

RUN_ID = "arm-demo"
_PIPE_BYTES = 4096


@dataclass(frozen=True)
class Resumed:
    """What the kill cost.

    acknowledged  items that the first process said were recorded, before it was killed
    lost          of those, the ones that the journal does not hold
    repeated      of those, the ones that the second process did again
    sent_again    items in flight at the kill, which had to be done again
    """

    items: int
    acknowledged: int
    lost: int
    repeated: int
    sent_again: int
    counts: dict[Status, int]
    seconds: float
    journal_bytes: int

    @property
    def answered(self) -> float:
        """Share of the items with an answer in the journal."""
        answers = self.counts[Status.ACCEPTED] + self.counts[Status.FLAGGED]
        return answers / max(1, self.items)


@contextmanager
def alone(journal: Path) -> Iterator[None]:
    """Keep other demonstrations off the journal: between its kill and its resumption nobody holds
    the run. Raises RunLockedError where one is there already, StorageError where it can't lock.
    """
    hold = FileHold.take(journal, "demo")
    if hold is None:
        raise RunLockedError(
            f"another demonstration is writing to {journal.parent}",
            hint="wait until it has ended, or choose another directory with --output",
        )
    with hold:
        yield


def run_killed_and_resumed(journal: Path, n: int, seed: int) -> Resumed:
    """Run, kill -9 once half of the items are acknowledged, resume to the end, and compare."""
    with Journal.open(journal) as opened, suppress(RunNotFoundError):
        opened.delete_run(RUN_ID)
    started = time.perf_counter()
    before = _run(journal, n, seed, kill_after=n // 2)
    with Journal.open(journal) as opened:
        held = {key for key, _ in opened.outcomes(RUN_ID)}
        begun = opened.info(RUN_ID).open_attempts
    after = _run(journal, n, seed, kill_after=None)
    seconds = time.perf_counter() - started
    with Journal.open(journal) as opened:
        info = opened.info(RUN_ID)
        final = [key for key, _ in opened.outcomes(RUN_ID)]
    repeated = (len(final) - len(set(final))) + len(held & set(after))
    return Resumed(
        items=info.items,
        acknowledged=len(before),
        lost=len(set(before) - held) + info.items - len(set(final)),
        repeated=repeated,
        sent_again=begun,
        counts=info.counts,
        seconds=seconds,
        journal_bytes=journal.stat().st_size,
    )


def _run(journal: Path, n: int, seed: int, kill_after: int | None) -> list[str]:
    """The keys acknowledged by one process, which is killed after so many of them."""
    command = [sys.executable, "-m", "interlock.demo.journalled_child"]
    command += [str(journal), RUN_ID, str(n), str(seed)]
    acknowledged: list[str] = []
    # In a session of its own, so that Ctrl-C reaches this process alone, which then ends the child;
    # and with so small a pipe that the child cannot run on to its end before it is killed.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        pipesize=_PIPE_BYTES,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.endswith("\n"):
                    acknowledged.append(line.strip())
                if kill_after is not None and len(acknowledged) == kill_after:
                    os.kill(child.pid, signal.SIGKILL)
        except BaseException:
            child.kill()
            raise
    expected = 0 if kill_after is None else -signal.SIGKILL
    if child.returncode != expected:
        raise EngineCrashError(f"the journalled run exited with {child.returncode}")
    return acknowledged
