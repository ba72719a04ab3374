"""A run from its configuration to its result files: what `interlock experiment run` does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from interlock.experiment import checkpoint, directory
from interlock.experiment.answers import Sample
from interlock.experiment.config import ExperimentConfig, expand, parse_config
from interlock.experiment.estimate import Estimate, SoFar, estimate, so_far
from interlock.experiment.executor import ChatExecutor, Lane, Mailbox, deal
from interlock.experiment.export import export_run
from interlock.experiment.lane_async import AsyncLane
from interlock.experiment.lane_batch import RunnerLane
from interlock.experiment.lanes import Lanes, build
from interlock.experiment.ledger import Ledger
from interlock.experiment.plan import Variant, request, split_key
from interlock.experiment.prices import PriceTable
from interlock.experiment.progress import Display, Quiet, open_display
from interlock.experiment.start import AS_GIVEN, Runner, RunOptions, Start
from interlock.kernel.drive import drive
from interlock.kernel.errors import BudgetError, ConfigError, InterlockError, InterruptedRunError
from interlock.kernel.journal import JournalRun
from interlock.kernel.outcome import Outcome, Status

__all__ = ["DEFAULT_OUTPUT", "RunOptions", "RunReport", "Runner", "run_experiment"]

DEFAULT_OUTPUT = "results/pilot"
GRACE = 30.0
"""Seconds that calls in flight get to end after a request to stop: they are paid for already."""

# A sample that was given back unasked is no crash, however often it happens.
_NEVER = 1 << 60


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run came to.

    counts                samples of the whole run by status
    recorded, sent        samples of this start; sent counts those too that did not end in it
    seconds               of this start, from its first sample to its last
    spent, uncertain      US dollars of the whole run, as in `Spending`
    possibly_billed_twice samples that were on the wire when an earlier start was cut off
    files                 the result files, the combined one last
    """

    run_id: str
    directory: Path
    samples: int
    counts: Mapping[str, int]
    recorded: int
    sent: int
    seconds: float
    spent: float
    uncertain: float
    possibly_billed_twice: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether every sample has an answer that can be used."""
        usable = self.counts.get("accepted", 0) + self.counts.get("flagged", 0)
        return usable == self.samples


def run_experiment(
    raw: Mapping[str, Any],
    *,
    options: RunOptions = AS_GIVEN,
    display: Callable[..., Display] | None = open_display,
    stop: threading.Event | None = None,
    runners: Callable[[Variant], Runner | None] = lambda variant: None,
    on_result: Callable[[str, Outcome[Any]], None] | None = None,
    base: Path | None = None,
) -> RunReport:
    """Ask everything that `raw` says, and record each answer once. Paths are those of `base`.

    display    makes what shows the progress, None for nothing
    stop       set it to stop as by Ctrl-C; otherwise see `interlock.kernel.drive`
    runners    gives a callable that asks the samples of a variant, None for its provider
    on_result  called with each key and outcome after it was recorded

    Raises ConfigError and InputError before anything is sent; InterruptedRunError, BudgetError and
    the error of an account that answers no more (AuthenticationError, QuotaError) with the run
    left to be resumed.
    """
    base = Path.cwd() if base is None else base
    config = parse_config(raw)
    if config.prompts_file is None:
        raise ConfigError("config: prompts_file is missing", hint="give it, or use --prompts")
    source = base / expand(config.prompts_file, "prompts_file")
    where = base / expand(config.output_dir or DEFAULT_OUTPUT, "output_dir")
    prices = PriceTable(_prices_path(config, options, base))
    with ExitStack() as stack:
        journal = stack.enter_context(directory.held(where))
        start = Start(journal, where, config, dict(raw), source, options, prices, runners, base)
        taken = start.take(stack)
        stack.callback(taken.run.close)
        stack.callback(taken.prompts.close)
        run = _Run(start, taken)
        return run.go(stack, display, stop, on_result)


def _prices_path(config: ExperimentConfig, options: RunOptions, base: Path) -> Path | None:
    if options.prices is not None:
        return options.prices
    if config.prices_file is None:
        return None
    return base / expand(config.prices_file, "prices_file")


class _Run:
    """One start of a run that is held."""

    def __init__(self, start: Start, taken: directory.Taken) -> None:
        self.start = start
        self.taken = taken
        self.run = taken.run
        self.config = start.config
        self.labels = [variant.label for variant in start.variants]
        self.by_label = dict(zip(self.labels, start.variants, strict=True))
        self.totals = dict.fromkeys(self.labels, len(taken.prompts) * self.config.samples)
        self.ledger = Ledger(self.config.budget_usd)
        self.notes = [*start.notes, *taken.notes]
        self.billed_twice: tuple[str, ...] = ()
        self.estimates: tuple[Estimate, ...] = ()

    def go(
        self,
        stack: ExitStack,
        display: Callable[..., Display] | None,
        stop: threading.Event | None,
        on_result: Callable[[str, Outcome[Any]], None] | None,
    ) -> RunReport:
        """Ask what is pending, then write the result files."""
        if self.start.options.retry_failed:
            self._ask_failed_again()
        before = so_far(self._stored(), self.labels)
        # What was withdrawn was paid for all the same.
        gone = so_far(
            ((key, outcome) for key, _, outcome in self.run.withdrawn() if outcome is not None), ()
        )
        before.spent += gone.spent
        before.uncertain += gone.uncertain
        pending = sum(self.totals.values()) - sum(before.done.values())
        recorded = sent = 0
        seconds = 0.0
        if pending:
            self.start.look(stack)
        self._enter(before, tell=pending > 0)
        if pending:
            shown: Display = Quiet()
            if display is not None:
                shown = display(
                    self.start.variants,
                    totals=self.totals,
                    done=before.done,
                    ledger=self.ledger,
                    samples=self.config.samples,
                )
                stack.callback(shown.close)
            for note in dict.fromkeys([*self.notes, *self.start.notes]):
                shown.note(note)
            summary = self._drive(shown, before, stop or threading.Event(), on_result)
            recorded, sent, seconds = summary
        elif self.taken.changed or self.start.journal.info(self.run.run_id).state != "done":
            # Killed after its last answer: without a checkpoint it would be started afresh. And
            # result files are named by when the run ended: those of other prompts must stay.
            self.run.finish("done")
        files: list[Path] = []
        if self.start.options.export:
            files = export_run(self.start.journal, self.taken.plan, self.start.where)
        checkpoint.remove(self.start.where)
        money = self.ledger.read()
        return RunReport(
            run_id=self.run.run_id,
            directory=self.start.where,
            samples=sum(self.totals.values()),
            counts={status.value: count for status, count in self.run.counts().items()},
            recorded=recorded,
            sent=sent,
            seconds=seconds,
            spent=money.spent,
            uncertain=money.uncertain,
            possibly_billed_twice=self.billed_twice,
            estimates=self.estimates,
            notes=tuple(dict.fromkeys([*self.notes, *self.start.notes])),
            files=tuple(files),
        )

    def _stored(self) -> Iterator[tuple[str, bytes]]:
        return self.start.journal.stored(self.run.run_id)

    def _ask_failed_again(self) -> None:
        failed = [
            key
            for key, outcome in self.start.journal.outcomes(self.run.run_id)
            if outcome.status is Status.FAILED
        ]
        if failed:
            checkpoint.write(self.start.where, [])
            self.run.ask_again(failed, f"{len(failed)} failed samples asked again")
            self.notes.append(f"{len(failed)} failed samples are asked again")

    def _enter(self, before: SoFar, *, tell: bool) -> None:
        """Estimate the cost, and enter what earlier starts spent or may have spent.

        `tell` puts the estimate among the notes.
        """
        variants = self.start.variants
        prices = [self.start.price(variant) for variant in variants]
        found = estimate(variants, prices, self.taken.prompts, self.config.samples)
        self.estimates = tuple(found)
        worst = {each.label: each.sample or 0.0 for each in found}
        cut_off = self.run.unanswered_attempts()
        paid = {key: n for key, n in cut_off.items() if worst.get(split_key(key)[0], 0.0) > 0}
        unpriced = {v.label for v, price in zip(variants, prices, strict=True) if price is None}
        uncertain = sum(n * worst[split_key(key)[0]] for key, n in paid.items())
        # The price of a variant that was removed is not at hand; no sample here costs more.
        most = max(worst.values(), default=0.0)
        uncertain += sum(
            n * worst.get(split_key(key)[0], most) for key, n, _ in self.run.withdrawn()
        )
        self.ledger.spend(before.spent, before.uncertain + uncertain)
        perhaps = [k for k in cut_off if k in paid or split_key(k)[0] in unpriced]
        self.billed_twice = tuple(perhaps)
        if perhaps:
            shown = ", ".join(perhaps[:5]) + (", …" if len(perhaps) > 5 else "")
            self.notes.append(f"possibly billed twice ({len(perhaps)} samples): {shown}")
        known = [each.expected for each in found if each.expected is not None]
        if tell and any(known):
            limit = sum(each.worst or 0.0 for each in found)
            self.notes.append(
                f"estimate: ${sum(known):.4f} for the whole run, ${limit:.4f} at most, by prices "
                f"of {', '.join(sorted(set(self.start.prices.as_of.values())))}"
            )

    def _drive(
        self,
        shown: Display,
        before: SoFar,
        stop: threading.Event,
        on_result: Callable[[str, Outcome[Any]], None] | None,
    ) -> tuple[int, int, float]:
        mailbox = Mailbox()
        lanes = self._lanes(mailbox)
        shortage: list[InterlockError] = []

        def starved() -> None:
            reasons = [self._closed(lanes.by_label[label]) for label in executor.starved()]
            shortage.extend(reason for reason in reasons if reason is not None)
            if shortage:
                stop.set()

        executor = ChatExecutor(lanes.by_label, mailbox, on_note=shown.note, on_starved=starved)
        sources = {label: self.run.pending(f"{label}|") for label in self.labels}
        log = _Log(self.run, executor, deal(executor, sources))
        done = dict(before.done)
        completed = [label for label in self.labels if done[label] == self.totals[label]]
        # Also for a finished run that has more to ask: without it, --resume would start afresh.
        checkpoint.write(self.start.where, completed)

        def tell(key: str, outcome: Outcome[Any]) -> None:
            shown.result(key, outcome)
            label = key.partition("|")[0]
            done[label] += 1
            if done[label] == self.totals[label]:
                completed.append(label)
                checkpoint.write(self.start.where, completed)
            if on_result is not None:
                on_result(key, outcome)

        try:
            if not executor.capacity and shortage:
                # A budget that is used up already lets nothing begin.
                raise shortage[0]
            summary = drive(
                log,
                self._sample,
                executor,
                max_crashes=_NEVER,
                progress=shown,
                stop=stop,
                grace=GRACE,
                on_result=tell,
            )
        except InterruptedRunError:
            if shortage:
                raise shortage[0] from None
            raise
        except BaseException:
            executor.cancel()
            raise
        finally:
            lanes.close()
        return summary.recorded, summary.sent, summary.seconds

    def _lanes(self, mailbox: Mailbox) -> Lanes:
        loop = self.start.loop
        assert loop is not None
        asked = [v for v in self.start.variants if v.label not in self.start.runners]
        worst = {each.label: each.sample or 0.0 for each in self.estimates}
        lanes = build(self.config, asked, self.start.found, loop, mailbox, self.ledger, worst=worst)
        own: dict[str, Lane] = {
            label: RunnerLane(runner, mailbox, ledger=self.ledger)
            for label, runner in self.start.runners.items()
        }
        # In the order of the configuration, which is the order of their turns.
        both = dict(lanes.by_label) | own
        lanes.by_label = {label: both[label] for label in self.labels}
        return lanes

    def _closed(self, lane: Lane) -> InterlockError | None:
        if isinstance(lane, RunnerLane) and self.ledger.used_up:
            money = self.ledger.read()
            return BudgetError(
                f"run '{self.run.run_id}' stopped at its budget of ${self.ledger.budget or 0:g}: "
                f"${money.spent:.4f} spent, ${money.uncertain:.4f} uncertain"
            )
        if not isinstance(lane, AsyncLane):
            return None
        if lane.account.hopeless is not None:
            return lane.account.hopeless
        if lane.worst and self.ledger.room(lane.worst) < 1:
            money = self.ledger.read()
            return BudgetError(
                f"run '{self.run.run_id}' stopped before its budget of "
                f"${self.ledger.budget or 0:g}: ${money.spent:.4f} spent, ${money.uncertain:.4f} "
                f"uncertain, and the next sample may cost ${lane.worst:.4f}"
            )
        return None

    def _sample(self, key: str) -> Sample:
        label, prompt_id, index = split_key(key)
        variant = self.by_label[label]
        prompt = self.taken.prompts[prompt_id]
        return Sample(
            variant=variant,
            prompt=prompt,
            index=index,
            request=request(variant, prompt, index, self.config.seed),
            seed=self.config.seed,
            run_id=self.run.run_id,
        )


class _Log:
    """The run's record as the driver sees it: its pending keys come as lanes have room."""

    def __init__(self, run: JournalRun, executor: ChatExecutor, keys: Iterator[str]) -> None:
        self.run_id = run.run_id
        self._run = run
        self._executor = executor
        self._keys = keys

    def pending(self) -> Iterator[str]:
        return self._keys

    def begin(self, keys: Sequence[str]) -> None:
        self._run.begin(keys)

    def record(self, results: Sequence[tuple[str, Outcome[Any]]]) -> None:
        self._run.record(results)

    def finish(self, state: Literal["done", "interrupted"]) -> None:
        # What never left is no attempt, and must not be listed as perhaps billed.
        self._run.take_back(sorted(self._executor.unsent))
        self._run.finish(state)
