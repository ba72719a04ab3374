"""One run: the plan's nodes as items of a journal, driven stage by stage, resumed where it was cut.

The journal is the cache as well: an answer recorded under the same address, in any of its runs, is
taken over and not asked for again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from interlock.kernel.clock import SYSTEM_CLOCK, Clock
from interlock.kernel.drive import drive
from interlock.kernel.errors import RunChangedError
from interlock.kernel.executor import Executor
from interlock.kernel.journal import Item, Journal, JournalRun, RunInfo
from interlock.kernel.outcome import Outcome, Status, StepResult
from interlock.kernel.progress import SILENT, Progress
from interlock.kernel.task import Completed, Task
from interlock.summarize.asked import PROMPT_VERSION, Summary
from interlock.summarize.guards import EXTRACTIVE_GUARDS, MODEL_GUARDS
from interlock.summarize.plan import Node, Plan, digest_of, with_parts

RUN_NAME = "summarize"


@dataclass(frozen=True)
class Finished:
    """A run's outcomes by key, and what this start did of them.

    reused      keys whose answers were recorded before this start, or under the same address
    seconds     of this start
    efficiency  tokens a second with all workers / (workers that can run x tokens a second with
                one), where a baseline was asked for and both were measured
    """

    plan: Plan
    run_id: str
    outcomes: dict[str, Outcome[Any]]
    reused: frozenset[str]
    seconds: float
    efficiency: float | None = None

    def summary(self, key: str) -> Summary | None:
        """The summary of a node, or None where it has none."""
        return summary_of(self.outcomes[key])


def summary_of(outcome: Outcome[Any]) -> Summary | None:
    """The summary that an outcome of this route holds."""
    return None if outcome.value is None else msgspec.convert(outcome.value, Summary)


def run(
    plan: Plan,
    journal: Journal,
    executor: Executor,
    *,
    baseline: int = 0,
    cores: int = 1,
    progress: Callable[[int, int], AbstractContextManager[Progress]] | None = None,
    stop: threading.Event | None = None,
    grace: float = 10.0,
    clock: Clock = SYSTEM_CLOCK,
    on_result: Callable[[str, Outcome[Any]], None] | None = None,
) -> Finished:
    """Make every summary of the plan that is not there yet; `executor` runs a `Summarizer`.

    baseline   so many chunks are summarised one at a time first, to measure the efficiency of the
               rest, which use `cores`
    progress   opens what is told of each one: called with how many there are and are done
    on_result  called with each key and outcome once it is recorded

    Raises InterruptedRunError where it was stopped, StorageError where the journal cannot be
    written; what was recorded stays, and the same call goes on from there.
    """
    started = clock.monotonic()
    with _open(plan, journal) as record:
        known = dict(journal.outcomes(record.run_id))
        taken = _take_over(plan, journal, record, known)
        known |= taken
        reused = frozenset(known)
        keys = list(plan.nodes)
        opened = nullcontext(SILENT) if progress is None else progress(len(keys), len(known))
        with opened as shown:
            start = _Pass(plan, record, executor, known, shown, stop, grace, clock, on_result)
            efficiency = start.stages(baseline, cores)
        return Finished(
            plan,
            record.run_id,
            {key: known[key] for key in keys},
            reused,
            clock.monotonic() - started,
            efficiency,
        )


def clean(outcome: Outcome[Any]) -> bool:
    """Whether asking again would give the same: every step that gave no answer was judged by its
    guards, or had nothing to work on. An engine that failed may do better the next time.
    """
    if outcome.status is Status.FAILED:
        return False
    transient = (StepResult.ERROR, StepResult.OVER_TIME)
    return all(step.result not in transient for step in outcome.steps)


def newest(journal: Journal) -> RunInfo | None:
    """The journal's latest run of summaries, which the next one goes on with where it can."""
    runs = [info for info in journal.runs() if info.name == RUN_NAME]
    return runs[-1] if runs else None


