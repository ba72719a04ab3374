"""From a path to the files of a finished run, and the estimate before it."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from interlock.kernel.errors import ConfigError, InputError, RunLockedError, StorageError
from interlock.kernel.executor import Executor
from interlock.kernel.journal import Journal
from interlock.kernel.outcome import Outcome
from interlock.kernel.progress import Progress
from interlock.summarize import contracts, outputs
from interlock.summarize.asked import SummaryModel
from interlock.summarize.budget import PROMPT_TOKENS
from interlock.summarize.checkout import open_tree
from interlock.summarize.contracts import Contracts
from interlock.summarize.mark import JOURNAL_NAME
from interlock.summarize.models import Models
from interlock.summarize.options import Options
from interlock.summarize.plan import Node, Plan, make_plan
from interlock.summarize.run import RUN_NAME, Finished, newest, pending_nodes, run, summary_of
from interlock.summarize.tree import read_tree
from interlock.summarize.workers import open_executor

READ_A_SECOND = 600.0
WRITTEN_A_SECOND = 25.0
"""Tokens a core, of a model of 135 million parameters at eight bits: the estimate before a first
run; later ones use what the last run measured.
"""

_SUMMARY_TOKENS = 30
_BYTES_A_NODE = 4096


class Estimate(msgspec.Struct, frozen=True):
    """What a run would do.

    files, lines, chunks  of the tree
    tokens   that the model would read and write for what is not there yet
    seconds  that it would take with the instances asked for, 0.0 without a model
    disk_bytes  that journal and outputs would take
    nodes, reused  summaries in all, and those of them that need not be made again
    skipped  files and folders that are left out
    counted  whether tokens were counted by the model's tokenizer, or estimated
    rate_from  where the seconds come from: "the last run" or "a default"
    """

    files: int
    lines: int
    chunks: int
    tokens: int
    seconds: float
    disk_bytes: int
    nodes: int
    reused: int
    skipped: int
    counted: bool
    rate_from: str


@dataclass(frozen=True)
class Summarized:
    """A finished run with its figures and files."""

    finished: Finished
    contracts: Contracts
    files: outputs.Files


def summarize(
    path: Path | str,
    output: Path,
    options: Options,
    *,
    model: SummaryModel | Models | None,
    executor: Executor | None = None,
    journal: Path | None = None,
    init_seconds: float | None = None,
    baseline: int = 0,
    progress: Callable[[int, int], AbstractContextManager[Progress]] | None = None,
    stop: threading.Event | None = None,
    on_result: Callable[[str, Outcome[Any]], None] | None = None,
) -> Summarized:
    """Summarise a tree, or go on where an earlier call was cut off, and write the files.

    path      a directory, a file, or a Git repository on this disk (see `checkout.open_tree`)
    output    directory for the files, and for the journal where `journal` names no other file
    model     for everything, or several by language; None for extractive summaries alone
    executor  where summaries are made; by default threads that share `model`. It is closed when the
              last summary is there; where it did not come to that, the caller closes it

    Raises InputError where there is nothing to summarise, ConfigError where `output` is the tree
    itself or holds a file that would be replaced and that no earlier run wrote, RunLockedError
    where another process is at work on the run, InterruptedRunError where it was stopped,
    StorageError where something cannot be written. What was recorded is kept.
    """
    with open_tree(str(path)) as root:
        plan = _plan(root, output, options, model)
        before = contracts.usage()
        own = executor or open_executor(model, instances=options.instances, seconds=options.seconds)
        try:
            with Journal.open(_journal(output, journal)) as opened:
                finished = run(
                    plan,
                    opened,
                    own,
                    baseline=baseline,
                    cores=min(contracts.cores(), options.instances),
                    progress=progress,
                    stop=stop,
                    on_result=on_result,
                )
            # What worker processes took is told once they have ended.
            own.close()
        except BaseException:
            if executor is None:
                own.cancel()
            raise
        finally:
            if executor is None:
                own.close()
        measured = contracts.measure(
            finished,
            before=before,
            init_seconds=init_seconds,
            efficiency=finished.efficiency,
        )
        return Summarized(finished, measured, outputs.write(finished, measured, output))


def estimate(
    path: Path | str,
    output: Path,
    options: Options,
    *,
    model: SummaryModel | Models | None,
    journal: Path | None = None,
    with_model: bool = True,
) -> Estimate:
    """What `summarize` with the same arguments would do; writes nothing.

    with_model  whether a model will be asked, though `model` is not there to count tokens
    """
    with open_tree(str(path)) as root:
        plan = _plan(root, output, options, model)
        nodes = list(plan.nodes.values())
        rates, rate_from = None, "a default"
        place = _journal(output, journal)
        if place.exists():
            with _open_to_read(place) as opened:
                nodes = pending_nodes(plan, opened)
                rates = _measured_rates(opened)
    read, written = _tokens(plan, nodes)
    if rates is None:
        rates = READ_A_SECOND, WRITTEN_A_SECOND
    else:
        rate_from = "the last run"
    asks = with_model
    cores = min(contracts.cores(), options.instances)
    return Estimate(
        files=len(plan.files),
        lines=plan.tree.lines,
        chunks=len(plan.level("chunk")),
        tokens=read + written if asks else 0,
        seconds=round((read / rates[0] + written / rates[1]) / cores, 1) if asks else 0.0,
        disk_bytes=_BYTES_A_NODE * len(plan.nodes),
        nodes=len(plan.nodes),
        reused=len(plan.nodes) - len(nodes),
        skipped=len(plan.tree.skipped),
        counted=plan.models.context is not None,
        rate_from=rate_from,
    )


def check_output(root: Path, output: Path) -> None:
    """Raise ConfigError where `output` is the tree itself, or a user's file would be replaced."""
    if root.is_dir() and output.resolve() == root.resolve():
        raise ConfigError(
            f"--output is the tree itself, {str(root)!r}",
            hint="name a directory of its own; it may lie inside of the tree",
        )
    outputs.check(output)


