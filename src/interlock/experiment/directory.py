"""The run directory: held by one process, started afresh or taken up where it was left.

journal.sqlite            every attempt and every answer
run_<run_id>.json         what was asked of the run
prompts_<run_id>.jsonl    the prompts that it asks
checkpoint.json           there while the run is unfinished
pilot_*.json              the result files of finished runs
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from interlock.experiment import checkpoint
from interlock.experiment.asked_prompts import (
    AskedPrompts,
    copy_prompts,
    file_sha256,
    prompts_path,
)
from interlock.experiment.config import ExperimentConfig
from interlock.experiment.plan import (
    Plan,
    asked,
    describe,
    differences,
    items,
    read_plan,
    write_plan,
)
from interlock.experiment.recorded import timestamp
from interlock.experiment.records import JOURNAL_NAME
from interlock.kernel.errors import (
    ConfigError,
    RunChangedError,
    RunLockedError,
    StorageError,
    UsageError,
)
from interlock.kernel.journal import Journal, JournalRun, RunInfo
from interlock.kernel.journal_lock import FileHold

HOLD = "directory"

LISTED = 8
"""Changed samples that a message lists."""


@contextmanager
def held(directory: Path) -> Iterator[Journal]:
    """The journal of a run directory, which no other process may use meanwhile.

    Raises RunLockedError where one does, ConfigError where the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output_dir {directory} cannot be made: {error.strerror or error}",
            hint="choose a directory that can be written to",
        ) from None
    try:
        opened = Journal.open(directory / JOURNAL_NAME, durability="full")
    except StorageError as error:
        raise ConfigError(f"output_dir: {error.message}", hint=error.hint) from None
    with opened as journal:
        hold = FileHold.take(journal.path, HOLD)
        if hold is None:
            raise in_use(journal, directory)
        with hold:
            yield journal


def in_use(journal: Journal, directory: Path) -> RunLockedError:
    """The error for a directory that another process uses."""
    holders = [run.holder for run in journal.runs() if run.holder]
    return RunLockedError(
        f"{directory} is in use by {holders[-1] if holders else 'another process'}",
        hint="wait until it ends, or give another directory with --output",
    )


def latest(journal: Journal) -> RunInfo | None:
    """The run that was created last."""
    runs = journal.runs()
    return runs[-1] if runs else None


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that this process holds.

    notes    what a person should know of how it began
    changed  its prompts or what they are asked are others than before
    """

    run: JournalRun
    plan: Plan
    prompts: AskedPrompts
    notes: tuple[str, ...]
    changed: bool = False


def refuse_unfinished(journal: Journal, directory: Path) -> None:
    """Raise UsageError where a run is unfinished: what it has, was paid for."""
    last = latest(journal)
    if last is not None and checkpoint.exists(directory):
        done = last.items - last.pending
        raise UsageError(
            f"run {last.run_id} in {directory} is unfinished: {done} of {last.items} samples "
            "are recorded",
            hint=f"go on with --resume, or delete {directory / checkpoint.NAME} to start afresh",
        )


def to_resume(journal: Journal, directory: Path) -> tuple[RunInfo | None, str]:
    """The run that --resume means, and a note where there is none."""
    last = latest(journal)
    if last is None:
        return None, "nothing to resume: a fresh start"
    if last.state != "done" and not checkpoint.exists(directory):
        return None, (
            f"{checkpoint.NAME} is gone: a fresh start; run {last.run_id} stays in the journal"
        )
    return last, ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A fresh run's prompts and plan, before its journal entry exists."""

    plan: Plan
    prompts: AskedPrompts
    directory: Path

    def discard(self) -> None:
        """Remove what was written."""
        self.prompts.close()
        with suppress(OSError):
            prompts_path(self.directory, self.plan.run_id).unlink(missing_ok=True)