def pending_nodes(plan: Plan, journal: Journal) -> list[Node]:
    """The nodes that a run would ask for: those without a clean answer under their address."""
    recorded = journal.recorded(node.address for node in plan.nodes.values())
    usable = _usable(plan, recorded)
    return [node for node in plan.nodes.values() if node.key not in usable]


def _open(plan: Plan, journal: Journal) -> JournalRun:
    """The newest run, where it was asked for the same, and holds nothing that an engine failed at
    and no summary that cannot stand; else a new one, which takes over what is clean.

    Raises RunLockedError where another process is at work on the newest.
    """
    config = _config(plan)
    items = [Item(node.key, digest=node.address) for node in plan.nodes.values()]
    last = newest(journal)
    if last is not None:
        recorded = dict(journal.outcomes(last.run_id))
        goes_on = all(map(clean, recorded.values())) and _all_stand(plan, recorded)
        # One that is held is asked for whatever it holds, so that no second one begins beside it.
        if goes_on or last.state == "running":
            try:
                return journal.resume_run(last.run_id, config=config, items=items)
            except RunChangedError:
                pass
    return journal.create_run(RUN_NAME, config=config, items=items)


def _config(plan: Plan) -> dict[str, Any]:
    options = plan.options
    return {
        "model": digest_of(plan.models.default),
        "models": {language: model.digest for language, model in plan.models.by_language.items()},
        "chunks": options.chunks,
        "chunk_lines": options.chunk_lines,
        "input": options.view,
        "budget": plan.budget.tokens,
        "seed": options.seed,
        "prompt": PROMPT_VERSION,
    }


def _take_over(
    plan: Plan, journal: Journal, record: JournalRun, known: dict[str, Outcome[Any]]
) -> dict[str, Outcome[Any]]:
    """Record answers that other runs hold under the same addresses."""
    missing = [node for node in plan.nodes.values() if node.key not in known]
    if not missing:
        return {}
    recorded = journal.recorded(node.address for node in plan.nodes.values())
    usable = _usable(plan, recorded)
    taken = [(node.key, recorded[node.address]) for node in missing if node.key in usable]
    if taken:
        record.record(taken)
    return dict(taken)


def _usable(plan: Plan, recorded: dict[str, Outcome[Any]]) -> set[str]:
    """Keys of nodes with a clean answer that its guards let stand, whose parts have one too.

    A parent's address tells what its parts were asked, not what they answered: one that was made
    while a part failed must be made again with the part. The guards look again, as a journal may
    have been written by anybody.
    """
    usable: set[str] = set()
    known: dict[str, Outcome[Any]] = {}
    for node in plan.nodes.values():
        outcome = recorded.get(node.address)
        if outcome is None or not clean(outcome) or not all(p in usable for p in node.parts):
            continue
        known[node.key] = outcome
        if _stands(plan, node, known):
            usable.add(node.key)
    return usable


def _all_stand(plan: Plan, known: dict[str, Outcome[Any]]) -> bool:
    """Whether the guards let every summary of a run stand that is of this plan."""
    nodes = [plan.nodes[key] for key in known if key in plan.nodes]
    return all(
        all(part in known for part in node.parts) and _stands(plan, node, known) for node in nodes
    )


def _stands(plan: Plan, node: Node, known: dict[str, Outcome[Any]]) -> bool:
    """Whether the recorded summary passes the guards of who is said to have written it."""
    outcome = known[node.key]
    try:
        summary = summary_of(outcome)
    except msgspec.ValidationError:
        return False
    if summary is None:
        # What was refused holds nothing that could be wrong.
        return not outcome.status.usable
    if not outcome.steps:
        return False
    asked = _complete(plan, node, known)
    if asked.only is not None:
        # What stands for its only part was judged there.
        return bool(
            summary.text == asked.only.text
            and summary.origin == asked.only.origin
            and outcome.status is known[node.parts[0]].status
        )
    guards: tuple[Any, ...] = MODEL_GUARDS if summary.origin == "model" else EXTRACTIVE_GUARDS
    return all(guard.check(asked, summary).result is not StepResult.REFUSED for guard in guards)