def check_journal(output: Path, journal: Path | None) -> None:
    """Raise RunLockedError where another process is at work on the run to be gone on with.

    Raises JournalVersionError, JournalError or StorageError where the file is no journal to use.
    """
    place = _journal(output, journal)
    # Unlike `Path.exists`, it does not raise where it may not look.
    if not os.path.lexists(place):
        return
    with Journal.open(place) as opened:
        found = newest(opened)
    if found is not None and found.state == "running":
        raise RunLockedError(
            f"run {found.run_id} in {place} is held by {found.holder or 'another process'}"
        )


def _plan(root: Path, output: Path, options: Options, model: SummaryModel | Models | None) -> Plan:
    check_output(root, output)
    tree = read_tree(root, options.selection)
    if not tree.files:
        why = "; ".join(sorted({item.reason for item in tree.skipped})[:5]) or "it is empty"
        raise InputError(f"nothing in PATH {str(root)!r} is to be summarised: {why}")
    return make_plan(tree, options, model)


def _journal(output: Path, journal: Path | None) -> Path:
    return output / JOURNAL_NAME if journal is None else journal


@contextmanager
def _open_to_read(place: Path) -> Iterator[Journal]:
    """The journal; where its directory may only be read, which no journal's can, a copy of it."""
    try:
        opened = Journal.open(place, create=False)
    except StorageError:
        with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
            copy = Path(scratch) / place.name
            try:
                for end in ("", "-wal"):
                    if (part := place.with_name(place.name + end)).exists():
                        shutil.copyfile(part, copy.with_name(copy.name + end))
            except OSError as error:
                raise StorageError(
                    f"cannot read {place}: {error.strerror or error}",
                    hint="check who owns the file and its directory",
                ) from None
            with Journal.open(copy, create=False) as opened:
                yield opened
        return
    with opened:
        yield opened


def _tokens(plan: Plan, nodes: list[Node]) -> tuple[int, int]:
    """Tokens to read and to write for these nodes; a node with a single part costs nothing."""
    read = written = 0
    unknown = plan.models.context is None
    for node in nodes:
        asked = unknown or plan.models.of(node.asked.language) is not None
        if len(node.parts) == 1 or not asked:
            continue
        size = node.tokens
        if size is None:
            size = min(plan.budget.tokens, _SUMMARY_TOKENS * len(node.parts))
        read += size + PROMPT_TOKENS // 2
        written += _SUMMARY_TOKENS
    return read, written


def _measured_rates(journal: Journal) -> tuple[float, float] | None:
    """Tokens read and written a second of service, by the newest run with a model; else None.

    Both from one measured total: that a token written takes as many times one that is read as in
    the defaults is taken as given.
    """
    runs = [info for info in journal.runs() if info.name == RUN_NAME]
    for info in reversed(runs):
        speeds = []
        for _, outcome in journal.outcomes(info.run_id):
            try:
                summary = summary_of(outcome)
            except msgspec.ValidationError:
                # A journal may have been written by anybody; the guards look at the rest.
                continue
            if summary is not None and summary.spent.seconds > 0:
                spent = summary.spent
                expected = (
                    spent.input_tokens / READ_A_SECOND + spent.output_tokens / WRITTEN_A_SECOND
                )
                speeds.append(expected / spent.seconds)
        if speeds:
            speed = statistics.median(speeds)
            return READ_A_SECOND * speed, WRITTEN_A_SECOND * speed
    return None