def prepare(
    directory: Path, config: ExperimentConfig, raw: dict[str, Any], source: Path
) -> Prepared:
    """Read the prompts, choose the subset and keep it; raises InputError for malformed ones."""
    run_id = secrets.token_hex(4)
    digest = file_sha256(source)
    target = prompts_path(directory, run_id)
    chosen, total = copy_prompts(source, target, config.num_prompts, config.seed)
    plan = Plan(
        run_id=run_id,
        config=raw,
        prompts_file=str(source),
        prompts_sha256=digest,
        num_prompts=chosen,
        total_prompts=total,
        started=timestamp(datetime.now()),
    )
    return Prepared(plan, AskedPrompts(target), directory)


def begin(journal: Journal, config: ExperimentConfig, prepared: Prepared) -> Taken:
    """Enter a fresh run into the journal, with all its samples, and hold it."""
    plan, prompts, directory = prepared.plan, prepared.prompts, prepared.directory
    write_plan(directory, plan)
    run = journal.create_run(
        "experiment", config=asked(config), items=items(config, prompts), run_id=plan.run_id
    )
    try:
        checkpoint.write(directory, [])
    except BaseException:
        run.close()
        raise
    return Taken(run, plan, prompts, ())


def resume(
    journal: Journal,
    directory: Path,
    config: ExperimentConfig,
    raw: dict[str, Any],
    source: Path,
    run_id: str,
    *,
    accept_changes: bool,
) -> Taken:
    """Hold a run again; raises RunChangedError that shows what differs, unless accepted."""
    plan = read_plan(directory, run_id)
    target = prompts_path(directory, run_id)
    old = plan.parsed()
    digest = file_sha256(source)
    notes = describe(plan, raw)
    changed = digest != plan.prompts_sha256 or asked(config) != asked(old)
    if not changed:
        run = journal.resume_run(run_id, config=asked(config), items=None)
    else:
        following = target.with_name(f".next.{target.name}")
        chosen, total = copy_prompts(source, following, config.num_prompts, config.seed)
        new = AskedPrompts(following)
        try:
            relabelled = _relabelled(target, new)
            run = journal.resume_run(
                run_id,
                config=asked(config),
                items=items(config, new),
                accept_changes=accept_changes,
            )
        except RunChangedError as error:
            following.unlink(missing_ok=True)
            # Items that differ follow from a changed question; alone, they are changed prompts.
            found = differences(asked(old), asked(config)) or list(error.changes)
            raise _changed(found + relabelled) from None
        except BaseException:
            following.unlink(missing_ok=True)
            raise
        finally:
            new.close()
        if relabelled and not accept_changes:
            run.close()
            following.unlink(missing_ok=True)
            raise _changed(relabelled)
        notes += relabelled[:LISTED]
        following.replace(target)
        plan = msgspec.structs.replace(
            plan,
            prompts_file=str(source),
            prompts_sha256=digest,
            num_prompts=chosen,
            total_prompts=total,
        )
    try:
        plan = msgspec.structs.replace(plan, config=raw, resumed=True)
        write_plan(directory, plan)
        return Taken(run, plan, AskedPrompts(target), tuple(notes), changed)
    except BaseException:
        run.close()
        raise


def _relabelled(before: Path, prompts: AskedPrompts) -> list[str]:
    """Prompts whose text is the same and whose category, labels or other fields are not."""
    old = AskedPrompts(before)
    lines = []
    try:
        for prompt in prompts:
            try:
                known = old[prompt.id].to_dict()
            except KeyError:
                continue
            fields = prompt.to_dict()
            other = [n for n in dict.fromkeys([*known, *fields]) if known.get(n) != fields.get(n)]
            if other and "prompt" not in other:
                lines.append(f"prompt '{prompt.id}': {', '.join(other)} differs")
    finally:
        old.close()
    return lines


def _changed(changes: list[str]) -> RunChangedError:
    """The journal's refusal in the words of the configuration and the prompts."""
    more = [f"and {len(changes) - LISTED} more"] if len(changes) > LISTED else []
    return RunChangedError(
        f"the run was asked for something else: {'; '.join(changes[:LISTED] + more)}",
        changes=tuple(changes),
        hint="go on with --accept-changes, which asks what changed anew, or give another "
        "directory with --output",
    )