class _Stage:
    """The part of a run's record that one stage may work on; the run ends with the last stage."""

    def __init__(self, record: JournalRun, keys: Sequence[str], *, last: bool) -> None:
        self.run_id = record.run_id
        self._record = record
        self._keys = keys
        self._last = last

    def pending(self) -> Iterator[str]:
        return iter(self._keys)

    def begin(self, keys: Sequence[str]) -> None:
        self._record.begin(keys)

    def record(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        self._record.record(results)

    def finish(self, state: Literal["done", "interrupted"]) -> None:
        if self._last or state == "interrupted":
            self._record.finish(state)


@dataclass(frozen=True)
class _Pass:
    """One start of a run: its stages one after the other, on one executor."""

    plan: Plan
    record: JournalRun
    executor: Executor
    known: dict[str, Outcome[Any]]
    shown: Progress
    stop: threading.Event | None
    grace: float
    clock: Clock
    on_result: Callable[[str, Outcome[Any]], None] | None

    def stages(self, baseline: int, cores: int) -> float | None:
        """Run what is missing; returns the efficiency, where it was measured."""
        efficiency = None
        stages = list(self.plan.stages())
        for number, stage in enumerate(stages, start=1):
            keys = [node.key for node in stage if node.key not in self.known]
            last = number == len(stages)
            if number == 1 and 0 < baseline < len(keys):
                alone = self._drive(keys[:baseline], _OneAtATime(self.executor), last=False)
                together = self._drive(keys[baseline:], self.executor, last=last)
                efficiency = together / (cores * alone) if alone and together else None
            elif keys or last:
                self._drive(keys, self.executor, last=last)
        return efficiency

    def _drive(self, keys: Sequence[str], executor: Executor, *, last: bool) -> float:
        """Run these; returns the tokens a second that the model read and wrote."""
        started = self.clock.monotonic()
        drive(
            _Stage(self.record, keys, last=last),
            self._load,
            executor,
            progress=self.shown,
            stop=self.stop,
            grace=self.grace,
            clock=self.clock,
            on_result=self._keep,
        )
        tokens = 0
        for key in keys:
            summary = summary_of(self.known[key])
            if summary is not None:
                tokens += summary.spent.input_tokens + summary.spent.output_tokens
        return tokens / max(self.clock.monotonic() - started, 1e-9)

    def _load(self, key: str) -> Any:
        return msgspec.to_builtins(_complete(self.plan, self.plan.nodes[key], self.known))

    def _keep(self, key: str, outcome: Outcome[Any]) -> None:
        self.known[key] = outcome
        if self.on_result is not None:
            self.on_result(key, outcome)


class _OneAtATime:
    """An executor that lets a single task in."""

    capacity = 1

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, task: Task) -> None:
        self._executor.submit(task)

    def completed(self, timeout: float | None) -> list[Completed]:
        return self._executor.completed(timeout)

    def cancel(self) -> None:
        self._executor.cancel()

    def close(self) -> None:
        self._executor.close()


def _complete(plan: Plan, node: Node, known: dict[str, Outcome[Any]]) -> Any:
    """What to ask for a node, with the summaries of its parts."""
    if not node.parts:
        return node.asked
    summaries = []
    for part in node.parts:
        found = summary_of(known[part])
        if found is not None:
            summaries.append((_label(plan.nodes[part]), found.text))
    only = summary_of(known[node.parts[0]]) if len(node.parts) == 1 else None
    if only is not None:
        first = known[node.parts[0]]
        flagged = first.status is Status.FLAGGED and first.steps
        only = msgspec.structs.replace(only, flagged=first.steps[-1].reason if flagged else "")
    return with_parts(node, summaries, plan.budget, only)


def _label(part: Node) -> str:
    if part.level == "chunk":
        first, last = part.sources[0].first, part.sources[-1].last
        return f"lines {first}-{last}" if len(part.sources) == 1 else ""
    return part.asked.name + ("/" if part.level == "folder" else "")
