"""Step 5, with a text model: the project's own source summarised, killed -9, and resumed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import interlock
from interlock.errors import ConfigError, EngineCrashError
from interlock.kernel.journal import Journal
from interlock.kernel.outcome import Status

MODEL = "smollm2"
KILL_AFTER = 12
SOURCE = Path(interlock.__file__).parent
_PIPE_BYTES = 4096


@dataclass(frozen=True)
class Summaries:
    """What the kill cost, and what came out.

    summaries     in the run: of chunks, files, folders and the whole
    acknowledged  that the first process said were recorded, before it was killed
    lost          of those, the ones that the journal does not hold
    repeated      of those, the ones that the second process made again
    counts        by status, in the end
    own           of the chunks, the share whose summary is the model's own
    page          the page that it wrote
    """

    summaries: int
    acknowledged: int
    lost: int
    repeated: int
    counts: dict[Status, int]
    chunks: int
    own: float
    text: str
    page: Path


def missing() -> str | None:
    """What this step lacks, or None where it can run."""
    for extra, modules in (("source", ("pathspec", "tree_sitter")), ("text", ("tokenizers",))):
        if any(importlib.util.find_spec(module) is None for module in modules):
            return f"the extra `{extra}`"
    from interlock.engines.generate.store import stored

    try:
        stored(MODEL)
    except ConfigError:
        return f"the model {MODEL}"
    return None


def run_killed_and_resumed(output: Path) -> Summaries:
    """Start the run, kill it once some summaries are acknowledged, and resume it to its end."""
    if output.exists():
        shutil.rmtree(output)
    before = _run(output, kill_after=KILL_AFTER)
    held = _recorded(output)
    after = _run(output, kill_after=None)
    with Journal.open(output / "journal.sqlite") as journal:
        [run] = journal.runs()
        outcomes = dict(journal.outcomes(run.run_id))
    chunks = [value for key, value in outcomes.items() if key.startswith("chunk ")]
    own = sum(o.value is not None and o.value["origin"] == "model" for o in chunks)
    whole = outcomes["repository"].value
    return Summaries(
        summaries=run.items,
        acknowledged=len(before),
        lost=len(set(before) - held) + run.pending,
        repeated=len(held & set(after)),
        counts=run.counts,
        chunks=len(chunks),
        own=own / max(1, len(chunks)),
        text="" if whole is None else str(whole["text"]),
        page=output / "index.html",
    )


def _recorded(output: Path) -> set[str]:
    with Journal.open(output / "journal.sqlite") as journal:
        return {key for run in journal.runs() for key, _ in journal.outcomes(run.run_id)}


def _run(output: Path, kill_after: int | None) -> list[str]:
    """The keys acknowledged by one process, which is killed after so many of them."""
    command = [sys.executable, "-m", "interlock.demo.summaries_child", str(SOURCE), str(output)]
    acknowledged: list[str] = []
    # As in `journalled`: a session of its own, and so small a pipe that it cannot run ahead.
    with subprocess.Popen(
        [*command, MODEL],
        stdout=subprocess.PIPE,
        pipesize=_PIPE_BYTES,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.endswith("\n"):
                    acknowledged.append(line.removesuffix("\n"))
                if kill_after is not None and len(acknowledged) == kill_after:
                    os.kill(child.pid, signal.SIGKILL)
        except BaseException:
            child.kill()
            raise
    expected = 0 if kill_after is None else -signal.SIGKILL
    if child.returncode != expected:
        raise EngineCrashError(f"the summaries' process exited with {child.returncode}")
    return acknowledged
